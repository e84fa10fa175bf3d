"""What this __get_vm_area_node does at the edges of a window and of the address space."""

import pytest

from tests.support.linear_scan import place
from vmcore.placement.arealist import AreaList

PAGE = 0x1000


def nodes(areas):
    return [(area.addr, area.size) for area in areas]


def test_empty_list_never_checks_end():
    areas = AreaList(32, 12)
    assert place(areas, 0x7F00000, 1, 0xF8800000, 0xFF7FE000) == 0xF8800000
    assert nodes(areas) == [(0xF8800000, 0x7F01000)]
    assert areas.nodes_visited == 0
    assert not areas.orderly  # it ends at 0x100701000


def test_start_inside_the_last_area_does_not_look_at_end():
    areas = AreaList(32, 12)
    assert place(areas, 0x4000, 1, 0xF8800000, 0xFF7FE000) == 0xF8800000
    assert place(areas, 0x3000, 1, 0xF8801000, 0xF8802000) == 0xF8805000
    assert nodes(areas) == [(0xF8800000, 0x5000), (0xF8805000, 0x4000)]


def test_alignment_jumps_over_the_last_area_and_so_over_end():
    areas = AreaList(32, 12)
    window = 0xF8801000, 0xF8805000
    assert place(areas, 0x1000, 1, *window) == 0xF8801000
    assert place(areas, 0x10000, 0x20000, *window) == 0xF8820000
    assert place(areas, 0x2000, 1, *window) is None
    assert place(areas, 0x1000, 1, *window) == 0xF8803000
    # 1 to step over the only area, 1 refused there, 1 over the first and found in front of the second
    assert areas.nodes_visited == 0 + 1 + 1 + 2


def test_end_minus_size_underflows():
    areas = AreaList(32, 12)
    assert place(areas, 0x1000, 1, 0xF8800000, 0xFF7FE000) == 0xF8800000
    assert place(areas, 0x3000, 1, 0xF8800000, 0x1000) == 0xF8802000
    assert areas.orderly


def test_full_window_refuses_and_the_freed_hole_is_used_again():
    areas = AreaList(32, 12)
    window = 0xF8800000, 0xF8804000
    assert place(areas, 0x1000, 1, *window) == 0xF8800000
    assert place(areas, 0x1000, 1, *window) == 0xF8802000
    assert place(areas, 0x1000, 1, *window) is None
    areas.remove(areas.find(0xF8800000))
    assert place(areas, 0x1000, 1, *window) == 0xF8800000
    assert place(areas, 0x1000, 1, *window) is None
    # searches 0, 1 and 2 bodies, the lookup 1, then found in front of the only one, then out at the second
    assert areas.nodes_visited == 0 + 1 + 2 + 1 + 1 + 2


def test_guard_page_wraps_the_size_to_zero_and_the_address_is_given_twice():
    areas = AreaList(32, 12)
    window = 0xF8800000, 0xFF7FE000
    assert place(areas, 0x1000, 1, *window) == 0xF8800000
    assert place(areas, 0xFFFFF000, 1, *window) == 0xF8800000
    assert nodes(areas) == [(0xF8800000, 0), (0xF8800000, 0x2000)]
    empty, old = areas
    assert areas.find(0xF8800000) is empty
    assert not areas.orderly
    assert old in areas
    areas.remove(empty)
    assert areas.orderly
    assert areas.find(0xF8800000) is old


def test_equal_addresses_remove_the_area_asked_for():
    areas = AreaList(32, 12)
    place(areas, 0x1000, 1, 0xF8800000, 0xFF7FE000)
    place(areas, 0xFFFFF000, 1, 0xF8800000, 0xFF7FE000)
    empty, old = areas
    areas.remove(old)
    assert list(areas) == [empty]
    areas.check()


def test_wrapping_reservation_puts_its_successor_at_the_wrapped_address():
    areas = AreaList(64, 12)
    window = 0xFFFFC20000000000, 0xFFFFE1FFFFFFFFFF
    assert place(areas, 0x3E0000000000, 1, *window) == 0xFFFFC20000000000
    assert place(areas, 0x1000, 1, *window) == 0x1000
    assert nodes(areas) == [(0xFFFFC20000000000, 0x3E0000001000), (0x1000, 0x2000)]
    assert not areas.orderly
    assert areas.largest_hole(0, 2**64) == 0xFFFFC20000000000 - 0x3000
    assert areas.free_bytes(*window) == 0
    areas.remove(areas.find(0xFFFFC20000000000))
    assert areas.orderly


def test_overflow_is_seen_only_with_an_area_in_the_way():
    areas = AreaList(64, 12)
    window = 0xFFFFC20000000000, 0xFFFFE1FFFFFFFFFF
    assert place(areas, 0x1000, 1, *window) == 0xFFFFC20000000000
    assert place(areas, 0x3E0000000000, 1, *window) is None
    assert areas.nodes_visited == 1


@pytest.mark.parametrize(
    ("word_bits", "start", "requests"),
    [
        # (size, ALIGN() of the request, address)
        (
            32,
            0xF8801000,
            [
                (0x1000, 0x1000, 0xF8801000),
                (0x1000, 0x2000, 0xF8804000),
                (0x2000, 0x2000, 0xF8806000),
                (0x10000, 0x20000, 0xF8820000),
            ],
        ),
        (
            64,
            0xFFFFC20000001000,
            [
                (0x40000, 0x80000, 0xFFFFC20000080000),
                (0x80000, 0x80000, 0xFFFFC20000100000),
                (0x10000000, 0x80000, 0xFFFFC20000200000),
            ],
        ),
        (
            64,
            0xFFFFC20000001000,
            [(0x100000000, 0x1000, 0xFFFFC20000001000), (0x180000000, 0x80000, 0xFFFFC20100080000)],
        ),
    ],
)
def test_aligned_requests(word_bits, start, requests):
    areas = AreaList(word_bits, 12)
    end = start + 2**23 if word_bits == 32 else 0xFFFFE1FFFFFFFFFF
    for size, align, addr in requests:
        assert place(areas, size, align, start, end) == addr
    assert nodes(areas) == [(addr, size + PAGE) for size, _, addr in requests]
    assert areas.orderly


def test_size_includes_the_guard_page_until_removal():
    areas = AreaList(32, 12)
    place(areas, 0x2000, 0x4000, 0xF8800000, 0xFF7FE000)
    (area,) = areas
    assert (area.addr, area.size) == (0xF8800000, 0x3000)
    areas.remove(area)
    assert area.size == 0x3000  # the caller takes the guard page off, mm/vmalloc.c:300


def test_unaligned_start_spreads_to_the_successors():
    areas = AreaList(32, 12)
    window = 0xF8800000, 0xFF7FE000
    assert place(areas, 0x1000, 1, 0xF8800800, window[1]) == 0xF8800800
    assert place(areas, 0x1000, 1, *window) == 0xF8802800
    assert place(areas, 0x1000, 1, *window) == 0xF8804800
    assert areas.nodes_visited == 0 + 1 + 2
    assert not areas.orderly
    areas.remove(areas.find(0xF8800800))
    assert nodes(areas) == [(0xF8802800, 0x2000), (0xF8804800, 0x2000)]
    # The hole in front is too small by half a page for a page and its guard from window[0] + 0x1000 on.
    assert place(areas, 0x1000, 1, window[0] + 0x1000, window[1]) == 0xF8806800
