"""Keep vmlist, the kernel's address-ordered list of virtual areas, at logarithmic cost.

The C walks a singly linked list for every request, lookup and removal. Here, while the list
is *orderly*, a request bisects to the few areas that can decide it; on any other list the C
loop runs as it stands. Either way the outcome, and the number of loop bodies the C would
have entered, are those of mm/vmalloc.c:169-302.

A list is orderly when its areas are sorted, disjoint, page aligned, larger than zero and end
below 2**word_bits. Each violation of that is counted at every insertion and removal, so the list
is orderly again as soon as the offenders are gone.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import NamedTuple

import attrs
import numpy as np
from numpy.typing import NDArray

from vmcore.placement.buckets import AreaBuckets, Position, hold


@attrs.define(eq=False, slots=True)
class VmStruct:
    """Describe one virtual area: struct vm_struct, include/linux/vmalloc.h.

    Attributes:
        addr: First address.
        size: Bytes. The guard page is included while the area is on the list.
        flags: VM_IOREMAP, VM_ALLOC, ... as in include/linux/vmalloc.h.
        pages: Frame numbers, int64, one per page, or None.
        nr_pages: Number of frames in `pages`.
        phys_addr: Physical address of an I/O mapping.
        handle: The kmalloc object that holds the struct.
        pages_handle: The kmalloc object that holds the page array.
        pages_addr: VM_VPAGES: address of the nested area that holds the page array.
    """

    addr: int = attrs.field(repr=hex)
    size: int = attrs.field(repr=hex)
    flags: int = attrs.field(repr=hex)
    pages: NDArray[np.int64] | None = attrs.field(default=None, repr=False)
    nr_pages: int = 0
    phys_addr: int = attrs.field(default=0, repr=hex)
    handle: int | None = None
    pages_handle: int | None = None
    pages_addr: int = 0


class Placement(NamedTuple):
    """Name the address a search found and the area in front of which it lies, the C's `*p`."""

    addr: int
    position: Position


