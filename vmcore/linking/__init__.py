"""What runs on what: the selection, the plugins, and the symbols and events of one machine."""
