"""The engine on tables of real kernels, on the traps that other tools fell into, and on damaged tables."""

import csv
import hashlib
import lzma
import os
import random
import struct
import time
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from attrs import evolve

from tests.support import slow_walker
from tests.support.dumps import RECORDS, capture, core
from vmcore.dump import open_dump
from vmcore.dump.root import find_root, read_vmcoreinfo
from vmcore.errors import ArgumentError
from vmcore.flags import VM
from vmcore.memory.physical import PhysicalMemory
from vmcore.paging.mappings import TABLES, find_mappings
from vmcore.paging.mmu import End, Mmu
from vmcore.paging.runs import merge, repeats
from vmcore.units import Bank

PAGE = 0x1000
MUTATIONS = int(os.environ.get("VMCORE_MUTATIONS", "100"))  # of each capture
READ_BY = [
    *RECORDS.items(),
    ("i386-2level", "i386-highmem"),
    ("i386-pae", "i386-pae-highmem"),
    ("arm-short", "armv7"),
]
FOUND = [(name, RECORDS[name]) for name in RECORDS]


@cache
def opened(name):
    return open_dump(capture(name).core)


@pytest.fixture
def machine(registry):
    """Return a function from the names of a capture and a record to its walk."""

    def mmu(name, arch, root=None):
        if arch not in registry.architectures:
            pytest.skip(f"no plugin for {arch} is installed")
        return Mmu(registry.get(arch), opened(name), capture(name).root if root is None else root)

    return mmu


@pytest.fixture
def dumped(tmp_path, registry):
    """Return a function from a record's name, the root and {physical address: bytes} to a walk over a dump."""

    def mmu(arch, root, segments):
        path = tmp_path / "ram.elf"
        path.write_bytes(core(sorted(segments.items())))
        return Mmu(registry.get(arch), open_dump(path), root)

    return mmu


