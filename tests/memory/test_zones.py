"""The page allocator: which zone, which node, which frame, in exactly which order."""

import numpy as np
import pytest
from attrs import evolve

from tests.support.synthetic import PLAIN
from vmcore.architecture import LayoutRequest, Zone
from vmcore.errors import BrokenInvariant, ConfigurationError, OutOfMemory
from vmcore.flags import GFP, GFP_KERNEL
from vmcore.memory.physical import PhysicalMemory
from vmcore.memory.zones import PageAllocator, gfp_zone
from vmcore.units import Bank

MIB = 1 << 20
#: Frames 0x800-0xfff DMA (the kernel is below), 0x1000-0x1fff NORMAL, 0x2000-0x3fff HIGHMEM.
HIGH = evolve(PLAIN, zones=[Zone("DMA", 16 * MIB), "NORMAL", "HIGHMEM"])
#: The same with DMA32 up to 0x1fff, NORMAL above.
LOW = evolve(PLAIN, zones=[Zone("DMA", 16 * MIB), Zone("DMA32", 32 * MIB), "NORMAL"])
HIGHMEM, MOVABLE, ZERO, THISNODE = int(GFP.HIGHMEM), int(GFP.MOVABLE), int(GFP.ZERO), int(GFP.THISNODE)


def allocator(arch=HIGH, nodes=1, ram=64 * MIB):
    layout = arch.layout(LayoutRequest(ram=ram))
    if arch is HIGH:
        layout = evolve(layout, lowmem_end=32 * MIB)
    return PageAllocator(arch, layout, PhysicalMemory(layout.banks, arch.page_shift), nodes)


def frames(*numbers):
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("zones", "gfp", "zone"),
    [
        (("DMA", "NORMAL", "HIGHMEM"), 0xD0, "NORMAL"),
        (("DMA", "NORMAL", "HIGHMEM"), 0xD1, "DMA"),
        (("DMA", "NORMAL", "HIGHMEM"), 0xD2, "HIGHMEM"),
        (("DMA", "NORMAL", "HIGHMEM"), 0xD3, "DMA"),
        (("DMA", "NORMAL", "HIGHMEM"), 0xD4, "NORMAL"),
        (("DMA", "NORMAL", "HIGHMEM"), 0xD2 | MOVABLE, "MOVABLE"),
        (("DMA", "NORMAL", "HIGHMEM"), 0xD0 | MOVABLE, "NORMAL"),
        (("DMA", "DMA32", "NORMAL"), 0xD4, "DMA32"),
        (("DMA", "DMA32", "NORMAL"), 0xD5, "DMA"),
        (("DMA", "DMA32", "NORMAL"), 0xD2, "NORMAL"),
        (("DMA", "DMA32", "NORMAL"), 0xD6 | MOVABLE, "DMA32"),
        (("DMA", "DMA32", "NORMAL"), 0xD2 | MOVABLE, "MOVABLE"),
        (("NORMAL",), 0xD7, "NORMAL"),
        (("DMA", "NORMAL"), 0xD2, "NORMAL"),
    ],
)
def test_the_zone_a_mask_asks_for(zones, gfp, zone):
    assert gfp_zone(gfp, zones) == zone


def test_zones_hold_what_is_above_the_kernel():
    high = [(zone.name, zone.runs, zone.size) for zone in allocator(HIGH).zones[0]]
    assert high == [
        ("DMA", [(0x800, 0x1000)], 0x800),
        ("NORMAL", [(0x1000, 0x2000)], 0x1000),
        ("HIGHMEM", [(0x2000, 0x4000)], 0x2000),
    ]
    low = [(zone.name, zone.runs) for zone in allocator(LOW).zones[0]]
    assert low == [("DMA", [(0x800, 0x1000)]), ("DMA32", [(0x1000, 0x2000)]), ("NORMAL", [(0x2000, 0x4000)])]


