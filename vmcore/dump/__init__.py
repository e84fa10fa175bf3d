"""RAM dumps of real machines: open one, find its root table, list what it maps, compare, and save one."""

from vmcore.dump.store import Dump, open_dump

__all__ = ["Dump", "open_dump"]
