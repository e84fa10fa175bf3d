"""Generation 2.6.23: vmlist, the list of areas in use. A freed area is free at once.

This is the list of the port, behind the seam. Its quirks stay: the end of the window is checked late, and sizes
wrap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vmcore.placement.arealist import AreaList, VmStruct
from vmcore.placement.seam import Generation, Purged, Space, Span, clear_of


class VmList:
    """vmlist as a placement. Nothing is lazy."""

    lazy_pages = 0

    def __init__(self, space: Space) -> None:
        self.space = space
        self.seed(space.early, ())

    def seed(self, busy: Iterable[Span], lazy: Iterable[Span]) -> None:
        """Begin with areas in use. Lazily freed ones are free here. See `Placement.seed`."""
        self._doubtful = False  # whether take() found an area in use
        self.areas = AreaList(self.space.word_bits, self.space.page_size.bit_length() - 1)
        for start, end in sorted(busy):
            self._insert(start, end)

    def _insert(self, start: int, end: int) -> None:
        found = self.areas.search(end - start, 1, start, self.space.mask)
        if found is None or found.addr != start:
            raise AssertionError(f"area list: {start:#x} to {end:#x} is not free")
        self.areas.insert(VmStruct(start, end - start, 0), found)

    def attempt(self, size: int, align: int, start: int, end: int, cpu: int = 0) -> int | None:
        """Take the space for a request. See `Placement.attempt`."""
        found = self.areas.search(size, align, start, end)
        if found is None:
            return None
        self.areas.insert(VmStruct(found.addr, size, 0), found)
        return found.addr

    def look(self, size: int, align: int, start: int, end: int, cpu: int = 0) -> int | None:
        """Return the address that `attempt` would take. See `Placement.look`."""
        found = self.areas.search(size, align, start, end)
        return None if found is None else found.addr

    def release(self, address: int, size: int, cpu: int = 0) -> bool:
        """Free an area at once. See `Placement.release`."""
        if self._doubtful:
            self.take(address, size, cpu)  # another area may hold a part of it
        area = self.areas.find(address)
        if area is not None:
            self.areas.remove(area)
        return False

    def purge(self, *, everything: bool = False, only: int | None = None) -> Purged:
        """Do nothing. See `Placement.purge`."""
        return Purged(0, 0, 0)

    def percpu(self, offsets: Sequence[int], sizes: Sequence[int], align: int) -> int | None:
        """Place a percpu chunk like one request for all of it, because 2.6.23 has none. See `Placement.percpu`."""
        first, size = min(offsets), max(o + s for o, s in zip(offsets, sizes, strict=True)) - min(offsets)
        found = self.areas.search(size, align, self.space.start, self.space.end)
        if found is None:
            return None
        for offset, part in zip(offsets, sizes, strict=True):
            at = found.addr + offset - first
            self._insert(at, at + part)
        return found.addr - first

    def take(self, address: int, size: int, cpu: int = 0) -> bool:
        """Take space at a known address. See `Placement.take`."""
        end, held = address + size, []
        for area in self.areas.from_address(address - self.space.page_size):
            if area.addr >= end:
                break
            if area.addr + area.size > address:
                held.append(area)
        for area in held:
            self.areas.remove(area)
            for rest in clear_of([(area.addr, area.addr + area.size)], address, end):
                self._insert(*rest)
        self._insert(address, end)
        self._doubtful = self._doubtful or bool(held)
        return not held

    def free_bytes(self, start: int, end: int) -> int:
        """Return the free bytes of a stretch. See `Placement.free_bytes`."""
        return self.areas.free_bytes(start, end)

    def largest_hole(self, start: int, end: int) -> int:
        """Return the bytes of the largest free stretch. See `Placement.largest_hole`."""
        return self.areas.largest_hole(start, end)

    def check(self) -> None:
        """Verify the invariants. See `Placement.check`."""
        self.areas.check()


GENERATIONS = (Generation("2.6.23", VmList, "the lowest hole of the list; a freed area is free at once"),)
