"""The buckets by themselves: gaps, bounds and ranks beside plain lists, and what check() says of damage."""

import random

import pytest

from vmcore.placement import buckets as areabuckets
from vmcore.placement.buckets import AreaBuckets, Bucket

PAGE = 0x1000


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let short lists have many buckets."""
    monkeypatch.setattr(areabuckets, "_SPLIT", 8)
    monkeypatch.setattr(areabuckets, "_SMALL", 3)
    monkeypatch.setattr(areabuckets, "_JOINED", 5)


class Plain:
    """The same intervals in one sorted list, every question answered by looking at all of them."""

    def __init__(self, buckets):
        self.rows = list(buckets.intervals())

    def locate(self, x):
        return sum(end <= x for _, end in self.rows)

    def covered_below(self, x):
        return sum(max(0, min(end, x) - addr) for addr, end in self.rows)

    def gaps(self, align):
        ends = [-(-end // align) * align for _, end in self.rows]
        return [addr - end for (addr, _), end in zip(self.rows[1:], ends, strict=False)]  # in front of 1, 2, 3 ...

    def widest_gap(self, first, last):
        return max(self.gaps(1)[first : max(first, last - 1)], default=0)

    def first_fit(self, n, stop, size, align):
        return next((m for m in range(n, stop) if self.gaps(align)[m - 1] >= size), None)


def position(buckets, n):
    """Return the position of the n-th interval, the list's end included."""
    for b, bucket in enumerate(buckets.buckets):
        if n < len(bucket.addrs) or b + 1 == len(buckets.buckets):
            return b, n
        n -= len(bucket.addrs)
    return None


def filled(seed, count=60, span=400):
    """Return buckets with random intervals, inserted in random order, some removed again."""
    rng = random.Random(seed)
    buckets = AreaBuckets(32, 12)
    borders = sorted(rng.sample(range(16, span), 2 * count))
    pairs = [(a * PAGE, b * PAGE) for a, b in zip(borders[::2], borders[1::2], strict=True)]
    rng.shuffle(pairs)
    for n, (addr, end) in enumerate(pairs):
        buckets.insert(buckets.locate(addr), addr, end, f"{addr:#x}")
        if n % 4 == 3:
            buckets.pop(position(buckets, rng.randrange(buckets.count)))
        buckets.check()
    return buckets, rng


@pytest.mark.parametrize("seed", range(6))
def test_every_answer_is_that_of_a_plain_list(seed):
    buckets, rng = filled(seed)
    plain = Plain(buckets)
    assert len(buckets.buckets) > 5
    assert buckets.count == len(plain.rows)
    assert list(buckets) == [f"{addr:#x}" for addr, _ in plain.rows]
    edges = [x for row in plain.rows for x in row]
    for x in (0, *edges, *(edge - 1 for edge in edges), *(edge + PAGE for edge in edges)):
        assert buckets.rank(buckets.locate(x)) == plain.locate(x)
        assert buckets.covered_below(x) == plain.covered_below(x)
    for n, (addr, _) in enumerate(plain.rows):
        at = position(buckets, n)
        assert (buckets.addr_at(at), buckets.rank(at)) == (addr, n)
        assert buckets.end_before(at) == (plain.rows[n - 1][1] if n else 0)
    end = position(buckets, buckets.count)
    assert (buckets.addr_at(end), buckets.end_before(end)) == (None, plain.rows[-1][1])
    for _ in range(60):
        first, last = sorted(rng.choices(range(buckets.count + 1), k=2))
        ends = position(buckets, first), position(buckets, last)
        assert buckets.widest_gap(*ends) == plain.widest_gap(first, last)
    buckets.check()


@pytest.mark.parametrize("seed", range(6))
def test_the_first_fit_is_that_of_a_plain_list(seed):
    buckets, rng = filled(seed)
    plain = Plain(buckets)
    for _ in range(150):
        n, last = rng.randrange(1, buckets.count), rng.randrange(len(buckets.buckets))
        size, align = rng.randrange(1, 12) * PAGE, rng.choice([1, PAGE, 2 * PAGE, 4 * PAGE, 32 * PAGE])
        at = position(buckets, n)
        stop = sum(len(bucket.addrs) for bucket in buckets.buckets[: last + 1])
        found = buckets.first_fit(at, last, size, align) if at[0] <= last else None
        wanted = plain.first_fit(n, stop, size, align)
        assert (found and buckets.rank(found)) == wanted
        buckets.check()


