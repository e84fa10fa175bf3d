"""Generations 6.9 and 6.16: nodes, each with pools of areas by size, before the tree of free blocks.

On 64 bit with several CPUs an area goes back to a pool of the node that allocated it, and the next request of its
size on a CPU of that node gets it from there. With one node only the order of a purge differs from 5.18: down,
area by area. The functions are those of mm/vmalloc.c: node_alloc, free_vmap_area_noflush, __purge_vmap_area_lazy,
purge_vmap_node and decay_va_pool_node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice, pairwise

from vmcore.placement.buckets import hold
from vmcore.placement.freeblocks import FreeBlocks, slack_above_page
from vmcore.placement.seam import Generation, Purged, Space, Span, clear_of, joined

MOST_NODES = 128
MOST_PAGES = 256  #: of an area that a pool keeps (MAX_VA_SIZE_PAGES)
ZONE_PAGES = 16  #: consecutive pages that belong to one node

NodeSpan = tuple[int, int, int | None]
"""First address, end and the node that allocated the area, None if none did."""


class Node:
    """One vmap node: its lazily freed areas and its pools, by pages. The top of a pool is its last element."""

    __slots__ = ("lazy", "pools")

    def __init__(self) -> None:
        self.lazy: list[NodeSpan] = []
        self.pools: dict[int, deque[Span]] = {}


def decay_small_whole(count: int) -> int:
    """Return how many areas of a pool decay, in 6.9 to 6.15.

    Pools of 1 to 3 areas lose all, because a counter of the kernel underflows.
    """
    return count // 4 or count


def decay_quarter(count: int) -> int:
    """Return how many areas of a pool decay, from 6.16 on."""
    return count // 4


class Pools(FreeBlocks):
    """Free blocks below nodes with pools."""

    def __init__(self, space: Space, decay: Callable[[int], int] = decay_quarter) -> None:
        self._decay_count = decay
        count = min(space.cpus, MOST_NODES) if space.word_bits == 64 else 1
        self._zone = (ZONE_PAGES if count > 1 else 1) * space.page_size
        self._nodes = [Node() for _ in range(count)]
        self._freed: dict[int, None] = {}  # addresses of lazily freed areas, in the order of freeing
        self._node_of: dict[int, int] = {}  # by address of an area in use, the node that allocated it
        super().__init__(space, promise=slack_above_page)

    def seed(self, busy: Iterable[Span], lazy: Iterable[Span]) -> None:
        """Begin with areas in use and lazily freed ones, and empty pools. See `Placement.seed`."""
        spans = list(lazy)
        super().seed(busy, spans)
        self._lazy = []
        self._node_of = {}
        self._freed = dict.fromkeys(start for start, _ in spans)
        for node in self._nodes:
            node.lazy, node.pools = [], {}
        for start, end in spans:
            self._nodes[start // self._zone % len(self._nodes)].lazy.append((start, end, None))

    def attempt(self, size: int, align: int, start: int, end: int, cpu: int = 0) -> int | None:
        """Take the space for a request, from a pool of the CPU's node if it is for the whole window.

        See `Placement.attempt`.
        """
        if len(self._nodes) == 1 or start != self.space.start or end != self.space.end:
            return super().attempt(size, align, start, end)
        k = cpu % len(self._nodes)
        pool = self._nodes[k].pools.get(size // self._page)
        if pool:
            at = pool.pop()
            if not at[0] & align - 1:
                self._node_of[at[0]] = k
                return at[0]
            pool.appendleft(at)  # the top goes to the bottom, and the tree serves
        address = super().attempt(size, align, start, end)
        if address is not None:
            self._node_of[address] = k
        return address

    def look(self, size: int, align: int, start: int, end: int, cpu: int = 0) -> int | None:
        """Return the address that `attempt` would take. See `Placement.look`."""
        if len(self._nodes) > 1 and start == self.space.start and end == self.space.end:
            pool = self._nodes[cpu % len(self._nodes)].pools.get(size // self._page)
            if pool and not pool[-1][0] & align - 1:
                return pool[-1][0]
        return super().look(size, align, start, end)

    def release(self, address: int, size: int, cpu: int = 0) -> bool:
        """Free an area lazily, to the node that allocated it. See `Placement.release`."""
        if self._doubtful:
            self.take(address, size, cpu)  # another area may hold a part of it
        remembered = self._node_of.pop(address, None)
        k = address // self._zone % len(self._nodes) if remembered is None else remembered
        self._nodes[k].lazy.append((address, address + size, remembered))
        self._freed[address] = None
        self.lazy_pages += size // self._page
        return self.lazy_pages > self.space.lazy_max

    def purge(self, *, everything: bool = False, only: int | None = None) -> Purged:
        """Give lazily freed areas back, to pools or to the tree. See `Placement.purge`."""
        taken = None if only is None or only >= len(self._freed) else set(islice(self._freed, only))
        self._freed = {} if taken is None else {at: None for at in self._freed if at not in taken}
        lists = []
        for node in self._nodes:
            self._decay(node, everything)
            lists.append(sorted(span for span in node.lazy if taken is None or span[0] in taken))
            node.lazy = [] if taken is None else [span for span in node.lazy if span[0] not in taken]
        self.lazy_pages -= sum(end - start for lazy in lists for start, end, _ in lazy) // self._page
        for node, lazy in zip(self._nodes, lists, strict=True):
            back = []
            for start, end, remembered in lazy:
                pages = (end - start) // self._page
                if remembered is not None and not everything and pages <= MOST_PAGES:
                    node.pools.setdefault(pages, deque()).append((start, end))
                else:
                    back.append((start, end))
            for start, end in reversed(back):
                self.blocks.give(start, end)
        starts = [lazy[0][0] for lazy in lists if lazy]
        if not starts:
            return Purged(0, 0, 0)
        return Purged(sum(map(len, lists)), min(starts), max(end for lazy in lists for _, end, _ in lazy[-1:]))

    def _decay(self, node: Node, everything: bool) -> None:
        """Give a part of each pool to the tree: the areas that were freed last."""
        out: list[Span] = []
        for pages in sorted(node.pools):
            pool = node.pools[pages]
            count = len(pool) if everything else self._decay_count(len(pool))
            out += [pool.pop() for _ in range(count)]
        for start, end in joined(out):
            self.blocks.give(start, end)

    def take(self, address: int, size: int, cpu: int = 0) -> bool:
        """Take space at a known address. See `Placement.take`."""
        end = address + size
        if super().take(address, size):
            return True
        for node in self._nodes:
            node.lazy = [
                (a, b, remembered) for s, e, remembered in node.lazy for a, b in clear_of([(s, e)], address, end)
            ]
            for pages, pool in node.pools.items():
                kept = deque(span for span in pool if span[1] <= address or span[0] >= end)
                for span in set(pool) - set(kept):
                    for rest in clear_of([span], address, end):
                        self.blocks.give(*rest)
                node.pools[pages] = kept
        self._freed = dict.fromkeys(s for node in self._nodes for s, _, _ in node.lazy)
        self.lazy_pages = sum(e - s for node in self._nodes for s, e, _ in node.lazy) // self._page
        return False

    def check(self) -> None:
        """Verify the invariants. See `Placement.check`."""
        self.blocks.check()
        lazy = [(s, e) for node in self._nodes for s, e, _ in node.lazy]
        pooled = [span for node in self._nodes for pool in node.pools.values() for span in pool]
        taken = sorted([*lazy, *pooled, *((b.start, b.end) for b in self.blocks)])
        hold(all(a[1] <= b[0] for a, b in pairwise(taken)), "free, lazy or pooled areas overlap")
        hold(self.lazy_pages == sum(e - s for s, e in lazy) // self._page, "lazy pages are miscounted")


GENERATIONS = (
    Generation(
        "6.9", partial(Pools, decay=decay_small_whole), "nodes with pools before the tree; small pools decay whole"
    ),
    Generation("6.16", Pools, "nodes with pools before the tree; a quarter of a pool decays"),
)  # fmt: skip