def test_zones_of_banks_with_a_hole():
    zones = allocator(LOW, ram=(Bank(0, 12 * MIB), Bank(20 * MIB, 40 * MIB))).zones[0]
    assert [(zone.name, zone.runs) for zone in zones] == [
        ("DMA", [(0x800, 0xC00)]),
        ("DMA32", [(0x1400, 0x2000)]),
        ("NORMAL", [(0x2000, 0x2800)]),
    ]


@pytest.mark.parametrize(
    ("arch", "gfp", "order"),
    [
        (HIGH, 0xD2, [(0x2000, 0x4000), (0x1000, 0x2000), (0x800, 0x1000)]),
        (HIGH, 0xD2 | MOVABLE, [(0x2000, 0x4000), (0x1000, 0x2000), (0x800, 0x1000)]),
        (HIGH, 0xD0, [(0x1000, 0x2000), (0x800, 0x1000)]),
        (HIGH, 0xD1, [(0x800, 0x1000)]),
        (LOW, 0xD2, [(0x2000, 0x4000), (0x1000, 0x2000), (0x800, 0x1000)]),
        (LOW, 0xD4, [(0x1000, 0x2000), (0x800, 0x1000)]),
        (LOW, 0xD1, [(0x800, 0x1000)]),
    ],
)
def test_a_zone_falls_back_downward_only_until_nothing_is_left(arch, gfp, order):
    pages = allocator(arch)
    expected = [n for start, end in order for n in range(start, end)]
    assert pages.alloc(1 << 20, gfp, -1).tolist() == expected
    assert pages.alloc(1, gfp, -1).tolist() == []
    assert pages.pages_in_use == len(expected)
    pages.check()


def test_exactly_what_was_asked_for():
    pages = allocator()
    assert pages.alloc(0, GFP_KERNEL, -1).tolist() == []
    got = pages.alloc(3, GFP_KERNEL, -1)
    assert (got.dtype, got.tolist(), pages.pages_in_use) == (np.int64, [0x1000, 0x1001, 0x1002], 3)


def test_last_freed_first_reused():
    pages = allocator()
    got = pages.alloc(5, GFP_KERNEL, -1)
    pages.free(got[[1, 3]])
    pages.free(got[[0]])
    assert pages.alloc(5, GFP_KERNEL, -1).tolist() == [0x1000, 0x1003, 0x1001, 0x1005, 0x1006]


def test_a_frame_goes_home_to_its_own_zone_in_the_order_freed():
    pages = allocator()
    high, low, dma = (pages.alloc(3, gfp, -1) for gfp in (0xD2, 0xD0, 0xD1))
    mixed = frames(high[0], low[0], dma[0], high[2], low[1], dma[2], high[1])
    pages.free(mixed)
    assert pages.alloc(4, 0xD2, -1).tolist() == [0x2001, 0x2002, 0x2000, 0x2003]
    assert pages.alloc(3, 0xD0, -1).tolist() == [0x1001, 0x1000, 0x1003]
    assert pages.alloc(3, 0xD1, -1).tolist() == [0x802, 0x800, 0x803]
    pages.check()


def test_a_zone_of_several_runs_starts_with_the_lowest():
    pages = allocator(LOW, ram=(Bank(0, 40 * MIB), Bank(44 * MIB, 45 * MIB)))
    assert pages.alloc(0x802, 0xD2, -1).tolist()[0x7FE:] == [0x27FE, 0x27FF, 0x2C00, 0x2C01]


def test_only_gfp_zero_clears_pages():
    pages = allocator()
    memory = pages._memory
    got = pages.alloc(40, GFP_KERNEL, -1)
    memory.pages[memory.page_rows(got)] = 0x5A
    pages.free(got)
    dirty = pages.alloc(20, GFP_KERNEL, -1)
    assert (memory.pages[memory.page_rows(dirty)] == 0x5A).all()
    clean = pages.alloc(20, GFP_KERNEL | ZERO, -1)
    assert dirty.tolist() + clean.tolist() == got.tolist()[::-1]
    assert (memory.pages[memory.page_rows(clean)] == 0).all()
    assert (memory.pages[memory.page_rows(dirty)] == 0x5A).all()


