"""RAM dumps of real machines: open one, find its root table, list its mappings, compare, and save one."""

from vmcore.dump.open import open_dump
from vmcore.dump.store import Dump

__all__ = ["Dump", "open_dump"]
