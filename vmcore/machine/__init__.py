"""The machine: its parts, connected."""
