"""Every row of the rules that make ARM hardware words of Linux words, and their properties over all flags.

Sources: arch/arm/mm/proc-arm920.S, proc-arm926.S, proc-xscale.S, proc-v6.S, proc-v7.S, of 2.6.24;
arch/arm/mm/proc-v7-2level.S of 6.12, with the leaf words of such a kernel on a Cortex-A15.
"""

import numpy as np
import pytest
from vmcore_arches.arm.armv5 import ARMV5, XSCALE, arm926, arm926_writethrough, xscale
from vmcore_arches.arm.armv7 import ARMV7, ARMV7_HIGHMEM, EXT_NG, v6, v6_words, v7_late

ARM926_ROWS = [
    (0x0EF, 0x55E), (0x0EB, 0x55A), (0x0E7, 0x556), (0x0E3, 0x552), (0x0CF, 0x00E), (0x06F, 0x00E), (0x0ED, 0x000),
    (0x0FF, 0xFFE), (0x000, 0x000), (0x0EE, 0x000), (0x05F, 0xAAE), (0x0AF, 0x55E), (0x4EF, 0x55E), (0x0A3, 0x552),
]  # fmt: skip
WRITETHROUGH_ROWS = [
    (0x0EF, 0x55A), (0x0EB, 0x55A), (0x0E7, 0x556), (0x0E3, 0x552), (0x0CF, 0x00A), (0x0FF, 0xFFA), (0x0ED, 0x000),
    (0x000, 0x000),
]  # fmt: skip
XSCALE_ROWS = [
    (0x0EF, 0x01F), (0x0EB, 0x01B), (0x0E7, 0x017), (0x0E3, 0x013), (0x0ED, 0x000), (0x0EE, 0x000), (0x000, 0x000),
    (0x0FF, 0x03F),
    (0x0CF, 0x00F),  # kernel, no WRITE
    (0x0CB, 0x04B),  # cacheable only: the mini cache
    (0x05F, 0x02B),  # user read-only and cacheable: no B (erratum 40)
    (0x05B, 0x06B),
    (0x057, 0x027),
    (0x0F3, 0x033),
]  # fmt: skip
V6_ROWS = [
    (0x0EF, 0, 0x01E), (0x4EF, 0, 0x41E), (0x0E3, 0, 0x012), (0x0EB, 0, 0x01A), (0x0E7, 0, 0x016),
    (0x0CF, 0, 0x21E), (0x06F, 0, 0x21E), (0x0AF, 0, 0x01F), (0x0ED, 0, 0x00E), (0x000, 0, 0x000),
    (0x0FF, EXT_NG, 0x83E), (0x05F, EXT_NG, 0x82E), (0x0A7, 0, 0x017), (0x0EE, 0, 0x000), (0x0EE, EXT_NG, 0x000),
    (0x0FF, 0, 0x03E), (0x05D, EXT_NG, 0x80E), (0x01F, EXT_NG, 0x82F),
]  # fmt: skip
V7_LATE_ROWS = [
    (0x65F, 0x45F),  # vmalloc
    (0x45F, 0x45E),  # executable
    (0x6DF, 0x65F),  # read-only
    (0x4DF, 0x65E),  # read-only, executable: modules
    (0x653, 0x453),  # ioremap
    (0x647, 0x417),  # write-combining
    (0x243, 0x013),  # uncached
    (0x24F, 0x01F),  # vmalloc on one CPU
    (0x61F, 0x65F),  # not DIRTY
    (0x75F, 0x47F),  # USER
    (0x65D, 0x000),  # not YOUNG
    (0x65E, 0x000),  # not PRESENT
    (0xE5F, 0x000),  # PROT_NONE
    (0x000, 0x000),
]


def words(*values):
    return np.array(values, np.uint32)


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        (arm926, ARM926_ROWS),
        (arm926_writethrough, WRITETHROUGH_ROWS),
        (xscale, XSCALE_ROWS),
        (v7_late, V7_LATE_ROWS),
        (v6, [(linux, hardware) for linux, ext, hardware in V6_ROWS if not ext]),
    ],
)
@pytest.mark.parametrize("base", [0x00000000, 0x00100000, 0xFFFFF000])
def test_every_row_of_a_rule(rule, rows, base):
    made = rule(words(*(linux and base | linux for linux, _ in rows)))
    assert made.dtype == np.uint32
    assert made.tolist() == [hardware and base | hardware for _, hardware in rows]


@pytest.mark.parametrize(("linux", "ext", "hardware"), V6_ROWS)
def test_v6_words_of_kernel_and_user_pages(linux, ext, hardware):
    assert v6_words(words(linux), ext).tolist() == [hardware]
    assert v6_words(words(0x12345000 | linux), ext).tolist() == [hardware and 0x12345000 | hardware]


