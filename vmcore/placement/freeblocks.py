"""Generations 5.2, 5.11, 5.16 and 5.18: a tree of free blocks, and lazily freed areas.

| kernels | a subtree must promise | a purge gives back |
|---|---|---|
| 5.2 to 5.10 | size + align - 1 | one by one, the newest first |
| 5.11 to 5.15 | size + align - 1 | areas that touch joined, upwards |
| 5.16, 5.17 | size | the same |
| 5.18 to 6.8 | size; with an alignment above a page, size + align - 1 | the same |

The functions are those of mm/vmalloc.c: alloc_vmap_area, __alloc_vmap_area, va_clip, free_vmap_area_noflush,
__purge_vmap_area_lazy and pcpu_get_vm_areas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise

from vmcore.placement.blocktree import BlockTree
from vmcore.placement.buckets import hold
from vmcore.placement.redblack import Block
from vmcore.placement.seam import Generation, Purged, Space, Span, clear_of, holes, joined, up

Promise = Callable[[int, int, int, int], int]
"""From size, align, page size and bytes of the window to the bytes that a subtree must have in one block."""


def always_slack(size: int, align: int, page: int, window: int) -> int:
    """Return the bytes that a subtree must promise, in 5.2 to 5.15."""
    return size + align - 1


def no_slack(size: int, align: int, page: int, window: int) -> int:
    """Return the bytes that a subtree must promise, in 5.16 and 5.17."""
    return size


def slack_above_page(size: int, align: int, page: int, window: int) -> int:
    """Return the bytes that a subtree must promise, from 5.18 on (__alloc_vmap_area)."""
    return size if align <= page or window == size else size + align - 1


class FreeBlocks:
    """One tree of free blocks for the whole address space, not one per window."""

    def __init__(self, space: Space, promise: Promise = always_slack, newest_first: bool = False) -> None:
        self.space, self._promise, self._newest_first = space, promise, newest_first
        self._mask, self._page = space.mask, space.page_size
        self.lazy_pages = 0
        self._lazy: list[Span] = []
        self.blocks = BlockTree(space.word_bits)
        self.seed(space.early, ())

    def seed(self, busy: Iterable[Span], lazy: Iterable[Span]) -> None:
        """Begin with areas in use and lazily freed ones. See `Placement.seed`."""
        self._doubtful = False  # whether take() found an area in use
        self._lazy = list(lazy)
        self.lazy_pages = sum(end - start for start, end in self._lazy) // self._page
        self.blocks = BlockTree(self.space.word_bits)
        for start, end in holes(sorted([*busy, *self._lazy]), 1, self._mask):  # vmap_init_free_space
            self.blocks.give(start, end)

    def attempt(self, size: int, align: int, start: int, end: int, cpu: int = 0) -> int | None:
        """Take the space for a request. See `Placement.attempt`."""
        block, at = self._find(size, align, start, end)
        if block is None:
            return None
        self.blocks.clip(block, at, at + size)
        return at

    def look(self, size: int, align: int, start: int, end: int, cpu: int = 0) -> int | None:
        """Return the address that `attempt` would take. See `Placement.look`."""
        block, at = self._find(size, align, start, end)
        return None if block is None else at

    def _find(self, size: int, align: int, start: int, end: int) -> tuple[Block | None, int]:
        """Return the block that serves a request, and the address in it."""
        block = self.blocks.find(size, align, self._promise(size, align, self._page, end - start), start)
        if block is None:
            return None, 0
        at = up(max(block.start, start), align, self._mask)
        return (block, at) if at + size <= end else (None, 0)  # no other block is tried

    def release(self, address: int, size: int, cpu: int = 0) -> bool:
        """Free an area lazily. See `Placement.release`."""
        if self._doubtful:
            self.take(address, size, cpu)  # another area may hold a part of it
        self._lazy.append((address, address + size))
        self.lazy_pages += size // self._page
        return self.lazy_pages > self.space.lazy_max

    def purge(self, *, everything: bool = False, only: int | None = None) -> Purged:
        """Give lazily freed areas back. See `Placement.purge`."""
        count = len(self._lazy) if only is None else self._oldest(only)
        taken, self._lazy = self._lazy[:count], self._lazy[count:]
        self.lazy_pages = sum(end - start for start, end in self._lazy) // self._page
        back = taken[::-1] if self._newest_first else joined(taken)
        for start, end in back:
            self.blocks.give(start, end)
        if not back:
            return Purged(0, 0, 0)
        return Purged(len(back), min(s for s, _ in back), max(e for _, e in back))

    def _oldest(self, number: int) -> int:
        """Return how many of the areas that were freed first the kernel counts as ``number``."""
        count = len(self._lazy)
        if self._newest_first:
            return min(number, count)
        while count and len(joined(self._lazy[:count])) > number:
            count -= 1
        return count

    def percpu(self, offsets: Sequence[int], sizes: Sequence[int], align: int) -> int | None:
        """Take the space of a percpu chunk. See `Placement.percpu`."""
        base = percpu_base(self.blocks, self.space, offsets, sizes, align)
        if base is None:
            return None
        for offset, size in zip(offsets, sizes, strict=True):
            at = base + offset & self._mask
            block = self.blocks.covering(at)
            assert block is not None  # percpu_base() looked
            self.blocks.clip(block, at, at + size)
        return base

    def take(self, address: int, size: int, cpu: int = 0) -> bool:
        """Take space at a known address. See `Placement.take`."""
        end = address + size
        free = sum(e - s for s, e in self.blocks.carve(address, end)) == size
        if not free:
            self._doubtful = True
            self._lazy = clear_of(self._lazy, address, end)
            self.lazy_pages = sum(e - s for s, e in self._lazy) // self._page
        return free

    def free_bytes(self, start: int, end: int) -> int:
        """Return the free bytes of a stretch. See `Placement.free_bytes`."""
        return sum(stop - first for first, stop in self.blocks.within(start, end))

    def largest_hole(self, start: int, end: int) -> int:
        """Return the bytes of the largest free stretch. See `Placement.largest_hole`."""
        return max((stop - first for first, stop in self.blocks.within(start, end)), default=0)

    def check(self) -> None:
        """Verify the invariants. See `Placement.check`."""
        self.blocks.check()
        taken = sorted([*self._lazy, *((b.start, b.end) for b in self.blocks)])
        hold(all(a[1] <= b[0] for a, b in pairwise(taken)), "free and lazy areas overlap")
        hold(self.lazy_pages == sum(e - s for s, e in self._lazy) // self._page, "lazy pages are miscounted")


def percpu_base(
    blocks: BlockTree, space: Space, offsets: Sequence[int], sizes: Sequence[int], align: int
) -> int | None:
    """Find the base of a percpu chunk from the top of the window down (pcpu_get_vm_areas, Linux 5.3 and later).

    Args:
        blocks: the free blocks.
        space: of the machine.
        offsets: of the areas from the base, bytes.
        sizes: of the areas, bytes.
        align: of the base, bytes.

    Returns:
        The base, or None if nothing fits.
    """
    mask = space.mask
    high, low = space.end & -align, up(space.start, align, mask)

    def down(block: Block | None) -> tuple[Block | None, int]:
        """Return the first block from ``block`` down that has an aligned end above its start, and that end."""
        while block is not None:
            at = min(block.end & -align, high)
            if block.start < at:
                return block, at
            block = block.before
        return None, 0

    last = max(range(len(offsets)), key=offsets.__getitem__)
    area = turn = last
    start, end = offsets[area], offsets[area] + sizes[area]
    last_end = end
    block, at = down(blocks.covering(high))
    base = at - end & mask
    while True:
        if block is None or (base + last_end & mask) < (low + last_end & mask):
            return None
        if base + end > block.end:
            block, at = down(block)
        elif base + start < block.start:
            block, at = down(block.before)
        else:
            area = (area - 1) % len(offsets)
            if area == turn:
                return base
            start, end = offsets[area], offsets[area] + sizes[area]
            block = blocks.covering(base + end & mask)
            continue
        base, turn = at - end & mask, area


GENERATIONS = (
    Generation("5.2", partial(FreeBlocks, newest_first=True),
               "a tree of free blocks, always size + align - 1; a purge gives back the newest first"),
    Generation("5.11", FreeBlocks,
               "a tree of free blocks, always size + align - 1; a purge joins areas that touch"),
    Generation("5.16", partial(FreeBlocks, promise=no_slack), "a tree of free blocks, the lowest fit"),
    Generation("5.18", partial(FreeBlocks, promise=slack_above_page),
               "a tree of free blocks; size + align - 1 for alignments above a page"),
)  # fmt: skip
