"""Generations 2.6.28, 2.6.39 and 3.0: a tree of areas in use, and lazily freed areas that stay in it.

| kernels | the search begins at | a hole must be | behind an area |
|---|---|---|---|
| 2.6.28 to 2.6.38 | the start of the window | as large as the request | one more page stays free |
| 2.6.39 | the area placed last, if it may | a byte larger | one more page stays free |
| 3.0 to 5.1 | the area placed last, if it may | as large as the request | |

The functions are those of mm/vmalloc.c, Linux 4.19: alloc_vmap_area, __free_vmap_area, __purge_vmap_area_lazy and
pcpu_get_vm_areas. Only the order of the areas matters, not the shape of the kernel's tree. Therefore they are kept
in buckets that know their widest gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

from vmcore.placement.buckets import AreaBuckets, Position, hold
from vmcore.placement.seam import Generation, Purged, Space, Span, clear_of, holes, up


class SpacedAreas(AreaBuckets[int]):
    """Areas in address order, each with the bytes that stay free behind it. An item is the area's first address.

    The page behind an area may belong to the next area, too. Then the last area of one bucket reaches into the
    next bucket.
    """

    def __init__(self, word_bits: int, page_shift: int, gap: int) -> None:
        super().__init__(word_bits, page_shift)
        self._gap = gap

    def add(self, start: int, end: int) -> None:
        """Insert an area."""
        self.insert(self.first_above(start), start, end + self._gap, start)

    def first_above(self, address: int) -> Position:
        """Return the first area that ends above an address."""
        return self.locate(address + self._gap)

    def locate(self, x: int) -> Position:
        """Return the first area that ends above an address with the bytes behind it."""
        position = super().locate(x)
        before = self.before(position) if self._gap and not position[1] else None
        return before if before is not None and self.end_before(position) > x else position

    def end_of(self, position: Position) -> int:
        """Return the end of the area at a position."""
        return self.buckets[position[0]].ends[position[1]] - self._gap

    def before(self, position: Position) -> Position | None:
        """Return the position in front of another one, which may be the end of the list."""
        b, i = position
        if i:
            return b, i - 1
        return (b - 1, len(self.buckets[b - 1].ends) - 1) if b else None

    def within(self, start: int, end: int) -> Iterator[Span]:
        """Yield the areas that lie in a stretch, in address order."""
        at = self.first_above(start)
        while (address := self.addr_at(at)) is not None and address < end:
            yield address, self.end_of(at)
            at = self.settle(at[0], at[1] + 1)


class BusyTree:
    """Areas in use and lazily freed ones, each with the pages that stay free behind it.

    The cache is the place at which the next search begins: an area, the largest hole in front of it that was
    seen, and the start and the alignment of the last request.
    """

    def __init__(self, space: Space, caching: bool = True, gap_pages: int = 0, slip: int = 0) -> None:
        self.space, self._caching, self._slip = space, caching, slip
        self._mask, self._page, self._gap = space.mask, space.page_size, gap_pages * space.page_size
        self.seed(space.early, ())

    def seed(self, busy: Iterable[Span], lazy: Iterable[Span]) -> None:
        """Begin with areas in use and lazily freed ones. See `Placement.seed`."""
        self._doubtful = False  # whether take() found an area in use
        self._lazy = list(lazy)
        self.lazy_pages = sum(end - start for start, end in self._lazy) // self._page
        self._areas = SpacedAreas(self.space.word_bits, self._page.bit_length() - 1, self._gap)
        self._cache: int | None = None  # address of an area
        self._hole = self._cached_start = self._cached_align = 0
        self._percpu_hole = self.space.end
        for start, end in sorted([*busy, *self._lazy]):
            self._areas.add(start, end)

    # ---- requests

    def attempt(self, size: int, align: int, start: int, end: int, cpu: int = 0) -> int | None:
        """Take the space for a request. See `Placement.attempt`."""
        found = self._find(size, align, start, end)
        if found is None:
            return None
        self._areas.insert(found[0], found[1], found[1] + size + self._gap, found[1])
        if self._caching:
            self._cache = found[1]
        return found[1]

    def look(self, size: int, align: int, start: int, end: int, cpu: int = 0) -> int | None:
        """Return the address that `attempt` would take. See `Placement.look`."""
        cached = self._cache, self._hole, self._cached_start, self._cached_align
        found = self._find(size, align, start, end)
        self._cache, self._hole, self._cached_start, self._cached_align = cached
        return None if found is None else found[1]

    def _find(self, size: int, align: int, start: int, end: int) -> tuple[Position, int] | None:
        """Return where a request goes: the area behind it, and the address."""
        position, address = self._begin(size, align, start)
        if address + size > end:
            return None
        return self._search(position, address, size, align, end)

    def _begin(self, size: int, align: int, start: int) -> tuple[Position, int]:
        """Return the area at which the search begins and the first candidate."""
        areas = self._areas
        if self._caching:
            if (
                self._cache is None
                or size < self._hole
                or start < self._cached_start
                or align < self._cached_align
            ):
                self._hole, self._cache = 0, None
            self._cached_start, self._cached_align = start, align
            if self._cache is not None:
                b, i = self._areas.first_above(self._cache)
                address = up(areas.buckets[b].ends[i], align, self._mask)
                if address >= start:
                    return areas.settle(b, i + 1), address
                self._hole, self._cache = 0, None
        address = up(start, align, self._mask)
        return self._areas.locate(address), address

    def _search(
        self, position: Position, address: int, size: int, align: int, end: int
    ) -> tuple[Position, int] | None:
        """Find the first hole from a position on, and note the largest one that is passed over."""
        areas, first = self._areas, position
        ahead = areas.addr_at(position)
        if ahead is None or address + size + self._slip <= ahead:
            return position, address
        self._pass(ahead - address)
        following = areas.settle(position[0], position[1] + 1)
        last = self._areas.locate(end - size & -align)  # behind it candidates are above end - size
        fit = None
        if following <= last:
            fit = areas.first_fit(following, last[0], size + self._slip, align)
            if fit is None or fit > last:
                fit = last if areas.addr_at(last) is None else None
        stop = last if fit is None else fit
        if first < stop:
            passed = stop if fit is not None else areas.settle(stop[0], stop[1] + 1)
            self._pass(areas.widest_gap(first, passed, align))
        if fit is None:
            return None
        address = up(areas.end_before(fit), align, self._mask)
        return (fit, address) if address + size <= end else None

    def _pass(self, gap: int) -> None:
        if self._caching and gap > self._hole:
            self._hole = gap

    # ---- freeing

    def release(self, address: int, size: int, cpu: int = 0) -> bool:
        """Free an area lazily. See `Placement.release`."""
        if self._doubtful:
            self.take(address, size, cpu)  # another area may hold a part of it
        self._lazy.append((address, address + size))
        self.lazy_pages += size // self._page
        return self.lazy_pages > self.space.lazy_max

    def purge(self, *, everything: bool = False, only: int | None = None) -> Purged:
        """Give lazily freed areas back. See `Placement.purge`."""
        count = len(self._lazy) if only is None else only
        back, self._lazy = self._lazy[:count], self._lazy[count:]
        self.lazy_pages = sum(end - start for start, end in self._lazy) // self._page
        for start, end in back:
            self._remove(start, end)
        if not back:
            return Purged(0, 0, 0)
        return Purged(len(back), min(s for s, _ in back), max(e for _, e in back))

    def _remove(self, start: int, end: int) -> None:
        """Take an area off the tree (__free_vmap_area)."""
        position = self._areas.first_above(start)
        if self._cache is not None:
            if end < self._cached_start:
                self._cache = None
            elif start <= self._cache:
                before = self._areas.before(position)
                self._cache = None if before is None else self._areas.buckets[before[0]].addrs[before[1]]
        self._areas.pop(position)
        if self.space.start < end <= self.space.end:
            self._percpu_hole = max(self._percpu_hole, end)

    def take(self, address: int, size: int, cpu: int = 0) -> bool:
        """Take space at a known address. See `Placement.take`."""
        end = address + size
        held = list(self._areas.within(address, end))
        for start, stop in held:
            self._remove(start, stop)
            for rest in clear_of([(start, stop)], address, end):
                self._areas.add(*rest)
        self._areas.add(address, end)
        if held:
            self._doubtful = True
            self._lazy = clear_of(self._lazy, address, end)
            self.lazy_pages = sum(e - s for s, e in self._lazy) // self._page
        return not held

    # ---- percpu chunks

    def percpu(self, offsets: Sequence[int], sizes: Sequence[int], align: int) -> int | None:
        """Take the space of a percpu chunk, from the last one down. See `Placement.percpu`."""
        base = self._percpu_base(offsets, sizes, align)
        if base is None:
            return None
        for offset, size in zip(offsets, sizes, strict=True):
            at = base + offset & self._mask
            self._areas.add(at, at + size)
        self._percpu_hole = base + max(offsets) & self._mask
        return base

    def _percpu_base(self, offsets: Sequence[int], sizes: Sequence[int], align: int) -> int | None:
        high, low, mask = self.space.end & -align, up(self.space.start, align, self._mask), self._mask
        last = max(range(len(offsets)), key=offsets.__getitem__)
        area = turn = last
        start, end = offsets[area], offsets[area] + sizes[area]
        last_end = end
        if not self._areas.count:
            return high - last_end & mask
        after = self._areas.first_above(self._percpu_hole)
        at, after = self._percpu_end(after, align, high)
        base = at - end & mask
        while True:
            if (base + last_end & mask) < (low + last_end & mask):
                return None
            ahead, before = self._areas.addr_at(after), self._areas.before(after)
            if ahead is not None and ahead < base + end:
                pass
            elif before is not None and self._areas.end_of(before) > base + start:
                after = before
            else:
                area = (area - 1) % len(offsets)
                if area == turn:
                    return base
                start, end = offsets[area], offsets[area] + sizes[area]
                after = self._areas.first_above(base + end & mask)
                continue
            at, after = self._percpu_end(after, align, high)
            base, turn = at - end & mask, area

    def _percpu_end(self, after: Position, align: int, high: int) -> tuple[int, Position]:
        """Return the highest aligned end below an area, and the first area that ends above that end."""
        ahead = self._areas.addr_at(after)
        at = high if ahead is None else min(ahead & -align, high)
        while (before := self._areas.before(after)) is not None and self._areas.end_of(before) > at:
            after = before
        return at, after

    # ---- measures

    def free_bytes(self, start: int, end: int) -> int:
        """Return the free bytes of a stretch. See `Placement.free_bytes`."""
        return sum(b - a for a, b in holes(self._areas.within(start, end), start, end))

    def largest_hole(self, start: int, end: int) -> int:
        """Return the bytes of the largest free stretch. See `Placement.largest_hole`."""
        return max((b - a for a, b in holes(self._areas.within(start, end), start, end)), default=0)

    def check(self) -> None:
        """Verify the invariants. See `Placement.check`."""
        self._areas.check()
        areas = [(start, end - self._gap) for start, end in self._areas.intervals()]
        hold(all(a[1] <= b[0] for a, b in pairwise(areas)), "two areas overlap")
        hold(set(self._lazy) <= set(areas), "a lazily freed area is not in the tree")
        hold(self.lazy_pages == sum(e - s for s, e in self._lazy) // self._page, "lazy pages are miscounted")
        hold(self._cache is None or self._cache in {s for s, _ in areas}, "the cached area is not in the tree")


GENERATIONS = (
    Generation(
        "2.6.28",
        partial(BusyTree, caching=False, gap_pages=1),
        "the lowest hole; a page more stays free behind each area",
    ),
    Generation(
        "2.6.39",
        partial(BusyTree, gap_pages=1, slip=1),
        "the lowest hole from a cached place on; it must be a byte larger",
    ),
    Generation("3.0", BusyTree, "the lowest hole from a cached place on"),
)