def test_nodes_share_the_ram_evenly():
    pages = allocator(LOW, nodes=3, ram=60 * MIB)
    held = [[(z.name, z.node, z.runs) for z in node if z.size] for node in pages.zones]
    assert held == [
        [("DMA", 0, [(0x800, 0x1000)]), ("DMA32", 0, [(0x1000, 0x1400)])],
        [("DMA32", 1, [(0x1400, 0x2000)]), ("NORMAL", 1, [(0x2000, 0x2800)])],
        [("NORMAL", 2, [(0x2800, 0x3C00)])],
    ]


def test_nodes_share_banks_with_holes_and_odd_numbers_of_pages():
    banks = (Bank(0, 9 * MIB), Bank(16 * MIB, 16 * MIB + 0x3000))
    pages = allocator(LOW, nodes=2, ram=banks)
    held = [[run for zone in node for run in zone.runs] for node in pages.zones]
    assert held == [[], [(0x800, 0x900), (0x1000, 0x1003)]]
    assert pages.alloc(1 << 20, 0xD2, 0).tolist() == [0x1000, 0x1001, 0x1002, *range(0x800, 0x900)]


@pytest.mark.parametrize(
    ("node", "first"),
    [(-1, [0x1000, 0x800, 0x2000, 0x1400, 0x2800]), (1, [0x2000, 0x1400, 0x2800, 0x1000, 0x800]),
     (2, [0x2800, 0x1000, 0x800, 0x2000, 0x1400])],
)  # fmt: skip
def test_other_nodes_are_tried_in_turn(node, first):
    got = allocator(LOW, nodes=3, ram=60 * MIB).alloc(1 << 20, 0xD2, node)
    starts = [got[0], *got[1:][np.diff(got) != 1]]
    assert starts == sorted(set(starts), key=starts.index)
    assert [int(n) for n in starts if n in first] == [n for n in first if n in starts]
    assert (len(got), int(got[0])) == (0x3C00 - 0x800, first[0])


def test_thisnode_never_leaves_its_node():
    pages = allocator(LOW, nodes=3, ram=60 * MIB)
    got = pages.alloc(1 << 20, 0xD2 | THISNODE, 1).tolist()
    assert got == [*range(0x2000, 0x2800), *range(0x1400, 0x2000)]
    assert pages.alloc(1, 0xD2 | THISNODE, 1).tolist() == []
    assert pages.alloc(1, 0xD2, 1).tolist() == [0x2800]


def test_any_negative_node_means_any():
    pages = allocator(LOW, nodes=3, ram=60 * MIB)
    assert [pages.alloc(1, GFP_KERNEL, node).tolist() for node in (-1, -2, -100)] == [[0x1000], [0x1001], [0x1002]]


@pytest.mark.parametrize("node", [3, 100])
def test_a_node_that_is_not_there(node):
    pages = allocator(LOW, nodes=3, ram=60 * MIB)
    with pytest.raises(ConfigurationError, match=f"node {node}: this machine has nodes 0 to 2"):
        pages.alloc(1, GFP_KERNEL, node)


def test_more_nodes_than_pages():
    with pytest.raises(ConfigurationError, match="nodes is 257, expected 1 to 256, the page frames there are"):
        allocator(nodes=257, ram=MIB)


def test_more_nodes_than_a_kernel_can_be_built_for():
    with pytest.raises(ConfigurationError, match="nodes is 1025, expected 1 to 1024, what a kernel can be built"):
        allocator(nodes=1025)


def test_a_double_free_is_refused_and_changes_nothing():
    pages = allocator()
    got = pages.alloc(3, GFP_KERNEL, -1)
    pages.free(got[:1])
    with pytest.raises(BrokenInvariant, match="page frame 0x1000 is freed, but it is not allocated"):
        pages.free(got)
    assert (pages.pages_in_use, pages.allocated(got).tolist()) == (2, [False, True, True])
    pages.free(got[1:])
    pages.check()


