"""The hardware's walk against Linux' own, and against words written by hand."""

import numpy as np
import pytest

from vmcore.paging.mmu import End, Mmu

RAM = 64 << 20


def mmu_of(k):
    return Mmu(k.arch, k.memory, k.layout.swapper_pg_dir)


def test_hardware_finds_what_linux_mapped_and_nothing_else(arch, kernel):
    k = kernel(arch, ram=RAM)
    page = arch.page_size
    areas = [k.vmalloc(n * page) for n in (1, 5, 70)]
    k.vfree(areas.pop(1))
    m = mmu_of(k)
    start = k.layout.vmalloc_start & -page
    addresses = [start + n * page + 7 for n in range(90)]
    wanted = [k.vmalloc_to_pfn(a) for a in addresses]
    expected = [None if f is None else f * page + 7 for f in wanted]
    assert [m.translate(a) for a in addresses] == expected
    assert [m.walk(a).physical for a in addresses] == expected
    many = m.walk_many(np.array(addresses, np.uint64))
    assert many.physical.tolist() == [-1 if e is None else e for e in expected]
    for n, a in enumerate(addresses):
        walk = m.walk(a)
        assert (walk.end, len(walk.steps) - 1) == (many.end[n], many.depth[n])
        assert [s.entry_address for s in walk.steps] == many.entries[: len(walk.steps), n].tolist()
        assert [s.word for s in walk.steps] == many.words[: len(walk.steps), n].tolist()


def test_an_address_that_is_not_sign_extended_is_not_walked(kernel):
    k = kernel("x86_64", ram=RAM)
    m = mmu_of(k)
    bad = [0x0000_8000_0000_0000, 0xFFFF_7FFF_FFFF_F000]
    assert [m.walk(a) for a in bad] == [((), End.NOT_CANONICAL, None)] * 2
    assert [m.translate(a) for a in bad] == [None, None]
    many = m.walk_many(np.array([*bad, 0xFFFF_8000_0000_0000], np.uint64))
    assert many.end.tolist() == [End.NOT_CANONICAL, End.NOT_CANONICAL, End.NOT_PRESENT]
    assert many.depth.tolist() == [-1, -1, 0]


@pytest.mark.parametrize(
    ("name", "depth", "word", "address", "physical", "leaf"),
    [
        ("i386-highmem", 0, 0x00C02081, 0xF8812345, 0x01_00C12345, "4 MiB page"),  # PSE-36: bits 39:32 in 20:13
        ("i386-pae-highmem", 1, 0x8000_0007_8020_0081, 0xF8812345, 0x7_80212345, "2 MiB page"),
        ("x86_64", 1, 0xC000_0081, 0xFFFF_C200_1234_5678, 0xD234_5678, "1 GiB page"),
        ("x86_64", 2, 0x60_0081, 0xFFFF_C200_0012_3456, 0x72_3456, "2 MiB page"),
        ("armv5", 0, 0x0150041E, 0xC8812345, 0x01512345, "1 MiB section"),
        ("armv7", 0, 0x0250040E | 1 << 18, 0xC8812345, 0x5_02812345, "16 MiB supersection"),
        ("armv7", 1, 0x00210001 | 0x30, 0xC8812345, 0x00212345, "64 KiB page"),
    ],
)
def test_large_pages(kernel, name, depth, word, address, physical, leaf):
    k = kernel(name, ram=RAM)
    m = mmu_of(k)
    table = k.layout.swapper_pg_dir
    for d, level in enumerate(m.levels[: depth + 1]):
        at = table + (address >> level.shift & level.entries - 1) * level.entry_bytes
        if d < depth:
            table = 0x400000 + 0x1000 * d
            k.memory.store(at, level.encode(table, level.table_flags), level.word_bytes)
        else:
            k.memory.store(at, word, level.word_bytes)
    walk = m.walk(address)
    assert (walk.physical, walk.steps[-1].leaf.name) == (physical, leaf)
    assert m.translate(address) == physical
    many = m.walk_many(np.array([address], np.uint64))
    assert (int(many.physical[0]), int(many.depth[0])) == (physical, depth)
    assert m.levels[depth].leaves[int(many.leaf[0])].name == leaf


def test_a_table_outside_memory_and_a_reserved_entry_end_the_walk(kernel):
    k = kernel("armv7", ram=RAM)
    m = mmu_of(k)
    at = k.layout.swapper_pg_dir + (0xC8800000 >> 20) * 4
    k.memory.store(at, 0xF0000011, 4)
    k.memory.store(at + 4, 0x00400003, 4)
    addresses = [0xC8812345, 0xC8912345]
    assert [m.walk(a).end for a in addresses] == [End.NOT_IN_MEMORY, End.NO_TABLE]
    assert m.walk_many(np.array(addresses, np.uint64)).end.tolist() == [End.NOT_IN_MEMORY, End.NO_TABLE]
    assert m.walk(addresses[0]).steps[1][1:] == (0xF0000048, None, None)
