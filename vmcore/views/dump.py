"""Show which dump a result is of."""

from __future__ import annotations

from vmcore.dump.rooted import RootedDump


def headline(source: RootedDump) -> str:
    """Return the first line: the dump, the record that reads it, and the root."""
    how = ", the sample's record" if source.by_sample else ""
    return f"{source.dump.name} as {source.arch.name}{how}, root {source.root.address:#x} ({source.root.how})"
