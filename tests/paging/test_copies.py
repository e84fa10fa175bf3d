"""The fast copies of the walk and of the encoding agree with the plain forms, on sound and on damaged tables."""

import random

import numpy as np
import pytest

from tests.paging.test_tables import map_pages, numbers, per_table, start_of
from tests.support.slow_walker import Bench, decode, encode
from vmcore.architecture.levels import decode_many, encode_many
from vmcore.paging.pte import Descent, descend, lay_out
from vmcore.paging.ptes import LastLevelEntries


def laid_out(bench):
    return lay_out(bench.arch.levels)


def plain_table(bench, address, follow=None):
    """Return the table that `find_table` finds, by the plain walk and each entry's own tests."""
    memory = bench.memory

    def decide(depth, level, at):
        word = memory.load(at, level.size)
        if word & level.sure_mask == level.sure_value:
            return word
        return follow(depth, level, at) if word and follow else None

    return descend(laid_out(bench)[:-1], bench.tables.root, address, decide)


@pytest.fixture
def spans(arch):
    """A bench with five last-level tables, of which one in the middle is missing, and an address in each span."""
    bench, size = Bench(arch), per_table(arch) << arch.page_shift
    start = start_of(arch) & -size
    for n in (0, 1, 3, 4):
        assert bench.tables.populate(start + n * size, start + n * size + arch.page_size)
    return bench, [start + n * size + 3 * arch.page_size for n in range(5)]


def test_find_table_is_the_plain_walk(spans):
    bench, addresses = spans
    found = [bench.tables.find_table(a) for a in addresses]
    assert found == [plain_table(bench, a) for a in addresses]
    assert (found[2], len({*found} - {None})) == (None, 4)
    first = addresses[0] >> bench.tables.span
    assert bench.tables.find_tables(first, 5).tolist() == [-1 if t is None else t for t in found]


def test_find_table_asks_about_every_unusual_entry(arch, spans):
    """Whatever an upper entry is, the walk goes on, stops, or asks, as the plain walk does."""
    bench, addresses = spans
    depth, rng = len(arch.levels) - 2, random.Random(arch.name)
    level = arch.levels[depth]
    at, word = bench.tables.entry(addresses[0], depth)
    for _ in range(200):
        damaged = rng.choice((word, 0, level.table_flags)) ^ sum(
            1 << rng.randrange(12) for _ in range(rng.randrange(4))
        )
        bench.tables.set_entry(at, depth, damaged)
        asked = ([], [])
        for mine, walk in zip(
            asked, (bench.tables.find_table, lambda a, f: plain_table(bench, a, f)), strict=True
        ):

            def follow(depth, level, entry, mine=mine, damaged=damaged):
                mine.append((depth, entry))
                return bench.memory.load(entry, level.size) if level.level.present_mask & damaged else None

            mine.append(walk(addresses[0], follow))
        assert asked[0] == asked[1]


def test_a_sure_entry_points_to_a_table(arch):
    for level, own in zip(laid_out_levels := lay_out(arch.levels), arch.levels, strict=True):
        if level is laid_out_levels[-1]:
            continue
        word = own.table_flags
        assert word & level.sure_mask == level.sure_value
        rng = random.Random(level.shift)
        for _ in range(2000):
            word = rng.getrandbits(8 * level.size) & rng.getrandbits(8 * level.size) | rng.choice(
                (0, own.table_flags)
            )
            if word & level.sure_mask == level.sure_value:
                assert word & own.none_mask
                assert word & own.missing_mask
                assert word & own.bad_mask == own.good_value


def test_word_index_is_the_formula(arch, spans):
    bench, addresses = spans
    last, table = laid_out(bench)[-1], bench.tables.find_table(addresses[0])
    for address in addresses:
        entry = last.entry(table, address)
        index = last.indices(np.array([address], np.uint64))
        assert entry == last.entries(np.array([table]), index)[0]
        assert bench.tables.word_index(table, address) == bench.memory.offset(entry) >> last.word_shift


def test_short_forms_of_encoding_store_what_encode_makes(arch):
    bench = Bench(arch)
    map_pages(bench, start_of(arch), numbers(1))
    frames, prot = np.array(numbers(9), np.int64), arch.page_kernel
    ptes = LastLevelEntries(arch, bench.tables)
    want = ptes.encode(frames, prot).tolist()
    last = arch.levels[-1]
    flags = prot & ptes.supported
    assert want == [encode(last, frame << arch.page_shift, flags) for frame in frames.tolist()]
    if not ptes.plain:
        return
    at = bench.tables.word_index(bench.handed_out[-1], 0)
    ptes.fill(slice(at, at + 9), frames, prot)
    assert ptes.array[at : at + 9].tolist() == want
    assert not ptes.fill_few(at, frames.tolist(), prot)  # they are not none
    ptes.store(slice(at, at + 9), 0)
    assert not ptes.fill_few(at, [*frames.tolist()[:8], -1], prot)
    assert ptes.array[at : at + 9].tolist() == [0] * 9
    assert ptes.fill_few(at, frames.tolist(), prot)
    assert ptes.array[at : at + 9].tolist() == want


def test_one_decoding_and_one_encoding(arch):
    """Scalars and arrays, in place and by segments, are what the bits say one by one."""
    rng = np.random.default_rng(7)
    for level in (*arch.levels, *arch.hardware_levels):
        words = rng.integers(0, 1 << 8 * level.word_bytes, 50, np.uint64).astype(f"u{level.word_bytes}")
        want = [decode(level, word) for word in words.tolist()]
        out = lay_out([level])[0]
        assert out.tables(words).tolist() == decode_many(level.frame, words).tolist() == want
        assert [out.table(w) for w in words.tolist()] == [level.decode(w) for w in words.tolist()] == want
        assert encode_many(level.frame, np.array(want, np.uint64), 1).tolist() == [
            encode(level, a, 1) for a in want
        ]
        for page in out.pages:
            starts = [
                address >> page.shift << page.shift
                for address in (decode(page.leaf or level, w) for w in words.tolist())
            ]
            assert page.starts(words).tolist() == [page.start(w) for w in words.tolist()] == starts


@pytest.mark.parametrize("count", [1, 40, 5000])
def test_many_addresses_walk_as_each_does(spans, count):
    """Entries that are shared and read once, and entries that are not, lead to the same tables."""
    bench, addresses = spans
    rng = random.Random(count)
    asked = [
        rng.choice(addresses) + rng.randrange(per_table(bench.arch) - 3 << bench.arch.page_shift)
        for _ in range(count)
    ]
    walk = Descent(bench.tables.root, np.array(asked, np.uint64))
    for level in laid_out(bench)[:-1]:
        words = np.array([bench.memory.load(at, level.size) for at in walk.entries(level).tolist()], np.uint64)
        walk.follow(level, words, words != 0)
    found = dict(zip(walk.who.tolist(), walk.tables[walk.node].tolist(), strict=True))
    assert [found.get(n) for n in range(count)] == [plain_table(bench, a) for a in asked]
