import random

import pytest

from tests.support.linear_scan import LinearScan, place
from vmcore.placement import buckets as areabuckets
from vmcore.placement.arealist import AreaList, VmStruct

PAGE = 0x1000


@pytest.fixture
def small_buckets(monkeypatch):
    """Let short lists have many buckets."""
    monkeypatch.setattr(areabuckets, "_SPLIT", 8)
    monkeypatch.setattr(areabuckets, "_SMALL", 3)
    monkeypatch.setattr(areabuckets, "_JOINED", 5)


class Pair:
    """Run every operation on the area list and on the judge, and compare."""

    def __init__(self, word_bits, page_shift, seed):
        self.random = random.Random(f"{word_bits} {page_shift} {seed}")
        self.fast, self.plain = AreaList(word_bits, page_shift), LinearScan(word_bits, page_shift)
        self.top, self.page = 2**word_bits, 2**page_shift
        base = self.top - self.top // 16
        self.windows = [
            (base, base + 150 * self.page),
            (base, base + 60 * self.page),
            (base + 70 * self.page, base + 100 * self.page),
            (base + 400 * self.page, base + 500 * self.page),
            (base - 300 * self.page, base - 250 * self.page),
        ]

    def request(self, wild):
        rng, page = self.random, self.page
        start, end = rng.choice(self.windows)
        size = rng.choice([2, 2, 2, 3, 4, 5, 9, 17, 40]) * page
        align = rng.choice([1, 1, 1, 1, page, 2 * page, 4 * page, 16 * page, 2**24])
        if rng.random() < 0.2:
            start += rng.randrange(150) * page
        if rng.random() < wild:
            start, end = self.top - 40 * page, self.top - 1
        if rng.random() < wild:
            start = rng.choice(
                [start + page // 2, start + 3, 0, self.top - page, self.top - 1, rng.randrange(self.top)]
            )
        if rng.random() < wild:
            size = rng.choice(
                [0, page, self.top - page, self.top // 2, self.top - start % self.top, end, end + page]
            )
        if rng.random() < wild:
            end = rng.choice([0, page, start, self.top - 1, rng.randrange(self.top)])
        return size % self.top, align, start % self.top, end % self.top

    def search(self, wild):
        request = self.request(wild)
        fast, plain = self.fast.search(*request), self.plain.search(*request)
        assert (fast and fast.addr) == (plain and plain[0]), [hex(x) for x in request]
        if plain is not None:
            area = VmStruct(plain[0], request[0], 2)
            self.fast.insert(area, fast)
            self.plain.areas.insert(plain[1], area)

    def remove(self):
        addr = self.random.choice(self.plain.areas).addr
        area = self.fast.find(addr)
        assert area is self.plain.find(addr)
        assert area in self.fast
        self.fast.remove(area)
        self.plain.remove(area)
        assert area not in self.fast

    def remove_offenders(self):
        while not self.plain.is_orderly():
            self.remove()

    def compare_visits(self):
        assert self.fast.nodes_visited == self.plain.nodes_visited
        assert len(self.fast) == len(self.plain.areas)

    def compare(self):
        fast, plain, rng = self.fast, self.plain, self.random
        self.compare_visits()
        assert [id(area) for area in fast] == [id(area) for area in plain.areas]
        assert fast.orderly == plain.is_orderly()
        addr = rng.choice([area.addr for area in plain.areas] or [0]) + rng.choice([0, 0, self.page, -1, 1])
        assert fast.find(addr) is plain.find(addr)
        access = addr + rng.randrange(4 * self.page)
        assert [id(a) for a in fast.from_address(access)] == [id(a) for a in plain.from_address(access)]
        start, end = sorted(
            rng.choice([rng.randrange(self.top), addr % self.top, *w]) for w in rng.choices(self.windows, k=2)
        )
        holes = plain.holes(start, end)
        assert fast.largest_hole(start, end) == max(holes)
        assert fast.free_bytes(start, end) == sum(holes)
        fast.check()


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize("wild", [0, 0.01, 0.2])
@pytest.mark.parametrize("page_shift", [12, 13])
@pytest.mark.parametrize("word_bits", [32, 64])
def test_random_operations_match_the_linear_scan(word_bits, page_shift, wild):
    pair = Pair(word_bits, page_shift, wild)
    regimes = set()
    for step in range(1800):
        grows = step % 600 < 350
        if pair.plain.areas and pair.random.random() < (0.35 if grows else 0.7):
            pair.remove()
        else:
            pair.search(wild)
        if step % 100 == 99:
            pair.remove_offenders()
        regimes.add(pair.fast.orderly)
        pair.compare()
    assert regimes == ({True, False} if wild else {True})


@pytest.mark.parametrize("word_bits", [32, 64])
def test_long_list_with_buckets_of_full_size_matches_the_linear_scan(word_bits):
    pair = Pair(word_bits, 12, "long")
    base = pair.top - pair.top // 16
    pair.windows = [
        (base, base + 4000 * PAGE),
        (base + 1000 * PAGE, base + 2000 * PAGE),
        (base - 900 * PAGE, base),
    ]
    for step in range(2400):
        if pair.plain.areas and pair.random.random() < (0.2 if step < 1400 else 0.9):
            pair.remove()
        else:
            pair.search(0)
        pair.compare_visits()
        if step % 40 == 0:
            pair.compare()
    assert pair.fast.orderly


@pytest.mark.usefixtures("small_buckets")
def test_list_emptied_from_either_end_and_filled_again():
    for pick in (0, -1):
        pair = Pair(64, 12, pick)
        for _ in range(2):
            for _ in range(60):
                pair.search(0)
            pair.compare()
            while pair.plain.areas:
                area = pair.plain.areas[pick]
                pair.fast.remove(area)
                pair.plain.remove(area)
                pair.compare()


def test_holes_and_free_bytes_of_windows_that_cut_areas():
    areas = AreaList(32, 12)
    for start in (0x10000, 0x20000, 0x80000):
        assert place(areas, 0x3000, 1, start, 0xFFFFF000) == start
    assert areas.largest_hole(0x10000, 0xC0000) == 0x80000 - 0x24000
    assert areas.free_bytes(0x10000, 0xC0000) == 0xB0000 - 3 * 0x4000
    assert areas.largest_hole(0x12000, 0x22000) == 0xC000
    assert areas.free_bytes(0x12000, 0x22000) == 0xC000
    assert areas.largest_hole(0x10000, 0x14000) == areas.free_bytes(0x10000, 0x14000) == 0
    assert areas.largest_hole(0x30000, 0x30000) == areas.free_bytes(0x30000, 0x2F000) == 0
    assert areas.largest_hole(0x84000, 2**32) == areas.free_bytes(0x84000, 2**32) == 2**32 - 0x84000


def test_from_address_leaves_out_what_vread_steps_over():
    areas = AreaList(32, 12)
    for start in (0x10000, 0x20000, 0x30000):
        place(areas, 0x3000, 1, start, 0xFFFFF000)
    first, second, third = areas
    assert list(areas.from_address(0)) == [first, second, third]
    assert list(areas.from_address(0x12FFF)) == [first, second, third]
    assert list(areas.from_address(0x13000)) == [second, third]  # the guard page is not read
    assert list(areas.from_address(0x20000)) == [second, third]
    assert list(areas.from_address(0x33000)) == []


def test_removing_an_area_that_is_not_listed_is_an_error():
    areas = AreaList(32, 12)
    place(areas, 0x1000, 1, 0x10000, 0xFFFFF000)
    with pytest.raises(ValueError, match="area at 0x10000: not on the list"):
        areas.remove(VmStruct(0x10000, 0x2000, 2))
    assert len(areas) == 1


def test_an_area_is_removed_from_where_it_is_now():
    areas = AreaList(32, 12)
    for start in (0x20000, 0x30000):
        place(areas, 0x1000, 1, start, 0xFFFFF000)
    second, third = areas
    assert areas.find(0x30000) is third
    place(areas, 0x1000, 1, 0x10000, 0xFFFFF000)
    first = next(iter(areas))
    areas.remove(third)
    assert list(areas) == [first, second]
    assert areas.find(0x20000) is second
    areas.remove(first)
    areas.remove(second)
    assert list(areas) == []


@pytest.mark.parametrize("start", [0x10001, 0x10002, 0x10800])
def test_an_area_that_is_not_page_aligned_makes_the_list_walk_until_it_is_gone(start):
    areas = AreaList(32, 12)
    place(areas, 0x2000, 1, 0x8000, 0xFFFFF000)
    assert areas.orderly
    assert place(areas, 0x2000, 1, start, 0xFFFFF000) == start
    assert not areas.orderly
    areas.check()
    areas.remove(areas.find(start))
    assert areas.orderly


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda areas: setattr(next(iter(areas)), "size", 0x3000), "addresses or ends are not those of the areas"),
        (lambda areas: setattr(areas, "_violations", 1), "1 violations counted, 0 found"),
        (lambda areas: setattr(areas._areas, "count", 2), "2 areas counted, 1 held"),
    ],
)
def test_check_names_what_is_broken(damage, message):
    areas = AreaList(32, 12)
    place(areas, 0x1000, 1, 0x10000, 0xFFFFF000)
    areas.check()
    damage(areas)
    with pytest.raises(AssertionError, match=message):
        areas.check()
