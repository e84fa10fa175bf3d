"""Worked examples: three pages mapped at VMALLOC_START, exact words at exact physical addresses.

The tables are handed out at given places; then everything but the guard page's entry is compared, and what is
left after unmapping. Numbers worked out by hand from the headers of 2.6.24, and for ARM's hardware words from
set_pte_ext of proc-arm926.S, proc-xscale.S, proc-v6.S and proc-v7.S.
"""

import numpy as np
import pytest
from attrs import evolve
from vmcore_arches.arm.armv5 import XSCALE

from tests.support.slow_walker import ROOT, Bench
from vmcore.architecture import LayoutRequest

MIB = 1 << 20
NX = 1 << 63
FRAMES = (0x100, 0x101, 0x200)
I386_TABLES, PAE_TABLES, X86_64_TABLES = [0x301000], [0x301000, 0x302000], [0x301000, 0x302000, 0x303000]
ARM_TABLES, ARM_OVERLAPPING = [0x304000], [0x301000]


def i386(flags):
    return {0x300F88: 0x00301067, 0x301000: 0x00100000 | flags, 0x301004: 0x00101000 | flags,
            0x301008: 0x00200000 | flags}  # fmt: skip


def pae(flags):
    return {0x300018: 0x301001, 0x301E20: 0x302067, 0x302000: 0x100000 | flags, 0x302008: 0x101000 | flags,
            0x302010: 0x200000 | flags}  # fmt: skip


def x86_64(flags):
    return {0x300C20: 0x301067, 0x301000: 0x302067, 0x302000: 0x303067, 0x303000: 0x100000 | flags,
            0x303008: 0x101000 | flags, 0x303010: 0x200000 | flags}  # fmt: skip


def arm(linux, hardware, table=0x304000):
    words = {0x303220: table | 0x11, 0x303224: table | 0x411}
    for n, frame in enumerate((0x00100000, 0x00101000, 0x00200000)):
        words |= {table + 0x800 + 4 * n: frame | linux, table + 4 * n: frame | hardware}
    return words


def no_nx(arch):
    return evolve(arch, supported_pte_mask=NX - 1)


def same(arch):
    return arch


EXAMPLES = {
    "i386": ("i386", same, 0x163, I386_TABLES, i386(0x163)),
    "i386 with highmem": ("i386-highmem", same, 0x163, I386_TABLES, i386(0x163)),
    "i386 without PGE": ("i386", same, 0x063, I386_TABLES, i386(0x063)),
    "PAE": ("i386-pae", same, NX | 0x163, PAE_TABLES, pae(NX | 0x163)),
    "PAE with highmem": ("i386-pae-highmem", same, NX | 0x163, PAE_TABLES, pae(NX | 0x163)),
    "PAE executable": ("i386-pae", same, 0x163, PAE_TABLES, pae(0x163)),
    "PAE without NX": ("i386-pae", no_nx, NX | 0x163, PAE_TABLES, pae(0x163)),
    "PAE without PGE": ("i386-pae", same, NX | 0x063, PAE_TABLES, pae(NX | 0x063)),
    "x86_64": ("x86_64", same, NX | 0x163, X86_64_TABLES, x86_64(NX | 0x163)),
    "x86_64 executable": ("x86_64", same, 0x163, X86_64_TABLES, x86_64(0x163)),
    "x86_64 without NX": ("x86_64", no_nx, NX | 0x163, X86_64_TABLES, x86_64(0x163)),
    "ARM926": ("armv5", same, 0x0EF, ARM_TABLES, arm(0x0EF, 0x55E)),
    "ARM926, table inside the root": ("armv5", same, 0x0EF, ARM_OVERLAPPING, arm(0x0EF, 0x55E, 0x301000)),
    "XScale": ("armv5", lambda a: evolve(a, hardware=XSCALE), 0x0EF, ARM_TABLES, arm(0x0EF, 0x01F)),
    "ARMv7": ("armv7", same, 0x0EF, ARM_TABLES, arm(0x0EF, 0x01E)),
    "ARMv7 SMP": ("armv7", same, 0x4EF, ARM_TABLES, arm(0x4EF, 0x41E)),
    "ARMv7, table inside the root": ("armv7", same, 0x0EF, ARM_OVERLAPPING, arm(0x0EF, 0x01E, 0x301000)),
}


@pytest.mark.parametrize(("name", "variant", "prot", "tables", "words"), EXAMPLES.values(), ids=EXAMPLES)
def test_worked_example(registry, name, variant, prot, tables, words):
    arch = variant(registry.get(name))
    ram = 128 * MIB if name.startswith("arm") else 1024 * MIB
    start = arch.lay_out(LayoutRequest(ram=ram)).vmalloc_start
    bench = Bench(arch, tables=tables)
    if any(level.prebuilt for level in arch.levels):
        bench.tables.prebuild(3)
        assert bench.memory.load(0x300018, 8) == 0x301001
    assert bench.tables.map(start, start + 0x3000, np.array(FRAMES), prot).ok
    assert bench.handed_out == tables
    size = 4 if name in ("i386", "i386-highmem") or name.startswith("arm") else 8
    assert everything(bench, size) == words
    bench.tables.unmap(start, start + 0x4000)
    upper = len(words) - 3 * (2 if name.startswith("arm") else 1)
    assert everything(bench, size) == dict(list(words.items())[:upper])
    assert bench.log == []


def everything(bench, size):
    """Return {physical address: word} of all words that are not 0 from the root to behind the tables."""
    raw = np.frombuffer(bench.memory.read(ROOT, 0x10000), f"<u{size}")
    return {ROOT + size * n: int(raw[n]) for n in np.flatnonzero(raw).tolist()}


@pytest.mark.parametrize(
    ("name", "page_kernel", "executable"),
    [("i386", 0x163, 0x163), ("i386-pae", NX | 0x163, 0x163), ("x86_64", NX | 0x163, 0x163), ("armv5", 0xEF, 0xEF),
     ("armv7", 0xEF, 0xEF)],
)  # fmt: skip
def test_the_protections_of_the_examples_are_the_records(registry, name, page_kernel, executable):
    arch = registry.get(name)
    assert (arch.protection("PAGE_KERNEL"), arch.protection("PAGE_KERNEL_EXEC")) == (page_kernel, executable)


def test_an_smp_kernel_marks_its_pages_shared(kernel):
    k = kernel("armv7", ram=128 * MIB, cpus=2)
    addr = k.vmalloc(0x1000)
    assert addr == 0xC8800000
    table = k.init_mm.entry(addr, 0)[1] & ~0xFFF
    frame = k.vmalloc_to_pfn(addr) << 12
    assert (k.memory.load(table + 0x800, 4), k.memory.load(table, 4)) == (frame | 0x4EF, frame | 0x41E)
