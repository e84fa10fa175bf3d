"""Real traces that ship with the package."""