ALL_FLAGS = np.arange(0x1000, dtype=np.uint32) | np.uint32(0xABCDE000)


@pytest.mark.parametrize("rule", [arm926, arm926_writethrough, xscale, v6, v7_late])
def test_a_rule_reads_only_its_argument_and_keeps_frames(rule):
    given = ALL_FLAGS.copy()
    given.setflags(write=False)
    made = rule(given)
    assert made.shape == given.shape
    assert given.tolist() == ALL_FLAGS.tolist()
    assert set((made[made != 0] & np.uint32(0xFFFFF000)).tolist()) == {0xABCDE000}
    assert made[(ALL_FLAGS & 1) == 0].tolist() == [0] * 2048
    assert [int(rule(given[i : i + 1])[0]) for i in range(0, 0x1000, 7)] == made[::7].tolist()
    assert rule(words()).tolist() == []


def as_assembled_v6(linux, ext):
    """Follow cpu_v6_set_pte_ext, one condition after the other."""
    word = linux & ~0x3F0 & ~0x3 | ext | 0x012
    if not (linux & 0x020 and linux & 0x080):
        word |= 0x200
    if linux & 0x010:
        word |= 0x020
        if word & 0x200:
            word &= ~0x210
    if not linux & 0x002:
        word &= ~0x230
    if not linux & 0x040:
        word |= 0x001
    return word if linux & 0x001 else 0


def as_assembled_xscale(linux):
    """Follow cpu_xscale_set_pte_ext, one condition after the other."""
    word = linux & ~0xFF0 | 0x3
    if linux & 0x010:
        word |= 0x020
    if linux & 0x020 and linux & 0x080:
        word |= 0x010
    if not (linux ^ 0x008) & (0x008 | 0x020 | 0x004):
        word |= 0x040
    if linux & (0x010 | 0x020 | 0x008) == 0x010 | 0x008:
        word &= ~0x004
    return word if linux & 0x003 == 0x003 else 0


def as_assembled_arm926(linux):
    """Follow cpu_arm926_set_pte_ext, one condition after the other."""
    word = linux & ~0xFF0 & ~0x3 | 0x2
    if linux & 0x010:
        word |= 0xAA0
    if linux & 0x020 and linux & 0x080:
        word |= 0x550
    return word if linux & 0x003 == 0x003 else 0


def as_assembled_v7_late(linux):
    """Follow cpu_v7_set_pte_ext of later kernels, one condition after the other."""
    word = linux & ~0x3F0 & ~0x3 | 0x012
    if linux & 0x010:
        word |= 0x040
    if (linux ^ 0x040) & (0x080 | 0x040):
        word |= 0x200
    if linux & 0x100:
        word |= 0x020
    if linux & 0x200:
        word |= 0x001
    return word if linux & 0x002 and linux & 0x001 and not linux & 0x800 else 0


@pytest.mark.parametrize(
    ("rule", "reference"),
    [
        (arm926, as_assembled_arm926),
        (xscale, as_assembled_xscale),
        (v6, lambda linux: as_assembled_v6(linux, 0)),
        (lambda given: v6_words(given, EXT_NG), lambda linux: as_assembled_v6(linux, EXT_NG)),
        (v7_late, as_assembled_v7_late),
    ],
    ids=["arm926", "xscale", "v6", "v6 user", "v7 late"],
)
def test_a_rule_agrees_with_the_assembly_for_all_flags(rule, reference):
    assert rule(ALL_FLAGS).tolist() == [reference(linux) for linux in ALL_FLAGS.tolist()]


def test_writethrough_drops_b_from_cacheable_pages_only():
    full, through = arm926(ALL_FLAGS), arm926_writethrough(ALL_FLAGS)
    expected = [word & ~0x4 if word & 0xB == 0xA else word for word in full.tolist()]
    assert through.tolist() == expected


@pytest.mark.parametrize(
    ("record", "cpus", "hardware"),
    [
        (ARMV5, 1, 0x55E),
        (ARMV7, 1, 0x01E),
        (ARMV7, 2, 0x41E),
        (ARMV7_HIGHMEM, 1, 0x01F),
        (ARMV7_HIGHMEM, 2, 0x45F),
    ],
)
def test_page_kernel_as_the_mmu_sees_it(record, cpus, hardware):
    prot = record.page_kernel | (record.smp_flags if cpus > 1 else 0)
    assert record.hardware.mirror.encode(words(prot)).tolist() == [hardware]


def test_xscale_is_a_view_to_evolve_armv5_with():
    assert XSCALE.mirror.encode(words(ARMV5.page_kernel)).tolist() == [0x01F]
    assert (XSCALE.cache.kind, XSCALE.cache.size, XSCALE.cache.ways, XSCALE.cache.colours) == (
        "vivt",
        32768,
        32,
        0,
    )
