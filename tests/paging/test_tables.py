"""Page tables of every machine, against a slow walker of its own: map, unmap, look up, run out."""

import random
import time
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from tests.support.slow_walker import FIRST_TABLE, RAM_END, ROOT, Bench, Oops, decode, encode, entry_address
from vmcore.architecture import LayoutRequest
from vmcore.errors import OutOfMemory
from vmcore.flags import NO_FRAME

OVERWRITTEN = ("!pte_none(*pte)", "vmap_pte_range")
NOT_PRESENT = ("!pte_none(ptent) && !pte_present(ptent)", "vunmap_pte_range")


def start_of(arch):
    return arch.lay_out(LayoutRequest(ram=256 << 20)).vmalloc_start


def table_start(arch):
    """Return the first address behind start_of() that a last-level table begins with."""
    size = per_table(arch) << arch.page_shift
    return (start_of(arch) & -size) + size


def per_table(arch):
    return 1 << arch.levels[-1].bits


def pages_in_window(arch):
    layout = arch.lay_out(LayoutRequest(ram=256 << 20))
    return layout.vmalloc.size >> arch.page_shift


def numbers(count, seed=1):
    return np.random.default_rng(seed).integers(0, 1 << 18, count)


def expected(arch, start, frames, prot):
    last = arch.levels[-1]
    supported = arch.supported_pte_mask & (1 << 8 * last.entry_bytes) - 1
    return {
        start + (n << arch.page_shift): encode(last, int(f) << arch.page_shift, prot) & supported
        for n, f in enumerate(frames)
    }


def map_pages(bench, start, frames, prot=None):
    end = start + (len(frames) << bench.arch.page_shift)
    return bench.tables.map(start, end, np.asarray(frames, np.int64), prot or bench.arch.page_kernel)


COUNTS = {
    "one": lambda n: 1,
    "few": lambda n: 24,
    "more than a few": lambda n: 25,
    "a table": lambda n: n,
    "a table and one": lambda n: n + 1,
    "few tables": lambda n: 3 * n + 5,
    "many tables": lambda n: 18 * n + 7,
}