def quads(entries, size=PAGE):
    """Return a table of 64-bit words from {index: word}."""
    return b"".join(struct.pack("<Q", entries.get(n, 0)) for n in range(size // 8))


def words(entries, size=PAGE):
    """Return a table of 32-bit words from {index: word}."""
    return b"".join(struct.pack("<I", entries.get(n, 0)) for n in range(size // 4))


def as_pairs(found):
    return list(zip(found.virtual.tolist(), found.physical.tolist(), found.shift.tolist(), strict=True))


def array(addresses):
    return np.array(addresses, np.uint64)


# ---- real kernels


@pytest.mark.parametrize(("name", "arch"), READ_BY)
def test_every_row_of_a_capture_singly_and_in_batch(name, arch, machine):
    m, rows = machine(name, arch), capture(name).rows()
    virtual, physical = [row[0] for row in rows], [row[1] for row in rows]
    assert len(rows) == capture(name).meta["samples"]["total"]
    assert sum(p is not None for p in physical) == capture(name).meta["samples"]["mapped"]
    assert [m.translate(a) for a in virtual] == physical
    assert [m.walk(a).physical for a in virtual] == physical
    expected = [-1 if p is None else p for p in physical]
    assert m.translate_many(array(virtual)).tolist() == expected
    assert m.walk_many(array(virtual)).physical.tolist() == expected


@pytest.mark.parametrize(("name", "arch"), READ_BY)
def test_the_root_by_vmcoreinfo_and_the_root_of_the_process_give_the_same_rows(name, arch, machine, registry):
    m, rows = machine(name, arch), capture(name).rows()
    known = find_root(opened(name), registry.get(arch), vmcoreinfo=read_vmcoreinfo(capture(name).vmcoreinfo))
    assert known.address == capture(name).root
    m.root = int(capture(name).meta["process_root"]["phys"], 16)
    expected = [-1 if p is None else p for _, p in rows]
    assert m.translate_many(array([v for v, _ in rows])).tolist() == expected


@pytest.mark.parametrize(("name", "arch"), READ_BY)
def test_content_read_by_virtual_address(name, arch, machine):
    m = machine(name, arch)
    for sample in capture(name).meta["content"]:
        start = int(sample["vaddr"], 16)
        places = m.translate_many(array(range(start, start + sample["bytes"], PAGE))).tolist()
        data = b"".join(m.memory.read(at, PAGE) for at in places)
        assert data == (capture(name).folder / sample["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == sample["sha256"]


class Counting:
    """Memory that notes which pages are asked for."""

    def __init__(self, memory):
        self.memory, self.pages = memory, set()

    def rows(self, starts, row_bytes, size):
        self.pages |= set((starts >> 12).tolist())
        return self.memory.rows(starts, row_bytes, size)


@pytest.mark.parametrize(("name", "arch"), READ_BY)
def test_every_leaf_of_a_capture_and_every_table(name, arch, machine):
    m, meta = machine(name, arch), capture(name).meta
    m.memory = counting = Counting(m.memory)
    found = find_mappings(m)
    assert found.partial == ()
    sizes = Counter(hex(1 << shift) for shift in found.shift.tolist())
    assert sizes == meta["leaf_sizes"]
    tables = sum(count for level, count in meta["tables"].items() if level.isdigit())
    root_pages = max(meta["table_bytes"]["0"][0] >> 12, 1)
    assert len(counting.pages) == tables - 1 + root_pages
    assert (np.diff(found.virtual.view(np.int64)) > 0).all()
    m.memory = counting.memory
    for inside in (0, 0x123, PAGE - 1):
        assert (m.translate_many(found.virtual + np.uint64(inside)) == found.physical + inside).all()
    walks = m.walk_many(found.virtual)
    assert (walks.depth == found.depth).all()
    assert (walks.leaf == found.leaf).all()
    assert (walks.words[found.depth, np.arange(len(found))] == found.word).all()


@pytest.mark.parametrize(("name", "arch"), READ_BY)
def test_the_page_size_of_every_row(name, arch, machine):
    m = machine(name, arch)
    with lzma.open(capture(name).folder / "translations.csv.xz", "rt") as file:
        rows = [(int(r["vaddr"], 16), int(r["page_size"])) for r in csv.DictReader(file) if r["page_size"]]
    found = find_mappings(m)
    n = np.searchsorted(found.virtual, array([v for v, _ in rows]), "right") - 1
    assert (1 << found.shift[n].astype(np.int64)).tolist() == [size for _, size in rows]
    assert len(rows) == capture(name).meta["samples"]["mapped"]


@pytest.mark.parametrize(("name", "arch"), FOUND)
def test_ranges_are_cut_out_of_the_whole(name, arch, machine):
    m = machine(name, arch)
    whole = find_mappings(m)
    last = whole.virtual + (np.uint64(1) << whole.shift.astype(np.uint64)) - np.uint64(1)
    choice = random.Random(name)
    edges = sorted([*choice.sample(whole.virtual.tolist(), 12), 0, m.word_mask])
    for start, end in pairwise(edges):
        for shift in (0, 1, 0x123000):
            low, high = start + shift, end + shift
            part = find_mappings(m, low, high)
            keep = (whole.virtual < np.uint64(min(high, m.word_mask))) & (last >= np.uint64(min(low, m.word_mask)))
            assert as_pairs(part) == list(
                zip(whole.virtual[keep].tolist(), whole.physical[keep].tolist(), whole.shift[keep].tolist(),
                    strict=True)
            )  # fmt: skip


def test_tables_of_the_process_that_a_sparse_dump_lacks_are_named(machine):
    root = int(capture("x86_64-l4").meta["process_root"]["phys"], 16)
    m = machine("x86_64-l4", "x86_64", root)
    found = find_mappings(m)
    assert len(found) == 99336
    assert found.partial == ("2 tables are not in memory, the first at 0x108604000",)
    missing = found.missing
    assert missing.physical.tolist() == [0x108604000, 0x108605000]
    assert missing.depth.tolist() == [1, 1]
    assert missing.start.tolist() == [0, 0x7F8000000000]
    assert missing.last.tolist() == [0x7FFFFFFFFF, 0x7FFFFFFFFFFF]
    assert find_mappings(m, 1 << 63).partial == ()
    assert len(find_mappings(m, 0x8000000000, 0x7F8000000000).missing) == 0
    assert m.walk(0x1000).end is End.NOT_IN_MEMORY


def test_runs_of_a_capture(machine):
    m = machine("arm-short", "armv7-highmem")
    runs = merge(m, find_mappings(m, 0xBF000000, 0xC3000000))
    columns = (runs.virtual, runs.physical, runs.size, runs.count, runs.shift, runs.flags)
    rows = list(zip(*(x.tolist() for x in columns), strict=True))
    assert rows[0] == (0xBF000000, 0xBE89A000, 0x1000, 1, 12, 0x65E)
    assert [row for row in rows if row[4] == 20] == [
        (0xC0000000, 0x40000000, 3 << 20, 3, 20, 0x1141E),
        (0xC0300000, 0x40300000, 12 << 20, 12, 20, 0x1940E),
        (0xC0F00000, 0x40F00000, 5 << 20, 5, 20, 0x1941E),
        (0xC1400000, 0x41400000, 28 << 20, 28, 20, 0x1141E),
    ]


# ---- traps


def test_a_directory_of_512_equal_entries_is_read_whole(dumped):
    clones = quads(dict.fromkeys(range(512), 0x3067))
    m = dumped("x86_64", 0x1000, {0x1000: quads({511: 0x2067}), 0x2000: clones, 0x3000: quads({5: 0x4067}),
                                  0x4000: quads(dict.fromkeys(range(512), 0x77163))})  # fmt: skip
    start = 0xFFFFFF8000000000 + (5 << 21)
    assert m.translate(start + (3 << 30) + 0x7123) == 0x77123
    found = find_mappings(m)
    assert len(found) == 512 * 512
    assert found.partial == ()
    assert (found.physical == 0x77000).all()
    runs = merge(m, found)
    first, times, distance = repeats(runs)
    assert times.tolist() == [512] * 512
    assert set(distance.tolist()) == {PAGE}
    assert runs.virtual[first].tolist() == [start + (n << 30) for n in range(512)]


def test_espfix_of_a_real_kernel_is_one_series(machine):
    m = machine("x86_64-l4", "x86_64")
    runs = merge(m, find_mappings(m, 0xFFFFFF0000000000, 0xFFFFFF8000000000))
    _, times, distance = repeats(runs)
    assert (times.tolist(), distance.tolist()) == ([65536], [0x10000])
    assert (int(runs.virtual[0]), int(runs.physical[0])) == (0xFFFFFF0900009000, 0x100057000)


def test_a_32_byte_root_at_the_end_of_a_page_needs_no_page_behind_it(dumped):
    m = dumped("i386-pae", 0x1FE0, {0x1000: bytes(0xFE0) + quads({3: 0x2001}, 32), 0x2000: quads({0: 0x3063}),
                                    0x3000: quads({1: 0x163 | 0x5000})})  # fmt: skip
    assert m.memory.word(0x2000, 8) is not None
    assert m.translate(0xC0001234) == 0x5234
    assert m.translate_many(array([0xC0001234, 0xC0000000])).tolist() == [0x5234, -1]
    assert as_pairs(find_mappings(m)) == [(0xC0001000, 0x5000, 12)]
    assert find_mappings(m).partial == ()
    alone = dumped("i386-pae", 0x1FE0, {0x1000: bytes(0xFE0) + quads({3: 0x80000001}, 32)})
    assert find_mappings(alone).missing.physical.tolist() == [0x80000000]


def test_frames_above_4_gib_under_pae_are_not_cut(dumped, machine):
    nx = 1 << 63
    m = dumped("i386-pae", 0x1000, {0x1000: quads({3: 0x2001}, 32),
                                    0x2000: quads({0: 0x3063, 1: 0x1_8020_0000 | 0x1E3 | nx}),
                                    0x3000: quads({7: 0x1_7FC0_0161 | nx, 8: 0xF_FFFF_F163})})  # fmt: skip
    expected = [(0xC0007000, 0x17FC00000, 12), (0xC0008000, 0xFFFFFF000, 12), (0xC0200000, 0x180200000, 21)]
    assert as_pairs(find_mappings(m)) == expected
    assert [m.translate(v) for v, _, _ in expected] == [p for _, p, _ in expected]
    assert m.translate_many(array([v for v, _, _ in expected])).tolist() == [p for _, p, _ in expected]
    assert machine("i386-pae", "i386-pae").translate(0xF7807000) == 0x17FC00000


def test_flags_of_a_table_entry_do_not_leak_into_the_next_address(dumped):
    nx, software = 1 << 63, 0x7 << 52 & ~(0xF << 48) | 0x7 << 59
    m = dumped("x86_64", 0x1000, {0x1000: quads({510: 0x2061 | nx}), 0x2000: quads({38: 0x3061 | nx | software}),
                                  0x3000: quads({0: 0x4FE1 & ~0x80 | nx}),
                                  0x4000: quads({9: 0x5121 | nx | software})})  # fmt: skip
    start = 0xFFFFFF0980009000
    assert software & (1 << 52) - 1 == 0
    assert m.translate(start) == 0x5000
    assert as_pairs(find_mappings(m)) == [(start, 0x5000, 12)]
    found = find_mappings(m)
    assert found.paths[int(found.path[0])] == (0x61 | nx, 0x61 | nx | software, 0xFE1 & ~0x80 | nx)
    assert merge(m, found).flags.tolist() == [0x121 | nx | software]


@pytest.mark.parametrize("word", [0x5120, 0x5080, 0x5100, 0x5162, 0xFFFFF0FE, 0x80])
def test_entries_that_are_not_present_map_nothing_whatever_their_other_bits(dumped, word):
    m = dumped("i386", 0x1000, {0x1000: words({0x3E2: 0x2063, 0x3E3: word}), 0x2000: words({1: word, 2: 0x6163})})
    assert [m.translate(a) for a in (0xF8801000, 0xF8C00000, 0xF8802000)] == [None, None, 0x6000]
    assert m.translate_many(array([0xF8801000, 0xF8C00000])).tolist() == [-1, -1]
    assert as_pairs(find_mappings(m)) == [(0xF8802000, 0x6000, 12)]
    assert [m.walk(a).end for a in (0xF8801000, 0xF8C00000)] == [End.NOT_PRESENT, End.NOT_PRESENT]


def test_protnone_of_a_real_kernel_is_not_mapped(machine):
    m = machine("i386-2level", "i386")
    step = m.walk(0xFF40C000).steps[-1]
    assert (step.word, m.translate(0xFF40C000)) == (0x120, None)
    assert len(find_mappings(m, 0xFF40C000, 0xFF40D000)) == 0


def test_two_aliases_of_one_large_page_are_two_mappings(dumped, machine):
    large = 0x80000000FD0001F3
    m = dumped("x86_64", 0x1000, {0x1000: quads({402: 0x2067}), 0x2000: quads({0: 0x3067}),
                                  0x3000: quads({8: large, 20: large, 21: large})})  # fmt: skip
    at = [0xFFFFC90000000000 + (n << 21) for n in (8, 20, 21)]
    assert as_pairs(find_mappings(m)) == [(a, 0xFD000000, 21) for a in at]
    assert len(merge(m, find_mappings(m))) == 3
    real = machine("x86_64-l4", "x86_64")
    assert real.translate(0xFFFFC90002800000) == 0xFD000000
    virtual = find_mappings(real)
    assert (virtual.physical == 0xFD000000).sum() >= 2


def test_one_frame_512_times(kernel):
    k = kernel("x86_64", ram="64M")
    frame = 0x1234
    addr = k.vmap(np.full(512, frame, np.int64), 512, VM.MAP, k.arch.page_kernel)
    m = Mmu(k.arch, k.memory, k.init_mm.root)
    found = find_mappings(m, addr, addr + 512 * PAGE)
    assert as_pairs(found) == [(addr + n * PAGE, frame << 12, 12) for n in range(512)]
    assert m.translate_many(found.virtual).tolist() == [frame << 12] * 512


def test_pages_of_1_gib_at_both_ends_of_the_address_space(dumped):
    m = dumped("x86_64", 0x1000, {0x1000: quads({0: 0x2067, 256: 0x2067, 511: 0x3067}),
                                  0x2000: quads({1: 0x4000_0000 | 0xE7}),
                                  0x3000: quads({510: 0xF_8000_01E3, 511: 0xF_C000_01E3})})  # fmt: skip
    expected = [
        (0x40000000, 0x40000000, 30),
        (0xFFFF800040000000, 0x40000000, 30),
        (0xFFFFFFFF80000000, 0xF80000000, 30),
        (0xFFFFFFFFC0000000, 0xFC0000000, 30),
    ]
    assert as_pairs(find_mappings(m)) == expected
    assert m.translate(0xFFFFFFFFFFFFFFFF) == 0xFFFFFFFFF
    runs = merge(m, find_mappings(m))
    assert (runs.count.tolist(), runs.size.tolist()) == ([1, 1, 2], [1 << 30, 1 << 30, 2 << 30])
    assert as_pairs(find_mappings(m, 0xFFFFFFFF_FFFFFFFF)) == expected[3:]


ROOT = 0x40204000


def test_a_16_kib_root_lies_in_four_pages_each_of_which_may_be_missing(dumped):
    root = words({0xC00: 0x4001141E, 0xF08: 0x40300811, 0x10: 0x4020_0411}, 0x4000)
    pages = {ROOT + at: root[at : at + PAGE] for at in range(0, 0x4000, PAGE)}
    second = words({1: 0x40055_45F}, 0x400)
    whole = {**pages, 0x40300000: bytes(0x800) + second + second}
    expected = [(0xC0000000, 0x40000000, 20), (0xF0801000, 0x40055000, 12)]
    m = dumped("armv7-highmem", ROOT, whole)
    assert as_pairs(find_mappings(m)) == expected
    assert find_mappings(m).missing.physical.tolist() == [0x40200400]
    del whole[ROOT]
    m = dumped("armv7-highmem", ROOT, whole)
    found = find_mappings(m)
    assert as_pairs(found) == expected
    missing = found.missing
    columns = (missing.physical, missing.depth, missing.start, missing.last)
    assert [x.tolist() for x in columns] == [[ROOT], [0], [0], [0x3FFFFFFF]]
    assert m.walk(0x1000).end is End.NOT_IN_MEMORY
    assert find_mappings(m, 0xC0000000).partial == ()


def supersection(count, first=0xC10, entry=0x0240040E | 1 << 18):
    return words(dict.fromkeys(range(first, first + count), entry), 0x4000)


def test_a_supersection_repeated_16_times_is_one_mapping(dumped):
    m = dumped("armv7", 0x4000, {0x4000: supersection(16)})
    assert as_pairs(find_mappings(m)) == [(0xC1000000, 0x4_02000000, 24)]
    assert m.translate(0xC1FFFFFF) == 0x4_02FFFFFF
    assert as_pairs(find_mappings(m, 0xC1500000, 0xC1500001)) == [(0xC1000000, 0x4_02000000, 24)]


def test_a_supersection_that_is_not_repeated_is_mapped_megabyte_by_megabyte(dumped):
    m = dumped("armv7", 0x4000, {0x4000: supersection(3, 0xC12)})
    expected = [(0xC1000000 + (n << 20), 0x4_02000000 + (n << 20), 20) for n in (2, 3, 4)]
    assert as_pairs(find_mappings(m)) == expected
    assert m.translate_many(array([v for v, _, _ in expected])).tolist() == [p for _, p, _ in expected]
    runs = merge(m, find_mappings(m))
    assert (runs.size.tolist(), runs.physical.tolist()) == ([3 << 20], [0x4_02200000])


def test_64_kib_pages_beside_small_ones(dumped):
    large = dict.fromkeys(range(16, 32), 0x00210001 | 0x30) | dict.fromkeys(range(40, 43), 0x00330001 | 0x30)
    table = words(large | {33: 0x55032}, 0x400)
    m = dumped("armv7", 0x4000, {0x4000: words({0xC88: 0x8011}, 0x4000), 0x8000: table})
    expected = [
        (0xC8810000, 0x210000, 16),
        (0xC8821000, 0x55000, 12),
        *((0xC8820000 + (n << 12), 0x330000 + (n << 12), 12) for n in (8, 9, 10)),
    ]
    assert as_pairs(find_mappings(m)) == expected
    assert m.translate(0xC882A123) == 0x33A123


def test_addresses_that_no_cpu_can_have_are_left_out(registry, dumped):
    m = dumped("x86_64", 0x1000, {0x1000: quads({256: 0x2067}), 0x2000: quads({0: 0xE7})})
    assert find_mappings(m).virtual.tolist() == [0xFFFF800000000000]
    assert m.translate_many(array([0xFFFF800000000000, 0x0000800000000000])).tolist() == [0, -1]


def test_runs_end_where_upper_tables_forbid_other_things(dumped):
    nx = 1 << 63
    m = dumped("x86_64", 0x1000, {0x1000: quads({256: 0x2067}), 0x2000: quads({0: 0x3067}),
                                  0x3000: quads({0: 0x4067, 1: 0x5067 | nx, 2: 0x6067 | nx}),
                                  0x4000: quads({511: 0x1FF163}), 0x5000: quads({0: 0x200163, 511: 0x3FF163}),
                                  0x6000: quads({0: 0x400163, 1: 0x401161})})  # fmt: skip
    runs = merge(m, find_mappings(m))
    assert runs.virtual.tolist() == [0xFFFF800000000000 + at for at in (0x1FF000, 0x200000, 0x3FF000, 0x401000)]
    assert runs.count.tolist() == [1, 1, 2, 1]
    assert [runs.paths[n][2] for n in runs.path] == [0x67, 0x67 | nx, 0x67 | nx, 0x67 | nx]


def test_series_of_runs_that_follow_each_other(dumped):
    pages = dict.fromkeys((0, 2, 4, 9, 12, 15, 18, 30, 40, 41), 487779) | {50: 0x88163}
    m = dumped("x86_64", 0x1000, {0x1000: quads({256: 0x2067}), 0x2000: quads({0: 0x3067}),
                                  0x3000: quads({0: 0x4067}), 0x4000: quads(pages)})  # fmt: skip
    runs = merge(m, find_mappings(m))
    first, times, distance = repeats(runs)
    starts = (runs.virtual[first] >> np.uint64(12) & np.uint64(511)).tolist()
    steps = (distance >> np.uint64(12)).tolist()
    expected = [(0, 3, 2), (9, 4, 3), (30, 2, 10), (41, 1, 0), (50, 1, 0)]
    assert list(zip(starts, times.tolist(), steps, strict=True)) == expected


def test_an_empty_range_and_an_empty_root(dumped):
    m = dumped("i386", 0x1000, {0x1000: words({})})
    assert len(find_mappings(m)) == len(merge(m, find_mappings(m))) == 0
    assert [x.tolist() for x in repeats(merge(m, find_mappings(m)))] == [[], [], []]
    for start, end in ((0xC0000000, 0xC0000000), (1 << 32, None), (1 << 70, 1 << 71), (-5, -1), (5, 0)):
        assert len(find_mappings(m, start, end)) == 0
    assert m.translate_many(array([])).tolist() == []


def test_a_root_between_entries_is_refused_and_one_between_tables_is_read(dumped):
    m = dumped("i386", 0x1800, {0x1000: bytes(0x800) + words({1: 0x1E3}, 0x800), 0x2000: words({0: 0x4001E3})})
    assert as_pairs(find_mappings(m)) == [(1 << 22, 0, 22), (512 << 22, 0x400000, 22)]
    m.root = 0x1802
    with pytest.raises(ArgumentError, match="root: found 0x1802, expected a multiple of 4"):
        find_mappings(m)


def test_every_address_is_canonical_where_all_bits_are_translated(registry):
    arch = registry.get("x86_64")
    full = evolve(arch, hardware=evolve(arch.hardware, canonical_bits=64))
    memory = PhysicalMemory((Bank(0, 0x10000),), 12)
    memory.store(0x1000, 0x2067, 8)
    memory.store(0x2000, 0xE7, 8)
    m = Mmu(full, memory, 0x1000)
    assert m.translate_many(array([0x123, 1 << 50])).tolist() == [0x123, 0]
    assert m.walk(1 << 50).physical == 0


# ---- several banks of simulated RAM


def test_rows_and_words_across_banks():
    memory = PhysicalMemory((Bank(0x1000, 0x3000), Bank(0x10000, 0x11000)), 12)
    memory.store(0x2FF8, 0x1122334455667788, 8)
    memory.store(0x10000, 7, 8)
    rows, there = memory.rows(np.array([0x2FE0, 0x10000, 0x3000, 0, -64]), 32, 8)
    assert there.tolist() == [True, True, False, False, False]
    assert rows.tolist() == [[0, 0, 0, 0x1122334455667788], [7, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    found, there = memory.words(np.array([0x2FFC, 0x11000, 0x10000]), 4)
    assert (found.tolist(), there.tolist()) == ([0x11223344, 0, 7], [True, False, True])


# ---- damage


def test_a_root_that_points_to_itself_ends_quickly_and_says_it_is_partial(dumped):
    m = dumped("x86_64", 0x1000, {0x1000: quads(dict.fromkeys(range(512), 0x1067))})
    begin = time.perf_counter()
    found = find_mappings(m, limit=100_000)
    assert time.perf_counter() - begin < 5
    assert len(found) == 100_000
    assert (found.virtual == np.arange(100_000, dtype=np.uint64) << np.uint64(12)).all()
    assert found.stopped == 100_000 << 12
    assert found.partial == ("a limit was reached: nothing at and above 0x186a0000 was looked at",)
    rest = find_mappings(m, found.stopped, found.stopped + 0x3000)
    assert (as_pairs(rest), rest.partial) == ([(found.stopped + n, 0x1000, 12) for n in (0, 0x1000, 0x2000)], ())
    assert m.translate(0x123456789ABC & 0x7FFFFFFFFFFF) == 0x1ABC


def test_empty_tables_named_a_thousand_times_are_given_up_after_so_many(dumped):
    m = dumped("x86_64", 0x1000, {0x1000: quads(dict.fromkeys(range(512), 0x2067)),
                                  0x2000: quads(dict.fromkeys(range(512), 0x3067)),
                                  0x3000: quads(dict.fromkeys(range(512), 0x4067)),
                                  0x4000: quads({})})  # fmt: skip
    begin = time.perf_counter()
    found = find_mappings(m)
    assert time.perf_counter() - begin < 10
    assert len(found) == 0
    assert TABLES << 21 <= found.stopped <= TABLES << 22


class Pages:
    """The pages of a dump, that can be written to; a `vmcore.paging.pte.TableMemory` in plain steps."""

    def __init__(self, dump):
        self.pages = {
            at: bytearray(dump.read(at, PAGE)) for bank in dump.banks for at in range(bank.start, bank.end, PAGE)
        }

    def word(self, address, size):
        page = self.pages.get(address & -PAGE)
        at = address % PAGE
        return None if page is None else int.from_bytes(page[at : at + size], "little")

    def words(self, addresses, size):
        found = [self.word(a, size) for a in addresses.tolist()]
        return np.array([f or 0 for f in found], f"u{size}"), np.array([f is not None for f in found], bool)

    def rows(self, starts, row_bytes, size):
        out, there = np.zeros((len(starts), row_bytes // size), f"u{size}"), np.zeros(len(starts), bool)
        for n, start in enumerate(starts.tolist()):
            page = self.pages.get(start & -PAGE)
            if page is not None:
                at = start % PAGE
                out[n], there[n] = np.frombuffer(page, f"<u{size}", row_bytes // size, at), True
        return out, there


def damage(pages, choice, size, root):
    """Change a few words; return how to undo it."""
    before = []
    places = list(pages.pages)
    for _ in range(choice.randint(1, 8)):
        page = pages.pages[choice.choice(places)]
        at = choice.randrange(0, PAGE, size)
        before.append((page, at, bytes(page[at : at + size])))
        old = int.from_bytes(page[at : at + size], "little")
        flags = choice.choice([old & 0xFFF, 0x1, 0x2, 0x3, 0x11, 0x67, 0xE7, 0x402, 0xFFF])
        new = choice.choice([
            choice.getrandbits(8 * size),
            old ^ 1 << choice.randrange(8 * size),
            choice.choice(places) | flags,
            root | flags,
            (1 << 8 * size) - 1 - choice.getrandbits(4),
            0,
        ])  # fmt: skip
        page[at : at + size] = (new & (1 << 8 * size) - 1).to_bytes(size, "little")
    return before


@pytest.mark.parametrize(("name", "arch"), FOUND)
def test_damaged_tables_never_crash_nor_hang_nor_give_another_answer(name, arch, machine, registry):
    m = machine(name, arch)
    m.memory = pages = Pages(m.memory)
    record = registry.get(arch)
    choice, size = random.Random(f"{name} {MUTATIONS}"), record.hardware_levels[-1].word_bytes
    rows = [v for v, _ in capture(name).rows()]
    for number in range(MUTATIONS):
        before = damage(pages, choice, size, m.root)
        begin = time.perf_counter()
        low = choice.choice(rows) & -PAGE
        found = find_mappings(m, low, min(low + (1 << 28), m.word_mask), 5000)
        if number % 50 == 0:
            found = find_mappings(m, limit=5000)
            assert found.stopped is None or len(found) == 5000
        inside = [int(found.virtual[n]) for n in choice.sample(range(len(found)), min(len(found), 20))]
        asked = array(
            [*inside, *choice.sample(rows, 20), *(choice.getrandbits(record.word_bits) for _ in range(5))]
        )
        expected = [slow_walker.hardware(pages.word, record, m.root, a) for a in asked.tolist()]
        walks = m.walk_many(asked)
        ends = [
            End(e).name if p < 0 else p for e, p in zip(walks.end.tolist(), walks.physical.tolist(), strict=True)
        ]
        assert ends == expected
        assert [m.walk(a).physical for a in asked.tolist()] == [m.translate(a) for a in asked.tolist()]
        physical = [e if isinstance(e, int) else -1 for e in expected]
        assert m.translate_many(asked).tolist() == physical
        at = {int(v): int(p) for v, p in zip(found.virtual, found.physical, strict=True)}
        assert [at[a] for a in inside] == physical[: len(inside)]
        merged = merge(m, found)
        assert int(merged.count.sum()) == len(found) <= 5000
        assert time.perf_counter() - begin < 20
        for page, place, word in reversed(before):
            page[place : place + size] = word
    assert m.translate(rows[0]) == capture(name).rows()[0][1]


@pytest.mark.parametrize(("name", "arch"), FOUND)
def test_what_is_found_is_all_there_is_also_after_damage(name, arch, machine):
    """Pages of a stretch are translated one by one: those in a mapping, and no others, lead somewhere."""
    m = machine(name, arch)
    m.memory = pages = Pages(m.memory)
    choice, size = random.Random(name), m.levels[-1].word_bytes
    rows = [v for v, _ in capture(name).rows()]
    for _ in range(max(MUTATIONS // 20, 3)):
        before = damage(pages, choice, size, m.root)
        low = choice.choice(rows) >> 21 << 21
        high = min(low + (1 << 22), m.word_mask)
        found = find_mappings(m, low, high)
        addresses = array(range(low, high, PAGE))
        n = np.searchsorted(found.virtual, addresses, "right") - 1
        ends = found.virtual + ((np.uint64(1) << found.shift.astype(np.uint64)) - np.uint64(1))
        covered = (n >= 0) & (np.append(ends, np.uint64(0))[n] >= addresses)
        assert (m.translate_many(addresses) >= 0).tolist() == covered.tolist()
        for page, place, word in reversed(before):
            page[place : place + size] = word
