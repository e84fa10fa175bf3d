"""Keep intervals in list order in buckets that know their rank, their bytes and their widest gap.

A bucket holds about 64 intervals [addr, end), each with the item it belongs to. The order is
the list's own and need not be sorted, but `locate`, `first_fit`, `widest_gap` and
`covered_below` bisect and add up: they hold only while the intervals are sorted, disjoint,
not empty and made of whole pages.

The gap in front of an interval belongs to that interval's bucket; the gap in front of the
list's first interval belongs to none.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain
from operator import sub
from typing import Generic, TypeAlias, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

_SPLIT = 128  # intervals at which a bucket is cut in two
_SMALL = 32  # intervals below which a bucket looks for a neighbour to join
_JOINED = 64  # intervals a joined bucket may have

T = TypeVar("T")
Position: TypeAlias = tuple[int, int]
"""Bucket and index within; the list's end is the position behind the last bucket's last interval."""


@attrs.define(eq=False, slots=True)
class Bucket(Generic[T]):
    """Hold consecutive intervals of the list, column by column."""

    addrs: list[int]
    ends: list[int]
    items: list[T]

    def intervals(self) -> Iterator[tuple[int, int]]:
        """Iterate over the pairs of first address and end."""
        return zip(self.addrs, self.ends, strict=True)

    def join(self, other: "Bucket[T]") -> None:
        """Append the intervals of the next bucket."""
        self.addrs += other.addrs
        self.ends += other.ends
        self.items += other.items

    def cut(self, index: int) -> "Bucket[T]":
        """Split off the intervals from `index` on."""
        rest = Bucket(self.addrs[index:], self.ends[index:], self.items[index:])
        del self.addrs[index:], self.ends[index:], self.items[index:]
        return rest


class AreaBuckets(Generic[T]):
    """Cut the list into buckets. There is always at least one.

    Args:
        word_bits: Addresses and sizes are taken modulo 2**word_bits.
        page_shift: log2 of the page size in bytes.

    Attributes:
        buckets: The buckets in list order, to be read only.
        count: Number of intervals.
    """

    def __init__(self, word_bits: int, page_shift: int) -> None:
        self.buckets: list[Bucket[T]] = [Bucket([], [], [])]
        self.count = 0
        self._mask = (1 << word_bits) - 1
        self._page_shift = page_shift
        self._heads = [0]  # address of each bucket's first interval
        self._covered = [0]  # bytes covered by each bucket's intervals
        self._ranks = np.zeros(1, np.int64)  # intervals in front of each bucket
        # By alignment: at least as many pages as the widest aligned gap of each bucket has.
        # Insertions leave a bound too high; the next search that trusts it in vain lowers it.
        self._bounds = {1 << page_shift: np.full(1, -1, np.int64)}

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(bucket.items for bucket in self.buckets)

    def intervals(self) -> Iterator[tuple[int, int]]:
        """Iterate over the pairs of first address and end, in list order."""
        return chain.from_iterable(bucket.intervals() for bucket in self.buckets)

    def locate(self, x: int) -> Position:
        """Find the first interval that ends above an address, on sorted intervals."""
        b = bisect_right(self._heads, x, 1) - 1
        ends = self.buckets[b].ends
        i = bisect_right(ends, x)
        return (b, i) if i < len(ends) else self.settle(b, i)

    def settle(self, b: int, i: int) -> Position:
        """Give the position behind a bucket's last interval as the first of the next bucket."""
        if i == len(self.buckets[b].addrs) and b + 1 < len(self.buckets):
            return b + 1, 0
        return b, i

    def rank(self, position: Position) -> int:
        """Count the intervals in front of a position."""
        return self._ranks.item(position[0]) + position[1]

    def end_before(self, position: Position) -> int:
        """Give the end of the interval in front of a position, 0 at the list's front."""
        b, i = position
        if i:
            return self.buckets[b].ends[i - 1]
        return self.buckets[b - 1].ends[-1] if b else 0

    def addr_at(self, position: Position) -> int | None:
        """Give the address of the interval at a position, None at the list's end."""
        b, i = position
        addrs = self.buckets[b].addrs
        return addrs[i] if i < len(addrs) else None

    def insert(self, position: Position, addr: int, end: int, item: T) -> None:
        """Insert an interval in front of the one at a position."""
        b, i = position
        bucket, after = self.buckets[b], self.addr_at(position)
        gap = addr - self.end_before(position) if b or i else -1
        self._widen(b, gap if after is None else max(gap, after - end))
        bucket.addrs.insert(i, addr)
        bucket.ends.insert(i, end)
        bucket.items.insert(i, item)
        self._recount(b, 1, (end - addr) & self._mask)
        if len(bucket.addrs) >= _SPLIT:
            self._split(b)

    def pop(self, position: Position) -> None:
        """Remove the interval at a position."""
        b, i = position
        bucket = self.buckets[b]
        addr, end = bucket.addrs.pop(i), bucket.ends.pop(i)
        del bucket.items[i]
        if b or i:
            if i < len(bucket.addrs):
                self._widen(b, bucket.addrs[i] - self.end_before(position))
            elif b + 1 < len(self.buckets):
                self._widen(b + 1, self._heads[b + 1] - self.end_before(position))
        self._recount(b, -1, -((end - addr) & self._mask))
        if len(bucket.addrs) < _SMALL:
            self._join(b)

    def first_fit(self, position: Position, last: int, size: int, align: int) -> Position | None:
        """Find the first interval with enough room in front of it, on sorted intervals.

        Args:
            position: Where to begin. It is not the list's first interval.
            last: The last bucket to look at.
            size: Bytes of room, counted from the aligned end of the interval before.
            align: Alignment in bytes, a power of two.

        Returns:
            The position of that interval, or None.
        """
        (b, i), bounds, pages = position, self._bounds_for(align), -(-size >> self._page_shift)
        if b == last and bounds.item(b) < pages:
            return None  # one bucket, as in every short list: no need for an array step
        while b <= last:
            step = (bounds[b : last + 1] >= pages).tobytes().find(1)  # of few buckets twice as fast as argmax
            if step < 0:
                break
            b, i = b + step, 0 if step else i
            gaps = self._gaps(b, align)
            for j in range(i, len(gaps)):
                if gaps[j] >= size:
                    return b, j
            bounds[b] = max(gaps) >> self._page_shift
            b, i = b + 1, 0
        return None

    def widest_gap(self, first: Position, last: Position, align: int = 1) -> int:
        """Measure the widest gap, in bytes, between the intervals from `first` up to `last`.

        A gap begins at the aligned end of the interval in front of it.
        """
        (b, i), (c, j) = first, last
        if b == c:
            return max(self._gaps(b, align)[i + 1 : j], default=0)
        return max([self._widest(b + 1, c, align), *self._gaps(b, align)[i + 1 :], *self._gaps(c, align)[:j]])

    def covered_below(self, x: int) -> int:
        """Sum the bytes covered below an address, on sorted intervals."""
        b, i = self.locate(x)
        bucket = self.buckets[b]
        whole = sum(self._covered[:b]) + sum(bucket.ends[:i]) - sum(bucket.addrs[:i])
        return whole + sum(max(0, x - addr) for addr in bucket.addrs[i : i + 1])

    def check(self) -> None:
        """Verify the invariants of the buckets.

        Raises:
            AssertionError: One does not hold. The message says which.
        """
        columns = [(bucket.addrs, bucket.ends, bucket.items) for bucket in self.buckets]
        sizes = [len(bucket.addrs) for bucket in self.buckets]
        covered = [sum((end - addr) & self._mask for addr, end in bucket.intervals()) for bucket in self.buckets]
        hold(
            all(len(c) == n for n, row in zip(sizes, columns, strict=True) for c in row),
            "columns of unequal length",
        )
        hold(all(sizes) or sizes == [0], f"empty bucket among {sizes}")
        hold(max(sizes) < _SPLIT, f"bucket of {max(sizes)} areas, fewer than {_SPLIT} expected")
        hold(sum(sizes) == self.count, f"{self.count} areas counted, {sum(sizes)} held")
        heads = [addrs[0] for addrs, _, _ in columns if addrs]
        hold(not heads or self._heads == heads, "first addresses of the buckets are stale")
        hold(self._ranks.tolist() == [sum(sizes[:b]) for b in range(len(sizes))], "ranks are stale")
        hold(self._covered == covered, f"{self._covered} bytes counted, {covered} covered")
        for align, bounds in self._bounds.items():
            hold(len(bounds) == len(sizes), f"{len(bounds)} bounds for {len(sizes)} buckets")
            gaps = [max(self._gaps(b, align), default=-1) >> self._page_shift for b in range(len(sizes))]
            low = [b for b in range(len(sizes)) if gaps[b] > bounds[b]]
            hold(not low, f"bounds for alignment {align:#x} are too low in buckets {low}")

    def _gaps(self, b: int, align: int) -> list[int]:
        """List the bytes between each interval and the aligned end of the one before it."""
        bucket = self.buckets[b]
        ends = [self.end_before((b, 0)), *bucket.ends]
        if align > 1 << self._page_shift:
            ends = [(end + align - 1) & -align for end in ends]
        # map() drops the last end: the gap behind the last interval is its successor's.
        gaps = list(map(sub, bucket.addrs, ends))
        if b == 0:
            gaps[:1] = [-1]
        return gaps

    def _bounds_for(self, align: int) -> NDArray[np.int64]:
        """Give the bounds for an alignment. New ones start as those for a page, which hold for all."""
        page_size = 1 << self._page_shift
        align = max(align, page_size)
        if align not in self._bounds:
            self._bounds[align] = self._bounds[page_size].copy()
        return self._bounds[align]

    def _widest(self, first: int, last: int, align: int) -> int:
        """Measure the widest gap of the buckets from `first` up to `last`."""
        all_bounds = self._bounds_for(align)
        bounds = all_bounds[first:last]
        while len(bounds):
            b = int(bounds.argmax())
            trusted = bounds.item(b)
            all_bounds[first + b] = max(self._gaps(first + b, align)) >> self._page_shift
            if bounds[b] == trusted:
                return trusted << self._page_shift
        return 0

    def _tighten(self, b: int, align: int) -> None:
        """Make a bucket's bound exact."""
        self._bounds[align][b] = max(self._gaps(b, align)) >> self._page_shift

    def _widen(self, b: int, gap: int) -> None:
        """Let a bucket's bounds cover a new gap of so many bytes."""
        pages = gap >> self._page_shift
        for bounds in self._bounds.values():
            if bounds.item(b) < pages:
                bounds[b] = pages

    def _recount(self, b: int, count: int, size: int) -> None:
        """Account for an interval that came to a bucket or went from it."""
        self.count += count
        self._covered[b] += size
        if b + 1 < len(self.buckets):
            self._ranks[b + 1 :] += count
        if self.buckets[b].addrs:
            self._heads[b] = self.buckets[b].addrs[0]

    def _split(self, b: int) -> None:
        """Cut a full bucket in two, each with its own bounds."""
        bucket = self.buckets[b]
        rest = bucket.cut(_SPLIT // 2)
        size = sum((end - addr) & self._mask for addr, end in rest.intervals())
        self.buckets.insert(b + 1, rest)
        self._heads.insert(b + 1, rest.addrs[0])
        self._covered[b : b + 1] = [self._covered[b] - size, size]
        self._ranks = np.insert(self._ranks, b + 1, self._ranks[b] + len(bucket.addrs))
        for align, bounds in self._bounds.items():
            self._bounds[align] = np.insert(bounds, b, 0)
            self._tighten(b, align)
            self._tighten(b + 1, align)

    def _join(self, b: int) -> None:
        """Join a small bucket with a neighbour, if together they stay small or one is empty."""
        if len(self.buckets) == 1:
            return
        left, right = (b - 1, b) if b else (0, 1)
        sizes = [len(bucket.addrs) for bucket in self.buckets[left : right + 1]]
        if all(sizes) and sum(sizes) > _JOINED:
            return
        self.buckets[left].join(self.buckets.pop(right))
        self._heads[left : right + 1] = [self.buckets[left].addrs[0]]
        self._covered[left] += self._covered.pop(right)
        self._ranks = np.delete(self._ranks, right)
        for align, bounds in self._bounds.items():
            bounds[left] = max(bounds[left], bounds[right])
            self._bounds[align] = np.delete(bounds, right)


def hold(condition: bool, broken: str) -> None:
    """Raise an AssertionError that names the broken rule, also under python -O."""
    if not condition:
        raise AssertionError(f"area list: {broken}")
