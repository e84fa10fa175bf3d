"""Select a machine, load the plugins, and link the symbols and events of the machine."""