def test_freeing_nothing():
    pages = allocator()
    pages.free(frames())
    assert pages.pages_in_use == 0


def test_what_is_handed_out():
    pages = allocator(LOW, ram=(Bank(0, 12 * MIB), Bank(20 * MIB, 40 * MIB)))
    got = pages.alloc(2, GFP_KERNEL, -1)
    asked = frames(got[1], 0x2FFF, got[0], 0xC00, 0x10000000, -1, 0x801)
    assert pages.allocated(asked).tolist() == [True, False, True, False, False, False, False]


def test_a_root_table_is_aligned_consecutive_and_zero():
    pages = allocator()
    pages._memory.pages[:] = 0xEE
    assert pages.alloc(1, GFP_KERNEL, -1).tolist() == [0x1000]
    assert pages.alloc_root(16384) == 0x1004000
    assert pages._memory.read(0x1004000, 16384) == bytes(16384)
    assert pages.alloc(4, GFP_KERNEL, -1).tolist() == [0x1001, 0x1002, 0x1003, 0x1008]
    assert pages.pages_in_use == 9
    pages.free(np.arange(0x1004, 0x1008))
    pages.check()


def test_no_room_for_a_root_table():
    pages = allocator()
    pages.alloc(0x1800 - 3, GFP_KERNEL, -1)
    with pytest.raises(
        OutOfMemory, match="no 4 free page frames in a row for a root table of 0x4000 bytes"
    ) as caught:
        pages.alloc_root(16384)
    assert caught.value.what == "page"


@pytest.mark.parametrize("damage", ["listed twice", "in use", "lost", "counted"])
def test_check_finds(damage):
    pages = allocator()
    got = pages.alloc(32, GFP_KERNEL, -1)
    pages.free(got[:16])
    zone = pages.zones[0][1]
    if damage == "listed twice":
        zone.stack[0] = zone.stack[1]
    elif damage == "in use":
        zone.stack[0] = got[20]
    elif damage == "lost":
        zone.top -= 1
    else:
        pages.pages_in_use += 1
    with pytest.raises(BrokenInvariant):
        pages.check()


def test_single_frees_stay_in_order_when_they_join_the_stack(monkeypatch):
    monkeypatch.setattr("vmcore.memory.zones._RECENT", 3)
    pages = allocator()
    got = pages.alloc(40, GFP_KERNEL, -1)
    for frame in got[:10]:
        pages.free(np.array([frame]))
    pages.free(got[10:30])
    for frame in got[30:]:
        pages.free(np.array([frame]))
    pages.check()
    assert pages.alloc(40, GFP_KERNEL, -1).tolist() == got[::-1].tolist()


@pytest.mark.parametrize("count", [1, 4, 40, 400])
@pytest.mark.parametrize("spread", [1, 2, 7])
def test_a_frame_freed_twice_is_refused_and_nothing_changes(count, spread):
    pages = allocator()
    frames = pages.alloc(count * spread, GFP_KERNEL, -1)[::spread]
    again = np.concatenate((frames[:-1], frames[-1:] if count == 1 else frames[:1]))
    if count == 1:
        pages.free(frames)
    before = pages.pages_in_use
    with pytest.raises(BrokenInvariant, match="is freed, but it is not allocated"):
        pages.free(again)
    assert pages.pages_in_use == before
    assert pages.allocated(frames).all() == (count > 1)


def test_asking_for_nothing_takes_nothing():
    """A first page that is refused asks for none: the frames given back last stay where they are."""
    pages = allocator()
    pages.free(pages.alloc(1, GFP_KERNEL, -1))
    assert len(pages.alloc(0, GFP_KERNEL, -1)) == 0
    pages.check()
    assert len(pages.alloc(1, GFP_KERNEL, -1)) == 1
