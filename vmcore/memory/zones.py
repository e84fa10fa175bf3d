"""The page allocator: zones on nodes, gfp fallback downward, last freed first reused.

The C code hands out frames one at a time. Here a request for many frames returns one array with the same frames in
the same order. Sources: include/linux/mmzone.h, gfp.h (gfp_zone), mm/page_alloc.c of 2.6.24.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from attrs import define, field

from vmcore.architecture import Architecture, Layout
from vmcore.errors import BrokenInvariant, ConfigurationError, OutOfMemory
from vmcore.flags import ANY_NODE, GFP, GFP_PGTABLE
from vmcore.memory.physical import PhysicalMemory, anonymous
from vmcore.units import Bank
from vmcore.wording import counted

NODES_MOST = 1 << 10  #: nodes; the largest CONFIG_NODES_SHIFT is 10
_DMA, _DMA32, _HIGHMEM = int(GFP.DMA), int(GFP.DMA32), int(GFP.HIGHMEM)
_MOVABLE, _ZERO, _THISNODE = int(GFP.MOVABLE), int(GFP.ZERO), int(GFP.THISNODE)


class PageSource(Protocol):
    """The source of the port's pages."""

    def alloc(self, count: int, gfp: int, node: int) -> np.ndarray:
        """Return up to ``count`` frames (int64) with their content set, fewer when there are no more."""
        ...

    def free(self, frames: np.ndarray) -> None:
        """Take frames (int64) back, in this order."""
        ...

    def check_node(self, node: int) -> None:
        """Refuse a node that it has no pages of. A negative one means any.

        Raises:
            ConfigurationError: there is no such node.
        """
        ...

    def allocated(self, frames: np.ndarray) -> np.ndarray:
        """Tell for each frame (int64) whether it is handed out, bool (page_count() != 0)."""
        ...


def gfp_zone(gfp: int, zones: Sequence[str]) -> str:
    """Return the zone a mask asks for (include/linux/gfp.h gfp_zone). The configured zones decide.

    MOVABLE is a name only: the zone is empty by default and falls back to the highest there is.
    """
    if gfp & _DMA and "DMA" in zones:
        return "DMA"
    if gfp & _DMA32 and "DMA32" in zones:
        return "DMA32"
    if gfp & (_HIGHMEM | _MOVABLE) == _HIGHMEM | _MOVABLE:
        return "MOVABLE"
    return "HIGHMEM" if gfp & _HIGHMEM and "HIGHMEM" in zones else "NORMAL"


