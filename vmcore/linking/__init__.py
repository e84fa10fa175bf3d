"""From a selection to a linked machine: the selection, the plugins, and the symbols and events of one machine."""
