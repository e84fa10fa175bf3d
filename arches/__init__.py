"""The built-in architectures, imported as ``vmcore_arches``; they arrive like anybody else's."""
