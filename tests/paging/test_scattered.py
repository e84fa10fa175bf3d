"""Tables that lie anywhere: many at once are written, read and cleared as if they were side by side."""

import random

import pytest

from tests.paging.test_tables import (
    NOT_PRESENT,
    OVERWRITTEN,
    expected,
    map_pages,
    numbers,
    odd_word,
    per_table,
    start_of,
)
from tests.support.slow_walker import FIRST_TABLE, Bench
from vmcore.flags import NO_FRAME


def scattered(arch):
    tables = [FIRST_TABLE + 3 * n * arch.page_size for n in range(200)]
    random.Random(3).shuffle(tables)
    return Bench(arch, tables=tables)


@pytest.mark.parametrize("tail", [0, 5])
def test_map_over_existing_tables_and_unmap(arch, tail):
    bench, tables = scattered(arch), per_table(arch)
    start = (start_of(arch) & -(tables << arch.page_shift)) + (tables << arch.page_shift)
    count = 20 * tables + tail
    end = start + (count << arch.page_shift)
    assert bench.tables.populate(start, end)
    frames = numbers(count)
    assert map_pages(bench, start, frames).ok
    want = expected(arch, start, frames, arch.page_kernel)
    assert bench.scan() == want
    addresses, words = bench.tables.entries()
    assert dict(zip(addresses.tolist(), words.tolist(), strict=True)) == want
    assert bench.tables.frames(start, count).tolist() == frames.tolist()
    bench.tables.unmap(start, end)
    assert (bench.scan(), bench.log) == ({}, [])
    assert all(
        not any(bench.memory.read(t, arch.page_size)) for t in bench.handed_out[len(arch.levels) - 2 :][-5:]
    )


def test_warnings_over_scattered_tables(arch):
    bench, tables = scattered(arch), per_table(arch)
    start = (start_of(arch) & -(tables << arch.page_shift)) + (tables << arch.page_shift)
    count = 18 * tables
    end = start + (count << arch.page_shift)
    bench.tables.populate(start, end)
    for n in (3, 5 * tables + 1):
        map_pages(bench, start + (n << arch.page_shift), [9])
    frames = numbers(count)
    map_pages(bench, start, frames)
    assert bench.log == [OVERWRITTEN, OVERWRITTEN]
    assert bench.scan() == expected(arch, start, frames, arch.page_kernel)
    at = bench.tables.entry(start + (7 * tables << arch.page_shift), len(arch.levels) - 1)[0]
    bench.memory.store(at, odd_word(arch), arch.levels[-1].word_bytes)
    bench.tables.unmap(start, end)
    assert (bench.log[2:], bench.scan()) == ([NOT_PRESENT], {})


def test_a_null_page_in_the_middle(arch):
    bench, tables = scattered(arch), per_table(arch)
    start = (start_of(arch) & -(tables << arch.page_shift)) + (tables << arch.page_shift)
    count, stop = 18 * tables, 9 * tables + 7
    bench.tables.populate(start, start + (count << arch.page_shift))
    frames = numbers(count)
    frames[stop] = NO_FRAME
    result = map_pages(bench, start, frames)
    assert (result.done, result.what) == (stop, "page")
    assert bench.scan() == expected(arch, start, frames[:stop], arch.page_kernel)
