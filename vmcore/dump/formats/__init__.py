"""The formats of RAM dumps, one a module."""