class AreaList:
    """Order the areas as vmlist does, and count the cost of walking it.

    Args:
        word_bits: Bits of an unsigned long. Addresses and sizes wrap at 2**word_bits.
        page_shift: log2 of the page size in bytes.

    Attributes:
        nodes_visited: Loop bodies the C would have entered so far in searches, lookups and
            removals, failed ones included.
    """

    def __init__(self, word_bits: int, page_shift: int) -> None:
        self.nodes_visited = 0
        self._mask = (1 << word_bits) - 1
        self._page_size = 1 << page_shift
        self._violations = 0
        self._found: tuple[VmStruct, Position] | None = None  # by the last find, until the list changes
        self._areas: AreaBuckets[VmStruct] = AreaBuckets(word_bits, page_shift)

    def __len__(self) -> int:
        return self._areas.count

    def __iter__(self) -> Iterator[VmStruct]:
        return iter(self._areas)

    def __contains__(self, area: VmStruct) -> bool:
        return self._position(area) is not None

    @property
    def orderly(self) -> bool:
        """Tell whether bisection serves. Otherwise every request walks the list."""
        return not self._violations

    def search(self, size: int, align: int, start: int, end: int) -> Placement | None:
        """Find the first fit for an area (mm/vmalloc.c:188, 203-219, __get_vm_area_node).

        Args:
            size: Bytes, page aligned, the guard page added (which may have made it 0).
            align: Alignment in bytes, a power of two.
            start: First address of the window, not yet aligned.
            end: First address behind the window, looked at where the C looks at it.

        Returns:
            The address and where to insert the area, or None where the C goes to `out`.
        """
        addr = self._align(start, align)
        position = (0, 0)
        if not self._violations:
            position, addr = self._skip(addr, size, align, end)
        return self._walk(position, addr, size, align, end)

    def insert(self, area: VmStruct, placement: Placement) -> None:
        """Put an area where the search before it said (`*p = area`, mm/vmalloc.c:220-221).

        Args:
            area: The new area, with the address of the placement.
            placement: From `search`; the list must not have changed since.
        """
        addr, end = area.addr, (area.addr + area.size) & self._mask
        self._found = None
        self._violations += self._broken_by(addr, end, placement.position, placement.position)
        self._areas.insert(placement.position, addr, end, area)

    def find(self, addr: int) -> VmStruct | None:
        """Look an address up (mm/vmalloc.c:270 __find_vm_area, the loop of 283 __remove_vm_area).

        Args:
            addr: Address to compare with the areas' first addresses.

        Returns:
            The first area in list order that begins there, or None.
        """
        position = self._position_at(addr)
        if position is None:
            self.nodes_visited += self._areas.count
            return None
        self._visit(position)
        area = self._areas.buckets[position[0]].items[position[1]]
        self._found = area, position
        return area

    def remove(self, area: VmStruct) -> None:
        """Unlink an area found before (`*p = tmp->next`, mm/vmalloc.c:295). No visit is counted.

        Args:
            area: An area of the list.

        Raises:
            ValueError: The area is not on the list.
        """
        found, self._found = self._found, None
        position = found[1] if found and found[0] is area else self._position(area)
        if position is None:
            raise ValueError(f"area at {area.addr:#x}: not on the list; remove only what find() returned")
        b, i = position
        addr, end = area.addr, self._areas.buckets[b].ends[i]
        self._violations -= self._broken_by(addr, end, position, self._areas.settle(b, i + 1))
        self._areas.pop(position)

    def from_address(self, addr: int) -> Iterator[VmStruct]:
        """Iterate over the areas a read or write at an address can meet, in list order.

        The areas left out are those vread and vwrite step over first (mm/vmalloc.c:644, 682):
        their last byte in front of the guard page is below `addr`. On a list that is not
        orderly none is left out.

        Args:
            addr: First address of the access.

        Yields:
            The areas, up to the end of the list.
        """
        b, i = (0, 0) if self._violations else self._areas.locate(addr + self._page_size)
        yield from self._areas.buckets[b].items[i:]
        for bucket in self._areas.buckets[b + 1 :]:
            yield from bucket.items

    def largest_hole(self, start: int, end: int) -> int:
        """Measure the largest gap of a window.

        Args:
            start: First address of the window.
            end: First address behind it.

        Returns:
            Bytes of the longest run in [start, end) that no area, guard page included, covers.
        """
        if self._violations:
            return max(_holes(_covered(self._areas.intervals(), self._mask), start, end))
        first, last = self._areas.locate(start), self._areas.locate(end)
        ahead, behind = self._areas.addr_at(first), self._areas.addr_at(last)
        holes = [0, (end if ahead is None else min(ahead, end)) - start]
        if first < last:
            holes.append((end if behind is None else min(behind, end)) - self._areas.end_before(last))
            holes.append(self._areas.widest_gap(first, last))
        return max(holes)

    def free_bytes(self, start: int, end: int) -> int:
        """Measure the free bytes of a window.

        Args:
            start: First address of the window.
            end: First address behind it.

        Returns:
            Bytes in [start, end) that no area, guard page included, covers.
        """
        if self._violations:
            return sum(_holes(_covered(self._areas.intervals(), self._mask), start, end))
        return max(0, end - start - self._areas.covered_below(end) + self._areas.covered_below(start))

    def check(self) -> None:
        """Verify every invariant of the structure.

        Raises:
            AssertionError: One does not hold. The message says which.
        """
        nodes = [(area.addr, (area.addr + area.size) & self._mask) for area in self]
        hold(list(self._areas.intervals()) == nodes, "addresses or ends are not those of the areas")
        broken = sum(_malformed(*node, self._page_size) for node in nodes)
        broken += sum(left[1] > right[0] for left, right in pairwise(nodes))
        hold(self._violations == broken, f"{self._violations} violations counted, {broken} found")
        self._areas.check()

    def _align(self, addr: int, align: int) -> int:
        """Round up as ALIGN() of include/linux/kernel.h does in an unsigned long."""
        return (addr + align - 1) & -align & self._mask

    def _walk(self, position: Position, addr: int, size: int, align: int, end: int) -> Placement | None:
        """Run the loop of the C from one node on, with `addr` as it stands there."""
        (b, i), areas, limit = position, self._areas, (end - size) & self._mask
        while i < len(areas.buckets[b].addrs):
            area_addr, area_end = areas.buckets[b].addrs[i], areas.buckets[b].ends[i]
            if area_addr < addr:
                if area_end >= addr:
                    addr = self._align(area_end, align)
                b, i = areas.settle(b, i + 1)
                if not self._violations:
                    # The areas that end at or below addr would all just be stepped over.
                    # Where addr wrapped there is none ahead, and the walk never goes back.
                    b, i = max((b, i), areas.locate(addr))
                continue
            overflows = size + addr > self._mask
            if not overflows and size + addr <= area_addr:
                break
            addr = self._align(area_end, align)
            if overflows or addr > limit:
                self._visit((b, i))
                return None
            b, i = areas.settle(b, i + 1)
        self._visit((b, i))
        return Placement(addr, (b, i))

    def _skip(self, addr: int, size: int, align: int, end: int) -> tuple[Position, int]:
        """Find the node at which the C's loop decides, and `addr` there, on an orderly list.

        Areas that end at or below `addr` do not change it. Behind the first that ends above,
        `addr` is the aligned end of the area in front, because that is never lower. `end` can
        stop the loop only at areas whose aligned end exceeds end - size; they are the last of
        the list, so the first fit in front of them is the C's, and without one the loop
        reaches the first of them. Up to there nothing wraps: `addr` + size stays below `end`.
        Where end - size underflows `last` is the list's front: every area above `addr` is walked.
        """
        first, last = self._areas.locate(addr), self._areas.locate((end - size) & -align)
        if first >= last:
            return first, addr
        b, i = first
        if addr + size <= self._areas.buckets[b].addrs[i]:
            return first, addr
        fit = self._areas.first_fit((b, i + 1), last[0], size, align)
        position = fit if fit is not None and fit < last else last
        return position, self._align(self._areas.end_before(position), align)

    def _visit(self, position: Position) -> None:
        """Count the loop bodies up to a position. At the list's end there is none."""
        before = self._areas.rank(position)
        self.nodes_visited += before + (before < self._areas.count)

    def _position_at(self, addr: int) -> Position | None:
        """Find the first area in list order that begins at an address."""
        if not self._violations:
            position = self._areas.locate(addr)
            return position if self._areas.addr_at(position) == addr else None
        for b, bucket in enumerate(self._areas.buckets):
            if addr in bucket.addrs:
                return b, bucket.addrs.index(addr)
        return None

    def _position(self, area: VmStruct) -> Position | None:
        """Find an area by identity: another one may begin at the same address."""
        if not self._violations:
            position = self._position_at(area.addr)
            found = position and self._areas.buckets[position[0]].items[position[1]]
            return position if found is area else None
        for b, bucket in enumerate(self._areas.buckets):
            if area in bucket.items:
                return b, bucket.items.index(area)
        return None

    def _broken_by(self, addr: int, end: int, position: Position, successor: Position) -> int:
        """Count the violations with an area at `position` less those with its neighbours adjacent."""
        before, after = self._areas.end_before(position), self._areas.addr_at(successor)
        if after is None:
            after = self._mask
        if before <= addr < end <= after and not (addr | end) & self._page_size - 1:
            return 0  # nearly always
        return (before > addr) + (end > after) - (before > after) + _malformed(addr, end, self._page_size)


def _malformed(addr: int, end: int, page_size: int) -> bool:
    """Tell whether an area is empty, wraps or is not made of whole pages."""
    return end <= addr or bool((addr | end) & page_size - 1)


def _covered(intervals: Iterable[tuple[int, int]], mask: int) -> Iterable[tuple[int, int]]:
    """Sort the stretches that the areas of any list cover: one that wraps covers two, an empty one none."""
    proper = ((addr, end) for addr, end in intervals if addr != end)
    parts = ([(a, e)] if a < e else [(a, mask + 1), (0, e)] for a, e in proper)
    return sorted(chain.from_iterable(parts))


def _holes(intervals: Iterable[tuple[int, int]], start: int, end: int) -> Iterator[int]:
    """Give the bytes of [start, end) in front of each of the sorted intervals and behind the last."""
    for addr, stop in intervals:
        yield max(0, min(addr, end) - start)
        start = max(start, stop)
    yield max(0, end - start)