def test_sizes_that_are_no_whole_pages_are_rounded_up():
    buckets = AreaBuckets(32, 12)
    for addr in (0x10000, 0x13000, 0x18000):
        buckets.insert(buckets.locate(addr), addr, addr + PAGE, addr)
    assert buckets.first_fit((0, 1), 0, 2 * PAGE, 1) == (0, 1)
    assert buckets.first_fit((0, 1), 0, 2 * PAGE + 1, 1) == (0, 2)
    assert buckets.first_fit((0, 1), 0, 4 * PAGE, 1) == (0, 2)
    assert buckets.first_fit((0, 1), 0, 4 * PAGE + 1, 1) is None


@pytest.mark.parametrize("align", [1, 4 * PAGE])
def test_buckets_that_were_searched_in_vain_are_not_looked_at_again(monkeypatch, align):
    buckets, _ = filled(1)
    looked = []
    gaps = AreaBuckets._gaps
    monkeypatch.setattr(AreaBuckets, "_gaps", lambda self, b, align: looked.append(b) or gaps(self, b, align))
    last = len(buckets.buckets) - 1
    for _ in range(2):
        assert buckets.first_fit((0, 1), last, 200 * PAGE, align) is None
    before = len(looked)
    assert buckets.first_fit((0, 1), last, 200 * PAGE, align) is None
    assert len(looked) == before
    assert buckets.widest_gap((0, 0), (last, 0)) == Plain(buckets).widest_gap(0, buckets.rank((last, 0)))


def test_a_split_leaves_half_and_a_join_no_more_than_fits():
    buckets = AreaBuckets(32, 12)
    for n in range(8):
        buckets.insert(buckets.locate(n << 16), n << 16, (n << 16) + PAGE, n)
    sizes = [len(bucket.addrs) for bucket in buckets.buckets]
    assert sizes == [4, 4]
    buckets.pop((0, 0))
    assert [len(bucket.addrs) for bucket in buckets.buckets] == [3, 4]
    buckets.pop((1, 0))
    buckets.pop((1, 0))  # 2 and 3 are no more than 5
    assert [len(bucket.addrs) for bucket in buckets.buckets] == [5]
    assert list(buckets) == [1, 2, 3, 6, 7]
    buckets.check()


def two_buckets():
    buckets = AreaBuckets(32, 12)
    for n in range(1, 9):
        buckets.insert(buckets.locate(n << 16), n << 16, (n << 16) + PAGE, n)
    buckets.check()
    return buckets


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.buckets[1].items.pop(), "columns of unequal length"),
        (lambda a: a.buckets.append(Bucket([], [], [])), r"empty bucket among \[4, 4, 0\]"),
        (lambda a: setattr(a, "count", 7), "7 areas counted, 8 held"),
        (lambda a: a._heads.reverse(), "first addresses of the buckets are stale"),
        (lambda a: a._ranks.fill(0), "ranks are stale"),
        (lambda a: a._covered.__setitem__(0, 0), "bytes counted"),
        (lambda a: a._bounds.__setitem__(PAGE, a._bounds[PAGE][:1]), "1 bounds for 2 buckets"),
        (lambda a: a._bounds[PAGE].fill(14), r"bounds for alignment 0x1000 are too low in buckets \[0, 1\]"),
        (lambda a: a._bounds[PAGE].__setitem__(1, 14), r"too low in buckets \[1\]"),
    ],
)
def test_check_names_what_is_broken(damage, message):
    buckets = two_buckets()
    damage(buckets)
    with pytest.raises(AssertionError, match=message):
        buckets.check()


def test_check_allows_an_empty_list():
    AreaBuckets(32, 12).check()


def test_check_refuses_a_bucket_that_should_have_been_cut(monkeypatch):
    buckets = two_buckets()
    monkeypatch.setattr(areabuckets, "_SPLIT", 5)
    buckets.check()
    monkeypatch.setattr(areabuckets, "_SPLIT", 4)
    with pytest.raises(AssertionError, match="bucket of 4 areas, fewer than 4 expected"):
        buckets.check()
