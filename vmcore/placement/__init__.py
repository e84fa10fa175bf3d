"""Where an area goes: the choice of an address."""