@define(eq=False)
class ZoneFrames:
    """The free frames of one zone on one node.

    Attributes:
        name: Name of the zone.
        node: Node of the zone.
        runs: Tuples (first frame, end) of the zone's RAM, in address order.
        stack: Frames given back, int64. The last of the first ``top`` goes out next, unless ``recent`` has frames.
        top: Number of frames on the stack.
        recent: The frames given back last, on top of the stack. A list is faster for single pages.
        fresh: Tuples (next frame, end) of ranges that were never handed out, or were given back in one piece. The
            lowest range is last.
    """

    name: str
    node: int
    runs: list[tuple[int, int]]
    stack: np.ndarray = field(init=False)
    top: int = 0
    recent: list[int] = field(factory=list)
    fresh: list[tuple[int, int]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.stack = np.empty(0, np.int64)
        self.fresh = [run for run in reversed(self.runs) if run[0] < run[1]]

    @property
    def size(self) -> int:
        """Frames in the zone."""
        return sum(end - start for start, end in self.runs)

    @property
    def free(self) -> int:
        """Frames free now."""
        return self.top + len(self.recent) + sum(end - start for start, end in self.fresh)

    def take(self, count: int) -> list[np.ndarray]:
        """Hand out up to ``count`` frames: those given back last first, then fresh ones from the bottom."""
        parts = []
        if self.recent and count:  # of none, [-0:] would be all
            n = min(count, len(self.recent))
            parts.append(np.array(self.recent[: -n - 1 : -1], np.int64))
            del self.recent[-n:]
            count -= n
            if not count:
                return parts
        if self.top and count:
            n = min(count, self.top)
            parts.append(self.stack[self.top - n : self.top][::-1].copy())
            self.top -= n
            count -= n
        while count and self.fresh:
            start, end = self.fresh.pop()
            n = min(count, end - start)
            parts.append(np.arange(start, start + n, dtype=np.int64))
            count -= n
            if start + n < end:
                self.fresh.append((start + n, end))
        return parts

    def take_aligned(self, count: int, align: int) -> int | None:
        """Hand out ``count`` consecutive fresh frames, the first a multiple of ``align``."""
        for at in range(len(self.fresh) - 1, -1, -1):
            start, end = self.fresh[at]
            first = -(-start // align) * align
            if first + count <= end:
                rest = [(first + count, end), (start, first)]
                self.fresh[at : at + 1] = [run for run in rest if run[0] < run[1]]
                return first
        return None

    def give_run(self, first: int, count: int) -> None:
        """Take consecutive frames back in one piece, for `take_aligned`."""
        insort(self.fresh, (first, first + count), key=lambda run: -run[0])

    def give(self, frames: np.ndarray) -> None:
        """Take frames back, in this order."""
        if len(frames) <= _FEW:
            for frame in frames.tolist():
                self.give_one(frame)
            return
        self._stack_recent()
        self._push(frames)

    def give_one(self, frame: int) -> None:
        """Take one frame back."""
        self.recent.append(frame)
        if len(self.recent) > _RECENT:
            self._stack_recent()

    def _stack_recent(self) -> None:
        self._push(np.array(self.recent, np.int64))
        self.recent.clear()

    def _push(self, frames: np.ndarray) -> None:
        need = self.top + len(frames)
        if need > len(self.stack):
            grown = np.empty(max(need, 2 * len(self.stack)), np.int64)
            grown[: self.top] = self.stack[: self.top]
            self.stack = grown
        self.stack[self.top : need] = frames
        self.top = need

    def given_back(self) -> np.ndarray:
        """Return the frames that were given back (int64). The last is the next to go out."""
        return np.concatenate((self.stack[: self.top], np.array(self.recent, np.int64)))


_SPREAD = 4  #: frames close enough together to look at all between them
_FEW = 8  #: frames up to which single steps beat array steps
_RECENT = 4096  #: single frames kept in a list before they join the stack


class PageAllocator:
    """Every zone of every node. A `PageSource`.

    Attributes:
        zones: by node, each in zone order.
        pages_in_use: frames handed out now.
    """

    def __init__(self, arch: Architecture, layout: Layout, memory: PhysicalMemory, nodes: int = 1) -> None:
        """Split the banks into zones. Frames of the kernel itself stay out.

        Raises:
            ConfigurationError: more nodes than there are frames to share.
        """
        self._memory, self._shift, self._names = memory, arch.page_shift, arch.zone_names
        self._lock = threading.Lock()
        self.pages_in_use = 0
        self.zones = [
            _zones_of(arch, layout, banks, node) for node, banks in enumerate(_split(layout, arch, nodes))
        ]
        self._used = anonymous(memory.pages.shape[0])  # by row of memory.pages, 1: handed out
        self._in_use = np.frombuffer(self._used, np.bool_)  # the same bytes
        self._chains: dict[tuple[int, int], list[ZoneFrames]] = {}
        #: every (first frame, end, zone), for finding the home of a frame
        homes = sorted((s, e, z) for node in self.zones for z in node for s, e in z.runs if s < e)
        self._homes = homes
        self._home_starts = [h[0] for h in homes]

    def alloc(self, count: int, gfp: int, node: int) -> np.ndarray:
        """Hand out up to ``count`` frames: the zone asked for, then those below it, then other nodes.

        Returns:
            Shape ``(n,)``, int64, n <= count, in the order C would have got them.
        """
        zero = gfp & _ZERO
        with self._lock:
            chain = self._chain(gfp, node)
            if count == 1 and chain and chain[0].recent:
                frame = chain[0].recent.pop()
                self._used[self._memory.offset(frame << self._shift) >> self._shift] = True
                self.pages_in_use += 1
                frames = np.array([frame], np.int64)
            else:
                frames = self._take(count, chain)
                if len(frames):
                    self._mark(frames, True)
        if zero and len(frames):
            self._memory.zero_frames(frames)
        return frames

    @staticmethod
    def _take(count: int, chain: list[ZoneFrames]) -> np.ndarray:
        parts: list[np.ndarray] = []
        for zone in chain:
            got = zone.take(count)
            parts += got
            count -= sum(map(len, got))
            if count <= 0:
                break
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _mark(self, frames: np.ndarray, used: bool) -> tuple[int, int]:
        """Note that frames, at least one, are handed out, or given back. All of them were the opposite.

        Returns:
            The lowest and the highest frame.

        Raises:
            BrokenInvariant: one of those given back is not handed out, or is given twice; then nothing is noted.
            BusError: one of them is in no bank of RAM; then nothing is noted.
        """
        n = len(frames)
        numbers = frames.tolist() if n <= _FEW else (int(frames.min()), int(frames.max()))
        ends = min(numbers), max(numbers)
        # page_rows() does not look for RAM where one bank is all there is
        low, high = (self._memory.offset(frame << self._shift) >> self._shift for frame in ends)
        rows = self._memory.page_rows(frames)
        if n <= _FEW:
            self._mark_few(rows.tolist(), frames, used)
            return ends
        if high - low == n - 1 and 2 * int(rows.sum()) == n * (low + high):
            where: slice | np.ndarray = slice(low, high + 1)  # no gap, in any order
        elif high - low < _SPREAD * n:
            self._mark_spread(frames, rows, slice(low, high + 1), used)
            return ends
        else:
            where = rows
        if not used and not (self._in_use[where].all() and (where is not rows or len(np.unique(rows)) == n)):
            raise self._double_free(frames)
        self._in_use[where] = used
        self.pages_in_use += n if used else -n
        return ends

    def _mark_few(self, rows: list[int], frames: np.ndarray, used: bool) -> None:
        for done, row in enumerate(rows):
            if not used and not self._used[row]:
                for again in rows[:done]:
                    self._used[again] = True
                raise self._double_free(frames)
            self._used[row] = used
        self.pages_in_use += len(rows) if used else -len(rows)

    def _mark_spread(self, frames: np.ndarray, rows: np.ndarray, span: slice, used: bool) -> None:
        """Note many frames that lie close together, without an array as long as they are many."""
        before, state = self._in_use[span].copy(), self._in_use[span]
        self._in_use[rows] = used
        change = int(np.count_nonzero(state)) - int(np.count_nonzero(before))
        if not used and change != -len(frames):
            state[:] = before
            raise self._double_free(frames)
        self.pages_in_use += change

    def _double_free(self, frames: np.ndarray) -> BrokenInvariant:
        free = frames[~self._in_use[self._memory.page_rows(frames)]]
        which = f"page frame {int(free[0]):#x}" if len(free) else "a page frame"
        return BrokenInvariant(f"{which} is freed, but it is not allocated (or freed twice)")

    def alloc_root(self, size: int) -> int:
        """Hand out zeroed, physically consecutive lowmem for a root table, aligned to its size.

        Args:
            size: bytes, a power of two of at least a page.

        Returns:
            The physical address.

        Raises:
            OutOfMemory: nowhere are that many consecutive frames fresh.
        """
        count = size >> self._shift
        with self._lock:
            for zone in self._chain(GFP_PGTABLE, ANY_NODE):
                first = zone.take_aligned(count, count)
                if first is not None:
                    frames = np.arange(first, first + count, dtype=np.int64)
                    self._mark(frames, True)
                    self._memory.zero_frames(frames)
                    return first << self._shift
        raise OutOfMemory(
            "page", f"no {counted(count, 'free page frame')} in a row for a root table of {size:#x} bytes"
        )

    def free_root(self, root: int, size: int) -> None:
        """Take back a root table of ``alloc_root(size)``, for another one.

        Raises:
            BrokenInvariant: it is not handed out.
        """
        first, count = root >> self._shift, size >> self._shift
        with self._lock:
            self._mark(np.arange(first, first + count, dtype=np.int64), False)
            self._homes[self._home(first)][2].give_run(first, count)

    def _chain(self, gfp: int, node: int) -> list[ZoneFrames]:
        """Return the zones to try, in order (mm/page_alloc.c build_zonelists, node order)."""
        chain = self._chains.get((gfp, node))
        if chain is None:
            if node < ANY_NODE:
                return self._chain(gfp, ANY_NODE)
            self.check_node(node)
            wanted, first = gfp_zone(gfp, self._names), max(node, 0)
            tried = 1 if gfp & _THISNODE else len(self.zones)
            order = [(first + i) % len(self.zones) for i in range(tried)]
            top = len(self._names) if wanted == "MOVABLE" else self._names.index(wanted) + 1
            chain = [zone for n in order for zone in reversed(self.zones[n][:top]) if zone.size]
            self._chains[gfp, node] = chain
        return chain

    def check_node(self, node: int) -> None:
        """Refuse a node that this machine does not have. A negative one means any (mm/vmalloc.c:453).

        Raises:
            ConfigurationError: there is no such node.
        """
        if node >= len(self.zones):
            raise ConfigurationError(f"node {node}: this machine has nodes 0 to {len(self.zones) - 1}")

    def free(self, frames: np.ndarray) -> None:
        """Take frames back, in this order.

        Raises:
            BrokenInvariant: one of them is not handed out.
            BusError: one of them is in no bank of RAM.
        """
        if not len(frames):
            return
        with self._lock:
            if len(frames) == 1 and self._free_one(frames.item()):
                return
            lowest, highest = map(self._home, self._mark(frames, False))
            if lowest == highest:
                self._homes[lowest][2].give(frames)
                return
            home = np.searchsorted(self._home_starts, frames, "right") - 1
            for at in np.unique(home).tolist():
                self._homes[at][2].give(frames[home == at])

    def _free_one(self, frame: int) -> bool:
        """Take one frame back without an array step, or return False if it is not handed out."""
        row = self._memory.offset(frame << self._shift) >> self._shift
        if not self._used[row]:
            return False
        self._used[row] = False
        self.pages_in_use -= 1
        self._homes[self._home(frame)][2].give_one(frame)
        return True

    def _home(self, frame: int) -> int:
        return bisect_right(self._home_starts, frame) - 1

    def allocated(self, frames: np.ndarray) -> np.ndarray:
        """Tell for each frame (int64) whether it is handed out, bool."""
        inside = self._memory.places(frames << self._shift) >= 0
        result = np.zeros(len(frames), np.bool_)
        result[inside] = self._in_use[self._memory.page_rows(frames[inside])]
        return result

    def check(self) -> None:
        """Compare free frames, stacks and the map of frames that are handed out.

        Raises:
            BrokenInvariant: they contradict each other.
        """
        for zone in (zone for node in self.zones for zone in node):
            stack = zone.given_back()
            if len(np.unique(stack)) != len(stack) or self.allocated(stack).any():
                raise BrokenInvariant(
                    f"zone {zone.name} of node {zone.node}: a free frame is listed twice or in use"
                )
        used = sum(zone.size - zone.free for node in self.zones for zone in node)
        if not used == self.pages_in_use == int(self._in_use.sum()):
            raise BrokenInvariant(f"{counted(self.pages_in_use, 'page')} counted in use, zones say {used}")


def _split(layout: Layout, arch: Architecture, nodes: int) -> list[tuple[Bank, ...]]:
    """Share the banks evenly, in address order, at page boundaries."""
    if nodes == 1:
        return [layout.banks]
    page = arch.page_size
    total = sum(bank.size for bank in layout.banks) // page
    most, why = min((total, "the page frames there are"), (NODES_MOST, "what a kernel can be built for"))
    if not 1 <= nodes <= most:
        raise ConfigurationError(f"nodes is {nodes}, expected 1 to {most}, {why}")
    shares: list[list[Bank]] = [[] for _ in range(nodes)]
    done = 0
    for bank in layout.banks:
        start = bank.start
        while start < bank.end:
            node = min(done * nodes // total, nodes - 1)
            room = -(-total * (node + 1) // nodes) - done
            end = min(bank.end, start + room * page)
            shares[node].append(Bank(start, end))
            done += (end - start) // page
            start = end
    return [tuple(share) for share in shares]


def _zones_of(arch: Architecture, layout: Layout, banks: tuple[Bank, ...], node: int) -> list[ZoneFrames]:
    zones, low = [], layout.kernel_end
    for zone in arch.zones:
        end = zone.below if zone.below is not None else 1 << 64
        if zone.name != "HIGHMEM" and "HIGHMEM" in arch.zone_names:
            end = min(end, layout.lowmem_end)
        runs = [(max(b.start, low), min(b.end, end)) for b in banks]
        shift = arch.page_shift
        zones.append(ZoneFrames(zone.name, node, [(s >> shift, e >> shift) for s, e in runs if s < e]))
        low = max(low, end)
    return zones
