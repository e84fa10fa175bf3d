"""Work is counted, not timed: the list elements read by an operation."""

import pytest

from tests.support.linear_scan import place
from vmcore.placement.arealist import AreaList

PAGE = 0x1000


class Counted(list):
    """Count the elements read, in whatever way."""

    read = 0

    def __getitem__(self, key):
        found = super().__getitem__(key)
        Counted.read += len(found) if isinstance(key, slice) else 1
        return found

    def __iter__(self):
        for item in super().__iter__():
            Counted.read += 1
            yield item


def count_reads(areas):
    for bucket in areas._areas.buckets:
        bucket.addrs, bucket.ends = Counted(bucket.addrs), Counted(bucket.ends)
    Counted.read = 0


@pytest.fixture(scope="module")
def long_list():
    """20,000 areas of two pages without a hole from 2**32 on, and 1,000 unaligned ones from 2**40 on."""
    areas = AreaList(64, 12)
    for count, pages, start in ((20_000, 2, 2**32), (1_000, 3, 2**40 + PAGE)):
        for k in range(count):
            place(areas, (pages - 1) * PAGE, 1, start + k * pages * PAGE, 2**41)
    count_reads(areas)
    return areas


END = 2**32 + 20_000 * 2 * PAGE


@pytest.mark.parametrize(
    ("request_", "addr", "visits"),
    [
        ((2 * PAGE, 1, 2**32, 2**33), END, 20_001),
        ((2 * PAGE, 1, 2**32, END), None, 20_000),
        ((9 * PAGE, 1, 2**32, END), None, 19_996),
        ((9 * PAGE, 16 * PAGE, 2**32, 2**33), END, 20_001),
        ((2**24 + PAGE, 2**24, 2**32, 2**33), 2**32 + 2**24 * 10, 20_001),
        ((2 * PAGE, 1, 2**31, 2**32), 2**31, 1),
        ((2 * PAGE, 1, 2**40, 2**41), 2**40 + 3001 * PAGE, 21_000),
        ((2 * PAGE, 16 * PAGE, 2**40, 2**41), 2**40 + 3008 * PAGE, 21_000),
        ((2 * PAGE, 1, 2**32 + 5000 * PAGE, 2**32 + 9000 * PAGE), None, 4_500),
        ((2 * PAGE, 1, 2**42, 2**43), 2**42, 21_000),
        ((2 * PAGE, 1024 * PAGE, 2**40 + 2048 * PAGE, 2**40 + 2050 * PAGE), 2**40 + 3072 * PAGE, 21_000),
        ((9 * PAGE, 256 * PAGE, 2**40 + 512 * PAGE, 2**40 + 520 * PAGE), None, 20_342),
    ],
)
def test_search_reads_few_areas_of_a_long_list(long_list, request_, addr, visits):
    before, Counted.read = long_list.nodes_visited, 0
    found = long_list.search(*request_)
    assert (found and found.addr) == addr
    assert long_list.nodes_visited - before == visits
    assert Counted.read <= 300


def test_lookup_reads_few_areas_of_a_long_list(long_list):
    before, Counted.read = long_list.nodes_visited, 0
    assert long_list.find(2**32 + 15_000 * 2 * PAGE).addr == 2**32 + 15_000 * 2 * PAGE
    assert long_list.nodes_visited - before == 15_001
    assert long_list.find(PAGE) is None
    assert long_list.nodes_visited - before == 15_001 + 21_000
    assert next(long_list.from_address(2**32 + 15_000 * 2 * PAGE)).addr == 2**32 + 15_000 * 2 * PAGE
    assert long_list.largest_hole(2**32, 2**42) == 2**42 - 2**40 - 3001 * PAGE
    assert Counted.read <= 700


def test_holes_filled_again_are_not_read_twice():
    areas = AreaList(64, 12)
    for k in range(5_000):
        place(areas, PAGE, 1, 2**32 + 2 * k * PAGE, 2**33)
    for k in range(0, 5_000, 10):
        areas.remove(areas.find(2**32 + 2 * k * PAGE))
    for k in range(0, 5_000, 10):
        assert place(areas, PAGE, 1, 2**32, 2**33) == 2**32 + 2 * k * PAGE
    areas.search(2 * PAGE, 1, 2**32, 2**33)
    count_reads(areas)
    assert areas.search(2 * PAGE, 1, 2**32, 2**33).addr == 2**32 + 10_000 * PAGE
    assert Counted.read <= 300
    areas.check()


def test_buckets_join_as_the_list_shrinks():
    areas = AreaList(64, 12)
    for k in range(5_000):
        place(areas, PAGE, 1, 2**32 + 2 * k * PAGE, 2**33)
    assert 5_000 / 128 <= len(areas._areas.buckets) <= 5_000 / 64
    for k in range(5_000):
        if k % 10:
            areas.remove(areas.find(2**32 + 2 * k * PAGE))
    areas.check()
    assert len(areas) == 500
    assert len(areas._areas.buckets) <= 500 / 16
