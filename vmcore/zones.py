"""The page allocator: zones on nodes, gfp fallback downward, last freed first reused.

Sources: include/linux/mmzone.h, gfp.h (gfp_zone), mm/page_alloc.c of 2.6.24. Frames are handed out one at
a time in C; here a request for many is served as one array with the same frames in the same order.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from attrs import define, field

from vmcore.architecture import Architecture, Layout
from vmcore.errors import BrokenInvariant, ConfigurationError, OutOfMemory
from vmcore.flags import ANY_NODE, GFP, GFP_PGTABLE
from vmcore.memory import PhysicalMemory
from vmcore.units import Bank

_DMA, _DMA32, _HIGHMEM = int(GFP.DMA), int(GFP.DMA32), int(GFP.HIGHMEM)
_MOVABLE, _ZERO, _THISNODE = int(GFP.MOVABLE), int(GFP.ZERO), int(GFP.THISNODE)


class PageSource(Protocol):
    """What the port takes pages from."""

    def alloc(self, count: int, gfp: int, node: int) -> np.ndarray:
        """Return up to ``count`` frames (int64) with their content set; fewer when there are no more."""
        ...

    def free(self, frames: np.ndarray) -> None:
        """Take frames (int64) back, in this order."""
        ...

    def allocated(self, frames: np.ndarray) -> np.ndarray:
        """Tell for each frame (int64) whether it is handed out, bool (page_count() != 0)."""
        ...


def gfp_zone(gfp: int, zones: Sequence[str]) -> str:
    """Return the zone a mask asks for (include/linux/gfp.h gfp_zone); the configured zones decide.

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
        name: of the zone.
        node: its node.
        runs: (first frame, end) of the RAM it holds, in address order.
        stack: frames given back, int64; ``stack[top - 1]`` is the next to go out.
        top: how many are on the stack.
        fresh: (next frame, end) of what was never handed out, lowest last.
    """

    name: str
    node: int
    runs: list[tuple[int, int]]
    stack: np.ndarray = field(init=False)
    top: int = 0
    fresh: list[tuple[int, int]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.stack = np.empty(self.size, np.int64)
        self.fresh = [run for run in reversed(self.runs) if run[0] < run[1]]

    @property
    def size(self) -> int:
        """Frames in the zone."""
        return sum(end - start for start, end in self.runs)

    @property
    def free(self) -> int:
        """Frames free now."""
        return self.top + sum(end - start for start, end in self.fresh)

    def take(self, count: int) -> list[np.ndarray]:
        """Hand out up to ``count`` frames: the stack first, then fresh ones from the bottom."""
        parts = []
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
        """Hand out ``count`` consecutive frames that were never used, the first a multiple of ``align``."""
        for at in range(len(self.fresh) - 1, -1, -1):
            start, end = self.fresh[at]
            first = -(-start // align) * align
            if first + count <= end:
                rest = [(first + count, end), (start, first)]
                self.fresh[at : at + 1] = [run for run in rest if run[0] < run[1]]
                return first
        return None

    def give(self, frames: np.ndarray) -> None:
        """Take frames back, in this order."""
        self.stack[self.top : self.top + len(frames)] = frames
        self.top += len(frames)


_EMPTY = np.empty(0, np.int64)


class PageAllocator:
    """Every zone of every node; a `PageSource`.

    Attributes:
        zones: by node, each in zone order.
        pages_in_use: frames handed out now.
    """

    def __init__(self, arch: Architecture, layout: Layout, memory: PhysicalMemory, nodes: int = 1) -> None:
        """Split the banks into zones; frames of the kernel itself stay out.

        Raises:
            ConfigurationError: more nodes than there are frames to share.
        """
        self._memory, self._shift, self._names = memory, arch.page_shift, arch.zone_names
        self._lock = threading.Lock()
        self.pages_in_use = 0
        self.zones = [
            _zones_of(arch, layout, banks, node) for node, banks in enumerate(_split(layout, arch, nodes))
        ]
        rows = memory.pages.shape[0]
        self._in_use = np.zeros(rows, np.bool_)
        self._chains: dict[tuple[str, int, bool], list[ZoneFrames]] = {}
        #: every (first frame, end, zone), for finding the home of a frame
        homes = sorted((s, e, z) for node in self.zones for z in node for s, e in z.runs if s < e)
        self._homes = homes
        self._home_starts = [h[0] for h in homes]

    def alloc(self, count: int, gfp: int, node: int) -> np.ndarray:
        """Hand out up to ``count`` frames: the zone asked for, then those below it, then other nodes.

        Returns:
            Shape ``(n,)``, int64, n <= count, in the order C would have got them.
        """
        with self._lock:
            frames = self._take(count, gfp, node)
            self._in_use[self._memory.rows(frames)] = True
            self.pages_in_use += len(frames)
        if gfp & _ZERO and len(frames):
            self._memory.zero_frames(frames)
        return frames

    def _take(self, count: int, gfp: int, node: int) -> np.ndarray:
        parts: list[np.ndarray] = []
        for zone in self._chain(gfp, node):
            if count <= 0:
                break
            got = zone.take(count)
            count -= sum(map(len, got))
            parts += got
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [_EMPTY])

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
                    self._in_use[self._memory.rows(frames)] = True
                    self.pages_in_use += count
                    self._memory.zero_frames(frames)
                    return first << self._shift
        raise OutOfMemory("page", f"no {count} consecutive page frames for a root table of {size:#x} bytes")

    def _chain(self, gfp: int, node: int) -> list[ZoneFrames]:
        """Return the zones to try, in order (mm/page_alloc.c build_zonelists, node order)."""
        key = (gfp_zone(gfp, self._names), node, bool(gfp & _THISNODE))
        chain = self._chains.get(key)
        if chain is None:
            if not -1 <= node < len(self.zones):
                raise ConfigurationError(f"node {node}: this machine has nodes 0 to {len(self.zones) - 1}")
            wanted, first = key[0], max(node, 0)
            order = [(first + i) % len(self.zones) for i in range(1 if key[2] else len(self.zones))]
            top = len(self._names) if wanted == "MOVABLE" else self._names.index(wanted) + 1
            chain = [zone for n in order for zone in reversed(self.zones[n][:top])]
            self._chains[key] = chain
        return chain

    def free(self, frames: np.ndarray) -> None:
        """Take frames back, in this order.

        Raises:
            BrokenInvariant: one of them is not handed out.
        """
        if not len(frames):
            return
        with self._lock:
            rows = self._memory.rows(frames)
            if not self._in_use[rows].all():
                bad = int(frames[(~self._in_use[rows]).argmax()])
                raise BrokenInvariant(f"page frame {bad:#x} is freed, but it is not allocated")
            self._in_use[rows] = False
            self.pages_in_use -= len(frames)
            lowest, highest = self._home(int(frames.min())), self._home(int(frames.max()))
            if lowest == highest:
                self._homes[lowest][2].give(frames)
                return
            home = np.searchsorted(self._home_starts, frames, "right") - 1
            for at in np.unique(home).tolist():
                self._homes[at][2].give(frames[home == at])

    def _home(self, frame: int) -> int:
        return bisect_right(self._home_starts, frame) - 1

    def allocated(self, frames: np.ndarray) -> np.ndarray:
        """Tell for each frame (int64) whether it is handed out, bool."""
        inside = self._memory.has_frames(frames)
        result = np.zeros(len(frames), np.bool_)
        result[inside] = self._in_use[self._memory.rows(frames[inside])]
        return result

    def check(self) -> None:
        """Compare free frames, stacks and the map of what is handed out.

        Raises:
            BrokenInvariant: they contradict each other.
        """
        for zone in (zone for node in self.zones for zone in node):
            stack = zone.stack[: zone.top]
            if len(np.unique(stack)) != len(stack) or self.allocated(stack).any():
                raise BrokenInvariant(
                    f"zone {zone.name} of node {zone.node}: a free frame is listed twice or in use"
                )
        used = sum(zone.size - zone.free for node in self.zones for zone in node)
        if not used == self.pages_in_use == int(self._in_use.sum()):
            raise BrokenInvariant(f"{self.pages_in_use} pages counted in use, zones say {used}")


def _split(layout: Layout, arch: Architecture, nodes: int) -> list[tuple[Bank, ...]]:
    """Share the banks evenly, in address order, at page boundaries."""
    if nodes == 1:
        return [layout.banks]
    page = arch.page_size
    total = sum(bank.size for bank in layout.banks) // page
    if not 1 <= nodes <= total:
        raise ConfigurationError(f"nodes is {nodes}, expected 1 to {total}, the page frames there are")
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