@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("skip", [0, -3], ids=["at a table's start", "near its end"])
def test_map_and_unmap(arch, count, skip):
    bench, tables = Bench(arch), per_table(arch)
    count = count(tables)
    start = start_of(arch) + ((tables + skip) << arch.page_shift)
    frames = numbers(count)
    result = map_pages(bench, start, frames)
    assert (result.ok, result.done, result.what) == (True, count, "")
    want = expected(arch, start, frames, arch.page_kernel)
    assert bench.scan() == want
    addresses, words = bench.tables.entries()
    assert dict(zip(addresses.tolist(), words.tolist(), strict=True)) == want
    assert addresses.tolist() == sorted(want)
    found = bench.tables.frames(start - arch.page_size, count + 2).tolist()
    assert found == [NO_FRAME, *frames.tolist(), NO_FRAME]
    for address in {start, start + (count // 2 << arch.page_shift), max(want)}:
        assert bench.tables.lookup(address + 5) == want[address]
        assert bench.tables.frame(address) == decode(arch.levels[-1], want[address]) >> arch.page_shift
    made = dict(bench.tables.tables)
    bench.tables.unmap(start, start + (count << arch.page_shift))
    assert (bench.scan(), bench.log, bench.tables.tables) == ({}, [], made)
    assert bench.tables.frames(start, count).tolist() == [NO_FRAME] * count
    assert [len(a) for a in bench.tables.entries()] == [0, 0]


def test_random_ranges_agree_with_a_dictionary(arch):
    bench, rng, want = Bench(arch), random.Random(5), {}
    base, room = start_of(arch), min(40 * per_table(arch), pages_in_window(arch))
    for step in range(60):
        count = rng.choice([1, 3, 24, 30, per_table(arch), rng.randrange(1, room)])
        first = rng.randrange(room - count + 1)
        start, end = (base + (n << arch.page_shift) for n in (first, first + count))
        inside = [a for a in want if start <= a < end]
        if inside or step % 3 == 0:
            bench.tables.unmap(start, end)
            for address in inside:
                del want[address]
        else:
            frames = numbers(count, step)
            map_pages(bench, start, frames)
            want |= expected(arch, start, frames, arch.page_kernel)
    assert bench.scan() == want
    assert bench.log == []


@pytest.mark.parametrize("count", [COUNTS["few tables"], COUNTS["many tables"]], ids=["few tables", "many tables"])
def test_page_by_page_range_by_range_and_with_listeners_are_the_same_bytes(arch, count):
    count = count(per_table(arch))
    start, frames = start_of(arch) + (7 << arch.page_shift), numbers(count)
    heard = {"on_mapped": lambda **a: None, "on_cleared": lambda **a: None, "on_table": lambda **a: None}
    benches = [Bench(arch), Bench(arch), Bench(arch, **heard)]
    map_pages(benches[0], start, frames)
    map_pages(benches[2], start, frames)
    for n, frame in enumerate(frames):
        map_pages(benches[1], start + (n << arch.page_shift), [frame])
    one, single, listened = (bench.table_bytes() for bench in benches)
    assert one == single == listened
    low, high = start + (3 << arch.page_shift), start + (count - 3 << arch.page_shift)
    benches[0].tables.unmap(low, high)
    benches[2].tables.unmap(low, high)
    for address in range(low, high, arch.page_size):
        benches[1].tables.unmap(address, address + arch.page_size)
    one, single, listened = (bench.table_bytes() for bench in benches)
    assert one == single == listened
    assert len(benches[0].scan()) == 6


def test_tables_are_made_one_a_level_and_linked_with_the_records_flags(arch):
    bench, start = Bench(arch), start_of(arch)
    map_pages(bench, start, [1])
    assert bench.handed_out == [FIRST_TABLE + n * arch.page_size for n in range(len(arch.levels) - 1)]
    assert bench.tables.tables == {level.name: 1 for level in arch.levels[1:]}
    for depth, (level, table) in enumerate(zip(arch.levels[:-1], bench.handed_out, strict=True)):
        at, size = entry_address(bench, start, depth), level.word_bytes
        first = encode(level, table, level.table_flags)
        assert bench.tables.entry(start, depth) == (at, first)
        assert [bench.word(at + n * size, size) for n in range(1 + len(level.repeat))] == [
            first, *(first + more for more in level.repeat)
        ]  # fmt: skip
        assert bench.tables.address_of(first, depth) == table


def test_an_entry_below_an_empty_one_is_none(arch):
    bench, start = Bench(arch), start_of(arch)
    assert bench.tables.entry(start, 0) == (entry_address(bench, start, 0), 0)
    assert all(bench.tables.entry(start, depth) is None for depth in range(1, len(arch.levels)))
    assert (bench.tables.lookup(start), bench.tables.frame(start)) == (None, None)
    map_pages(bench, start, [1])
    for depth in (-1, len(arch.levels)):
        message = f"depth {depth}: these tables have levels 0 to {len(arch.levels) - 1}"
        with pytest.raises(IndexError, match=message):
            bench.tables.entry(start, depth)


def test_a_table_may_fail_at_every_level(arch):
    start = start_of(arch)
    for depth in range(len(arch.levels) - 1):
        bench = Bench(arch)
        bench.failing = depth + 1
        result = map_pages(bench, start, [1, 2])
        assert (result.ok, result.done, result.what) == (False, 0, "table")
        assert list(bench.tables.tables.values()) == [1] * depth + [0] * (len(arch.levels) - 1 - depth)
        assert bench.failing == 0
        assert map_pages(bench, start, [1, 2]).ok
        assert len(bench.scan()) == 2


@pytest.mark.parametrize("nth", [1, 3, 17])
def test_what_was_mapped_before_a_table_failed_stays(arch, nth):
    bench, tables = Bench(arch), per_table(arch)
    start = start_of(arch) - start_of(arch) % (tables << arch.page_shift) + (tables - 2 << arch.page_shift)
    frames = numbers(18 * tables)
    map_pages(bench, start, frames[:1])
    bench.failing = nth
    result = map_pages(bench, start + arch.page_size, frames)
    done = 1 + (nth - 1) * tables
    assert (result.ok, result.done, result.what) == (False, done, "table")
    assert len(bench.scan()) == done + 1


def test_a_source_that_is_empty(arch):
    upper = len(arch.levels) - 1
    bench = Bench(arch, tables=range(FIRST_TABLE, FIRST_TABLE + upper * arch.page_size, arch.page_size))
    tables = per_table(arch)
    start = start_of(arch) - start_of(arch) % (tables << arch.page_shift)
    result = map_pages(bench, start, numbers(tables + 1))
    assert (result.done, result.what) == (tables, "table")
    assert bench.tables.populate(start, start + (tables << arch.page_shift))
    assert not bench.tables.populate(start, start + (tables + 1 << arch.page_shift))


def test_populate_makes_tables_and_nothing_else(arch):
    bench, tables = Bench(arch), per_table(arch)
    start = start_of(arch) - start_of(arch) % (tables << arch.page_shift)
    assert bench.tables.populate(start + arch.page_size, start + (2 * tables + 1 << arch.page_shift))
    assert (bench.tables.tables[arch.levels[-1].name], bench.scan()) == (3, {})


@pytest.mark.parametrize("at", [0, 1, 30])
def test_a_null_page_ends_the_mapping(arch, at):
    for skip in (0, -5):
        bench = Bench(arch)
        start = start_of(arch) + (per_table(arch) + skip << arch.page_shift)
        frames = numbers(40)
        frames[at] = NO_FRAME
        result = map_pages(bench, start, frames)
        assert (result.ok, result.done, result.what) == (False, at, "page")
        assert bench.scan() == expected(arch, start, frames[:at], arch.page_kernel)


@pytest.mark.parametrize("count", [5, 30])
def test_a_live_entry_is_warned_about_and_overwritten(arch, count):
    bench, start = Bench(arch), start_of(arch)
    page = arch.page_size
    map_pages(bench, start + 2 * page, [7, 8])
    frames = numbers(count)
    assert map_pages(bench, start, frames).ok
    assert bench.log == [OVERWRITTEN, OVERWRITTEN]
    assert bench.scan() == expected(arch, start, frames, arch.page_kernel)


def test_a_null_page_over_a_live_entry_is_warned_about_and_left(arch):
    bench, start = Bench(arch), start_of(arch)
    map_pages(bench, start, [7])
    assert map_pages(bench, start, [NO_FRAME]).done == 0
    assert (bench.log, bench.scan()) == ([OVERWRITTEN], expected(arch, start, [7], arch.page_kernel))


def odd_word(arch):
    """Return a last-level word that is neither none nor present."""
    level = arch.levels[-1]
    taken = level.present_mask | level.frame_mask
    word = next(1 << bit for bit in range(8 * level.word_bytes) if not taken >> bit & 1)
    assert word & level.none_mask
    return word


@pytest.mark.parametrize("count", ["few", "a table", "many tables"])
def test_an_entry_neither_none_nor_present_is_warned_about_and_cleared(arch, count):
    bench, count = Bench(arch), COUNTS[count](per_table(arch))
    start = start_of(arch)
    map_pages(bench, start, numbers(count))
    odd = {start + (n << arch.page_shift) for n in (1, 2, count - 1)}
    for address in odd:
        at = entry_address(bench, address, len(arch.levels) - 1)
        bench.memory.store(at, odd_word(arch), arch.levels[-1].word_bytes)
        assert (bench.tables.lookup(address), bench.tables.frame(address)) == (odd_word(arch), None)
    assert np.flatnonzero(bench.tables.frames(start, count) == NO_FRAME).tolist() == [1, 2, count - 1]
    bench.tables.unmap(start, start + (count << arch.page_shift))
    assert (bench.log, bench.scan()) == ([NOT_PRESENT] * 3, {})


@pytest.mark.parametrize("ragged", [1, -1])
def test_a_range_that_is_not_whole_pages_runs_over(arch, ragged):
    page, start = arch.page_size, start_of(arch)
    for first, end in ((start, start + 3 * page + ragged), (start + ragged % page, start + 3 * page)):
        bench = Bench(arch)
        with pytest.raises(Oops) as caught:
            bench.tables.map(first, end, np.arange(1, 9), arch.page_kernel)
        assert caught.value.args == (0, "page-table overrun")
        map_pages(bench, end - 4 * page & -page, [1])
        with pytest.raises(Oops, match="page-table overrun"):
            bench.tables.unmap(first, end)


def test_a_huge_unmap_costs_what_is_mapped(arch):
    layout = arch.lay_out(LayoutRequest(ram=256 << 20))
    bench, page = Bench(arch), arch.page_size
    start, end = layout.vmalloc_start, layout.vmalloc_end & -page
    for address in (start, (start + end) // 2 & -page, end - page):
        map_pages(bench, address, [3])
    began = time.perf_counter()
    bench.tables.unmap(start, end)
    assert time.perf_counter() - began < 1
    assert bench.scan() == {}


def test_the_loser_of_a_race_gives_its_table_back(arch):
    bench, start = Bench(arch), start_of(arch)
    others, level = bench.tables, arch.levels[0]
    inner = bench.alloc_table

    def slow():
        bench.alloc_table = inner
        mine = inner()
        map_pages(bench, start, [9])  # another CPU maps the page while this one clears its table
        return mine

    bench.alloc_table = slow
    made = bench.tables.populate(start, start + arch.page_size)
    assert (made, bench.taken_back) == (True, [FIRST_TABLE])
    assert others.tables == {lv.name: 1 for lv in arch.levels[1:]}
    assert decode(level, others.entry(start, 0)[1]) == FIRST_TABLE + arch.page_size
    assert len(bench.scan()) == 1


def test_copying_an_entry_copies_all_its_words(arch):
    bench, start = Bench(arch), start_of(arch)
    map_pages(bench, start, [1])
    at, _ = bench.tables.entry(start, 0)
    to = ROOT + 0x20000
    bench.tables.copy_entry(to, at, 0)
    size = arch.levels[0].entry_bytes
    assert bench.memory.read(to, size) == bench.memory.read(at, size) != bytes(size)


def test_a_range_larger_than_its_pages_costs_memory_for_a_block_of_it(kernel):
    k = kernel("x86_64", ram="64M")
    k.num_physpages = 1 << 62
    tracemalloc.start()
    try:
        with pytest.raises(OutOfMemory):
            k.vmalloc(0x1FFF_FFFF_FFFF)  # nr_pages is an unsigned int: few pages for 32 TiB
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20
    k.check()


# ---- ranges over tables that exist, which the short ways are for


@pytest.mark.parametrize("count", [4, 40])
@pytest.mark.parametrize("ragged", [1, -1, 2])
def test_a_ragged_range_runs_over_in_a_table_that_exists_too(arch, ragged, count):
    """The entries of the range are written before the walk leaves the table, that of the part of a page too."""
    page, bench, base = arch.page_size, Bench(arch), table_start(arch)
    bench.tables.populate(base, base + page)
    count = min(count, per_table(arch) - 1)
    end, frames = base + count * page + ragged, numbers(count + 1)
    with pytest.raises(Oops):
        bench.tables.map(base, end, frames, arch.page_kernel)
    written = -(-(end - base) // page)
    assert bench.scan() == expected(arch, base, frames[:written], arch.page_kernel)


@pytest.mark.parametrize("count", [6, 40])
def test_a_range_over_the_border_of_two_tables_that_lie_apart(arch, count):
    apart = range(FIRST_TABLE, RAM_END, 5 * arch.page_size)
    bench, base, size = Bench(arch, tables=apart), table_start(arch), per_table(arch) << arch.page_shift
    bench.tables.populate(base, base + 2 * size)
    start, frames = base + size - 3 * arch.page_size, numbers(count)
    assert map_pages(bench, start, frames).done == count
    assert bench.scan() == expected(arch, start, frames, arch.page_kernel)
    bench.tables.unmap(start, start + (count << arch.page_shift))
    assert bench.scan() == {}


@pytest.mark.parametrize("count", [1, 5, 30])
def test_every_entry_of_a_range_is_live(arch, count):
    bench, start = Bench(arch), table_start(arch)
    map_pages(bench, start, numbers(count, 1))
    frames = numbers(count, 2)
    assert map_pages(bench, start, frames).done == count
    assert bench.log == [OVERWRITTEN] * count
    assert bench.scan() == expected(arch, start, frames, arch.page_kernel)


@pytest.mark.parametrize("count", [3, 40])
def test_frame_0_is_a_page_like_any_other(arch, count):
    bench, start, frames = Bench(arch), table_start(arch), numbers(count)
    frames[1] = 0
    result = map_pages(bench, start, frames)
    assert (result.ok, result.done) == (True, count)
    assert bench.tables.frames(start, count).tolist() == frames.tolist()


@pytest.mark.parametrize("count", [COUNTS["few tables"], COUNTS["many tables"]], ids=["few tables", "many tables"])
def test_a_ragged_unmap_clears_whole_tables_up_to_the_one_it_runs_over_in(arch, count):
    size, base = per_table(arch) << arch.page_shift, table_start(arch)
    count = count(per_table(arch)) // per_table(arch) * per_table(arch)
    end = base + (count << arch.page_shift)
    bench = Bench(arch)
    map_pages(bench, base, numbers(count))
    with pytest.raises(Oops, match="page-table overrun"):
        bench.tables.unmap(base, end - 8)
    assert bench.scan() == {}
    map_pages(bench, base, numbers(count))
    with pytest.raises(Oops, match="page-table overrun"):
        bench.tables.unmap(base + 8, end)
    assert min(bench.scan()) == base + size  # the first table runs over at its end, and the others stay
    assert len(bench.scan()) == count - per_table(arch)


@pytest.mark.parametrize("skip", [0, 3])
def test_many_tables_are_cleared_up_to_the_end_and_no_further(arch, skip):
    tables, base = per_table(arch), table_start(arch)
    bench, frames = Bench(arch), numbers(20 * tables)
    map_pages(bench, base, frames)
    first, stop = tables + skip, 18 * tables
    bench.tables.unmap(base + (first << arch.page_shift), base + (stop << arch.page_shift))
    want = expected(arch, base, frames, arch.page_kernel)
    for n in range(first, stop):
        del want[base + (n << arch.page_shift)]
    assert bench.scan() == want


@pytest.mark.parametrize("count", [COUNTS["few"], COUNTS["few tables"], COUNTS["many tables"]])
def test_what_is_cleared_is_told_of_in_order_and_each_warning_ends_its_run(arch, count):
    heard, count = [], count(per_table(arch))

    def cleared(address, entries):
        heard.append((address, len(entries)))
        assert not entries.flags.writeable
        assert all(bench.tables.lookup(address + (n << arch.page_shift)) == 0 for n in (0, len(entries) - 1))

    bench, start, tables = Bench(arch, on_cleared=cleared), table_start(arch), per_table(arch)
    bench.warn_on = lambda *what: heard.append(what)
    map_pages(bench, start, numbers(count))
    bench.tables.unmap(start + (9 << arch.page_shift), start + (10 << arch.page_shift))
    assert heard.pop() == (start + (9 << arch.page_shift), 1)
    odd = (0, 2, 3, 8, 10, 12, count - 1)
    for n in odd:
        at = entry_address(bench, start + (n << arch.page_shift), len(arch.levels) - 1)
        bench.memory.store(at, odd_word(arch), arch.levels[-1].word_bytes)
    bench.tables.unmap(start, start + (count << arch.page_shift))
    edges = {0, 9, 10, count, *(n + 1 for n in odd), *range(0, count, tables)}
    want = []
    for a, b in pairwise(sorted(edges)):
        if a != 9:
            want += [(start + (a << arch.page_shift), b - a), *([NOT_PRESENT] if b - 1 in odd else [])]
    assert heard == want
    assert bench.scan() == {}


# ---- every entry, and where it is


def test_entries_at_the_ends_of_the_address_space_and_of_its_halves(arch):
    """Addresses are extended from the top bit that the tables know, and from no other."""
    bits = arch.levels[0].shift + arch.levels[0].bits
    bench, page = Bench(arch), arch.page_size
    high = arch.word_mask + 1 - (1 << bits - 1)
    halves = [0, 1 << bits - 2, (1 << bits - 1) - page, high, high | 1 << bits - 2, arch.word_mask + 1 - page]
    for n, address in enumerate(halves, 1):
        assert map_pages(bench, address, [n]).ok
    addresses, words = bench.tables.entries()
    assert (addresses.dtype, addresses.tolist()) == (np.uint64, halves)
    assert words.tolist() == [expected(arch, a, [n], arch.page_kernel)[a] for n, a in enumerate(halves, 1)]
    assert bench.scan() == dict(zip(halves, words.tolist(), strict=True))


def test_each_bit_of_present_makes_an_entry_present(arch):
    """For example _PAGE_PROTNONE of x86, which no level above the last knows."""
    last, page, start = arch.levels[-1], arch.page_size, table_start(arch)
    bits = [1 << n for n in range(8 * last.word_bytes) if last.present_mask >> n & 1]
    bench = Bench(arch)
    map_pages(bench, start, range(1, len(bits) + 1))
    for n, bit in enumerate(bits):
        at = entry_address(bench, start + n * page, len(arch.levels) - 1)
        bench.memory.store(at, encode(last, n + 1 << arch.page_shift, bit), last.word_bytes)
    assert bench.tables.frames(start, len(bits)).tolist() == list(range(1, len(bits) + 1))
    assert [bench.tables.frame(start + n * page) for n in range(len(bits))] == list(range(1, len(bits) + 1))
    bench.tables.unmap(start, start + len(bits) * page)
    assert (bench.log, bench.scan()) == ([], {})


def test_an_entry_that_is_cleared_is_cleared_in_all_its_words(arch):
    bench, start = Bench(arch), table_start(arch)
    map_pages(bench, start, [1])
    for depth, level in reversed(list(enumerate(arch.levels[:-1]))):
        at = entry_address(bench, start, depth)
        bench.tables.set_entry(at, depth, 0)
        assert bench.memory.read(at, level.entry_bytes) == bytes(level.entry_bytes)


def test_without_an_entry_there_are_arrays_of_the_same_types(arch):
    addresses, words = Bench(arch).tables.entries()
    assert (addresses.dtype, words.dtype) == (np.uint64, np.dtype(f"u{arch.levels[-1].word_bytes}"))
    assert (addresses.shape, words.shape) == ((0,), (0,))


# ---- ranges that begin or end inside of a page


@pytest.mark.parametrize("count", [2, 18], ids=["few tables", "many tables"])
def test_a_byte_of_the_next_table_is_a_page_of_it(arch, count):
    bench, base, pages = Bench(arch), table_start(arch), count * per_table(arch)
    end, frames = base + (pages << arch.page_shift) + 1, numbers(pages + 1)
    with pytest.raises(Oops) as caught:
        bench.tables.map(base, end, frames, arch.page_kernel)
    assert caught.value.args == (0, "page-table overrun")
    assert bench.scan() == expected(arch, base, frames, arch.page_kernel)
    with pytest.raises(Oops) as caught:
        bench.tables.unmap(base, end)
    assert (caught.value.args, bench.scan()) == ((0, "page-table overrun"), {})


def test_a_ragged_unmap_from_the_middle_of_a_table_ends_with_the_table(arch):
    bench, base, tables = Bench(arch), table_start(arch), per_table(arch)
    frames = numbers(3 * tables)
    map_pages(bench, base, frames)
    start = base + (tables + 7 << arch.page_shift)
    with pytest.raises(Oops) as caught:
        bench.tables.unmap(start, start + arch.page_size + 8)
    assert caught.value.args == (0, "page-table overrun")
    want = expected(arch, base, frames, arch.page_kernel)
    for n in range(tables + 7, 2 * tables):
        del want[base + (n << arch.page_shift)]
    assert bench.scan() == want


@pytest.mark.parametrize("count", [3, 30])
def test_whole_pages_from_inside_of_a_page_do_not_run_over(arch, count):
    """C's loops step by pages and end where the address is the end, wherever in a page that is."""
    bench, start, page = Bench(arch), table_start(arch), arch.page_size
    assert bench.tables.map(start + 8, start + 8 + count * page, numbers(count), arch.page_kernel).done == count
    assert bench.scan() == expected(arch, start, numbers(count), arch.page_kernel)
    bench.tables.unmap(start + 8, start + 8 + (count - 1) * page)
    assert list(bench.scan()) == [start + (count - 1) * page]


# ---- what a listener hears of a mapping


@pytest.mark.parametrize("count", [COUNTS["few"], COUNTS["few tables"], COUNTS["many tables"]])
@pytest.mark.parametrize("apart", [1, 3])
def test_what_is_mapped_is_told_of_in_order_and_each_warning_ends_its_run(arch, count, apart):
    heard, count = [], count(per_table(arch))

    def mapped(address, entries, frames):
        assert not entries.flags.writeable
        assert not frames.flags.writeable
        pairs = zip(entries, frames, strict=True)
        heard.extend((address + (n << arch.page_shift), *pair) for n, pair in enumerate(pairs))

    source = range(FIRST_TABLE, RAM_END, apart * arch.page_size)
    bench, start = Bench(arch, tables=source, on_mapped=mapped), table_start(arch)
    live = sorted({0, 1, 5, count - 1})
    for n in live:
        map_pages(bench, start + (n << arch.page_shift), [n + 1])
    bench.tables.populate(start, start + (count << arch.page_shift))
    heard.clear()
    bench.warn_on = lambda *what: heard.append(what)
    frames = numbers(count)
    map_pages(bench, start, frames)
    want = []
    for n, (address, word) in enumerate(expected(arch, start, frames, arch.page_kernel).items()):
        want += [*([OVERWRITTEN] if n in live else []), (address, word, frames[n])]
    assert heard == want
