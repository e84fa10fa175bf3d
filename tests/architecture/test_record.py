"""A record that describes no possible machine is refused, with the field, what was found and what is expected."""

import re

import numpy as np
import pytest
from attrs import evolve

from vmcore.architecture import (
    Architecture,
    Cache,
    HardwareView,
    Layout,
    LayoutRequest,
    Leaf,
    Level,
    Mirror,
    Segment,
    Window,
    Zone,
    cut_banks,
)
from vmcore.errors import ArchitectureError, LayoutError
from vmcore.units import Bank

ROOT = Level(
    name="pgd", shift=22, bits=10, entry_bytes=4, frame=((12, 20, 12),), bad_mask=0xFFB, good_value=0x063,
    table_flags=0x067, leaves=(Leaf("4 MiB page", 0x81, 0x81, 22, ((22, 10, 22),)),),
)  # fmt: skip
LAST = Level(name="pte", shift=12, bits=10, entry_bytes=4, frame=((12, 20, 12),), flag_names={"P": 1, "RW": 2})


def layout(request):
    banks = request.banks(0)
    return Layout(
        page_offset=0xC0000000, phys_offset=0, lowmem_end=banks[-1].end if banks else 0, vmalloc_start=0xF8800000,
        vmalloc_end=0xFF7FE000, swapper_pg_dir=0x300000, kernel_end=0x400000, first_kernel_pgd=768, banks=banks,
    )  # fmt: skip


GOOD = Architecture(
    name="good", description="a machine", word_bits=32, page_shift=12, levels=(ROOT, LAST), page_kernel=0x163,
    protections={"PAGE_KERNEL_RO": 0x161}, zones=("DMA", "NORMAL", "HIGHMEM"), layout=layout, platforms=("a", "b"),
)  # fmt: skip


def broken_root(**changes):
    return {"levels": (evolve(ROOT, **changes), LAST)}


def broken_last(**changes):
    return {"levels": (ROOT, evolve(LAST, **changes))}


def broken_mmu(**changes):
    return {"hardware": HardwareView(levels=(evolve(ROOT, **changes), LAST))}


@pytest.mark.parametrize(
    ("changes", "subject", "field", "found", "expected"),
    [
        ({"name": ""}, "architecture", "name", "''", "lower case words joined by - or _"),
        ({"name": "I386"}, "I386", "name", "'I386'", "lower case words joined by - or _"),
        ({"name": "a b"}, "a b", "name", "'a b'", "lower case words joined by - or _"),
        ({"name": "x--y"}, "x--y", "name", "'x--y'", "lower case words joined by - or _"),
        ({"word_bits": 16}, "good", "word_bits", "16", "32 or 64"),
        ({"page_shift": 9}, "good", "page_shift", "9", "10 to 24"),
        ({"page_shift": 25}, "good", "page_shift", "25", "10 to 24"),
        ({"levels": (LAST,)}, "good", "levels", "1 level", "2 to 5 real levels"),
        ({"levels": (ROOT,) * 6}, "good", "levels", "6 levels", "2 to 5 real levels"),
        ({"max_cpus": 0}, "good", "max_cpus", "0", "at least 1"),
        ({"default_ram": 0}, "good", "default_ram", "0", "a positive number of bytes"),
        ({"ioremap_max_order": 11}, "good", "ioremap_max_order", "11", "12 to 31"),
        ({"ioremap_max_order": 32}, "good", "ioremap_max_order", "32", "12 to 31"),
        ({"zones": ("DMA",)}, "good", "zones", "('DMA',)",
         "NORMAL and any of the others once each, in the order DMA, DMA32, NORMAL, HIGHMEM"),
        ({"zones": ("NORMAL", "DMA")}, "good", "zones", "('NORMAL', 'DMA')",
         "NORMAL and any of the others once each, in the order DMA, DMA32, NORMAL, HIGHMEM"),
        ({"zones": ("NORMAL", "NORMAL")}, "good", "zones", "('NORMAL', 'NORMAL')",
         "NORMAL and any of the others once each, in the order DMA, DMA32, NORMAL, HIGHMEM"),
        ({"zones": ("NORMAL", "MOVABLE")}, "good", "zones", "('NORMAL', 'MOVABLE')",
         "NORMAL and any of the others once each, in the order DMA, DMA32, NORMAL, HIGHMEM"),
        (broken_last(shift=13), "good, levels 'pte'", "shift", "13", "12, where the level below ends"),
        (broken_root(shift=21), "good, levels 'pgd'", "shift", "21", "22, where the level below ends"),
        (broken_last(bits=0), "good, levels 'pte'", "bits", "0", "at least 1 (leave a folded level out)"),
        (broken_root(bits=11), "good, levels 'pgd'", "bits", "11", "levels that end within 32 bits"),
        (broken_root(entry_bytes=16), "good, levels 'pgd'", "entry_bytes", "16", "4 or 8 bytes, in words of 4 "
         "or 8"),
        (broken_root(repeat=(4, 8)), "good, levels 'pgd'", "entry_bytes", "4", "4 or 8 bytes, in words of 4 or 8"),
        (broken_root(none_mask=1 << 32), "good, levels 'pgd'", "none_mask", "0x100000000",
         "at most 0xffffffff, the entry's word"),
        (broken_root(present_mask=-1), "good, levels 'pgd'", "present_mask", "-0x1",
         "at most 0xffffffff, the entry's word"),
        (broken_root(missing_mask=1 << 40), "good, levels 'pgd'", "missing_mask", "0x10000000000",
         "at most 0xffffffff, the entry's word"),
        (broken_root(bad_mask=1 << 32), "good, levels 'pgd'", "bad_mask", "0x100000000",
         "at most 0xffffffff, the entry's word"),
        (broken_root(good_value=1 << 32), "good, levels 'pgd'", "good_value", "0x100000000",
         "at most 0xffffffff, the entry's word"),
        (broken_root(table_flags=1 << 32), "good, levels 'pgd'", "table_flags", "0x100000000",
         "at most 0xffffffff, the entry's word"),
        (broken_last(frame=()), "good, levels 'pte'", "frame", "empty",
         "at least one (entry bit, width, address bit)"),
        (broken_last(frame=((12, 0, 12),)), "good, levels 'pte'", "frame",
         "Segment(entry_bit=12, width=0, address_bit=12)", "segments inside the word that do not overlap"),
        (broken_last(frame=((12, 21, 12),)), "good, levels 'pte'", "frame",
         "Segment(entry_bit=12, width=21, address_bit=12)", "segments inside the word that do not overlap"),
        (broken_last(frame=((12, 20, 12), (31, 1, 32))), "good, levels 'pte'", "frame",
         "Segment(entry_bit=31, width=1, address_bit=32)", "segments inside the word that do not overlap"),
        (broken_root(good_value=0x067), "good, levels 'pgd'", "good_value", "0x67", "bits of bad_mask 0xffb"),
        (broken_mmu(shift=21), "good, hardware.levels 'pgd'", "shift", "21", "22, where the level below ends"),
        (broken_mmu(frame=()), "good, hardware.levels 'pgd'", "frame", "empty",
         "at least one (entry bit, width, address bit)"),
        (broken_last(offset=4), "good, levels 'pte'", "bits", "10", "a table that fits its page of 0x1000 bytes"),
        (broken_root(offset=4), "good, levels 'pgd'", "bits", "10", "a table that fits its page of 0x1000 bytes"),
        (broken_root(table_flags=0x1067), "good, levels 'pgd'", "table_flags", "0x1067", "bits outside the frame"),
        (broken_root(table_flags=0x066), "good, levels 'pgd'", "table_flags", "0x66", "a bit of present_mask 0x1"),
        (broken_root(table_flags=0x007), "good, levels 'pgd'", "table_flags", "0x7",
         "a value that is not bad: & 0xffb == 0x63"),
        (broken_root(bad_mask=0, good_value=0, table_flags=0x0E7), "good, levels 'pgd'", "leaves", "4 MiB page",
         "a test that the table entry 0xe7 does not pass"),
        ({"page_kernel": 0x1163}, "good", "page_kernel", "0x1163", "bits of the last level outside the frame"),
        ({"page_kernel": 0x162}, "good", "page_kernel", "0x162", "a bit of present_mask 0x1"),
        ({"page_kernel_exec": 1 << 63}, "good", "page_kernel_exec", "0x8000000000000000",
         "bits of the last level outside the frame"),
        ({"smp_flags": 0x1000}, "good", "smp_flags", "0x1000", "bits of the last level outside the frame"),
        ({"protections": {"IOREMAP": -1}}, "good", "IOREMAP", "-0x1", "bits of the last level outside the frame"),
        ({"hardware": HardwareView(canonical_bits=22)}, "good", "hardware.canonical_bits", "22", "0, or 23 to 32"),
        ({"hardware": HardwareView(canonical_bits=33)}, "good", "hardware.canonical_bits", "33", "0, or 23 to 32"),
        (broken_last(frame=((11, 21, 11),)), "good, levels 'pte'", "frame",
         "Segment(entry_bit=11, width=21, address_bit=11)",
         "address bits from 12 up, where a page or table begins"),
        (broken_root(frame=((11, 21, 11),), bad_mask=0, good_value=0), "good, levels 'pgd'", "frame",
         "Segment(entry_bit=11, width=21, address_bit=11)",
         "address bits from 12 up, where a page or table begins"),
        (broken_root(none_mask=0), "good, levels 'pgd'", "none_mask", "0x0",
         "at least one bit, or every entry passes the test"),
        (broken_root(missing_mask=0), "good, levels 'pgd'", "missing_mask", "0x0",
         "at least one bit, or every entry passes the test"),
        (broken_last(offset=-4), "good, levels 'pte'", "offset", "-4", "0 or more bytes"),
        (broken_last(prebuilt=True), "good, levels 'pte'", "prebuilt", "True",
         "False, there are no tables below the last level"),
        (broken_last(name="pgd"), "good, levels 'pgd'", "name", "'pgd'", "a name no other level has"),
        ({"supported_pte_mask": 0xFFFFFFFE}, "good", "supported_pte_mask", "0xfffffffe",
         "one that keeps 0x1, the present bits of page_kernel"),
        ({"page_kernel": None}, "good", "page_kernel", "None", "int"),
        ({"ioremap_max_order": None}, "good", "ioremap_max_order", "None", "int"),
        ({"name": None}, "architecture", "name", "None", "str"),
        ({"layout": None}, "good", "layout", "None", "Callable[[LayoutRequest], Layout]"),
        ({"hardware": None}, "good", "hardware", "None", "HardwareView"),
        ({"default_ram": "1G"}, "good", "default_ram", "'1G'", "int"),
        ({"levels": None}, "good", "levels", "None", "tuple[Level, ...]"),
        ({"zones": ("NORMAL", 3)}, "good", "zones", "('NORMAL', 3)", "tuple[Zone, ...]"),
        ({"protections": {"IOREMAP": "rw"}}, "good", "protections", "{'IOREMAP': 'rw'}", "Flags"),
    ],
)  # fmt: skip
def test_an_impossible_record_is_refused(changes, subject, field, found, expected):
    with pytest.raises(ArchitectureError) as error:
        evolve(GOOD, **changes)
    assert str(error.value) == f"{subject}: {field} is {found}, expected {expected}"
    assert (error.value.subject, error.value.field) == (subject, field)


@pytest.mark.parametrize(
    ("changes", "found", "field", "expected"),
    [
        ({"frame": [(12, 20)]}, "[(12, 20)]", "frame", "tuple[Segment, ...]"),
        ({"entry_bytes": "4"}, "'4'", "entry_bytes", "int"),
        ({"repeat": (None,)}, "(None,)", "repeat", "tuple[int, ...]"),
        ({"prebuilt": None}, "None", "prebuilt", "bool"),
    ],
)
def test_a_level_of_wrong_types_is_refused_when_it_is_made(changes, found, field, expected):
    with pytest.raises(ArchitectureError) as error:
        Level(**{"name": "pte", "shift": 12, "bits": 10, "entry_bytes": 4, "frame": LAST.frame} | changes)
    assert str(error.value) == f"level 'pte': {field} is {found}, expected {expected}"
    assert (error.value.subject, error.value.field) == ("level 'pte'", field)


def test_tables_smaller_than_a_page_may_lie_in_its_halves():
    root = evolve(ROOT, shift=21, bits=11, frame=((11, 21, 11),), bad_mask=0, good_value=0, table_flags=0x067)
    halves = evolve(GOOD, levels=(root, evolve(LAST, bits=9)))
    assert halves.levels[0].frame == (Segment(11, 21, 11),)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a1-b_2"},
        {"ioremap_max_order": 12},
        {"ioremap_max_order": 31},
        {"zones": ("NORMAL",)},
        {"page_kernel_exec": 0x163},
        {"hardware": HardwareView(canonical_bits=23)},
        {"hardware": HardwareView(canonical_bits=32)},
        broken_root(bad_mask=0, good_value=0),
    ],
)
def test_a_record_at_the_bounds_is_accepted(changes):
    changed = evolve(GOOD, **changes)
    assert all(getattr(changed, name) is not None for name in changes)


def test_what_a_record_leaves_out_takes_the_kernels_default():
    assert (GOOD.page_size, GOOD.word_mask, GOOD.pointer_bytes) == (4096, 0xFFFFFFFF, 4)
    assert GOOD.sizeof_vm_struct == 28
    assert GOOD.ioremap_max_order == 19
    assert (GOOD.smp_flags, GOOD.page_kernel_exec, GOOD.supported_pte_mask) == (0, None, 0xFFFFFFFFFFFFFFFF)
    assert (GOOD.default_ram, GOOD.max_cpus, GOOD.era) == (1 << 30, 32, "2.6.24")
    assert GOOD.hardware_levels is GOOD.levels
    assert GOOD.root_bytes == 4096
    assert GOOD.zones == (Zone("DMA"), Zone("NORMAL"), Zone("HIGHMEM"))


def test_what_a_level_leaves_out_follows_from_its_word():
    assert (LAST.none_mask, LAST.missing_mask, LAST.present_mask) == (0xFFFFFFFF, 0xFFFFFFFF, 1)
    assert (LAST.error_name, LAST.bad_mask, LAST.good_value) == ("pte", 0, 0)
    assert (LAST.entries, LAST.word_bytes, LAST.table_bytes, LAST.frame_mask) == (1024, 4, 4096, 0xFFFFF000)
    pair = evolve(LAST, entry_bytes=8, repeat=[0x400], none_mask=0xFFFFFFFF)
    assert (pair.word_bytes, pair.table_bytes, pair.repeat) == (4, 8192, (0x400,))
    fresh = Level(name="pgd", shift=21, bits=11, entry_bytes=8, frame=((12, 20, 12),), repeat=(0x400,))
    assert (fresh.none_mask, fresh.missing_mask) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert evolve(LAST, none_mask=0xFF, missing_mask=0x1).missing_mask == 0x1
    assert LAST.names(0x161) == ["P"]
    assert LAST.names(0x163) == ["P", "RW"]


SPLIT = evolve(LAST, entry_bytes=8, frame=((10, 44, 12), (8, 2, 56)), none_mask=(1 << 64) - 1)


@pytest.mark.parametrize(
    ("address", "flags", "entry"),
    [(0x1000, 0x0, 0x400), (0x100000, 0xE7, 0x400E7), (3 << 56 | 0x1000, 0x1, 0x701), (0xFFF, 0x1, 0x1)],
)
def test_frames_in_segments_are_encoded_alike_one_by_one_and_in_arrays(address, flags, entry):
    assert SPLIT.encode(address, flags) == entry
    assert SPLIT.decode(entry) == address & ~0xFFF
    words = SPLIT.encode_array(np.array([address], np.uint64), flags)
    assert (words.dtype, words.tolist()) == (np.dtype("u8"), [entry])
    assert SPLIT.decode_array(words).tolist() == [address & ~0xFFF]


def test_words_are_as_wide_as_the_level_says():
    words = LAST.encode_array(np.array([0x100000, 0xFFFFF000], np.uint64), 0x163)
    assert (words.dtype, words.tolist()) == (np.dtype("u4"), [0x100163, 0xFFFFF163])
    assert LAST.decode_array(words).tolist() == [0x100000, 0xFFFFF000]


def test_protections_are_found_by_kernel_name():
    assert GOOD.protection("PAGE_KERNEL") == 0x163
    assert GOOD.protection("PAGE_KERNEL_EXEC") == 0x163
    assert evolve(GOOD, page_kernel_exec=0x123).protection("PAGE_KERNEL_EXEC") == 0x123
    assert GOOD.protection("PAGE_KERNEL_RO") == 0x161
    with pytest.raises(ArchitectureError) as error:
        GOOD.protection("PAGE_KERNEL_R0")
    assert str(error.value) == (
        "good: protection is 'PAGE_KERNEL_R0', expected did you mean 'PAGE_KERNEL_RO'? "
        "one of: PAGE_KERNEL, PAGE_KERNEL_EXEC, PAGE_KERNEL_RO"
    )


def test_a_record_is_a_value():
    assert evolve(GOOD) == GOOD
    assert hash(evolve(GOOD)) == hash(GOOD)
    assert evolve(GOOD, page_kernel=0x161) != GOOD
    assert isinstance(ROOT.frame[0], Segment)
    view = HardwareView(cache=Cache(kind="vivt", colours=0))
    assert evolve(GOOD, hardware=view).hardware.cache.kind == "vivt"


HALVES = evolve(
    GOOD,
    levels=[evolve(ROOT, shift=21, bits=11), evolve(LAST, bits=9, offset=0x800)],
    hardware=HardwareView(mirror=Mirror(0, np.negative)),
)


@pytest.mark.parametrize(
    ("mirror", "field", "message"),
    [
        (Mirror(0x800, np.negative), "offset", "0x800, expected a place in the table page beside"),
        (Mirror(0x400, np.negative), "offset", "0x400, expected a place in the table page beside"),
        (Mirror(0x900, np.negative), "offset", "0x900, expected a place in the table page beside"),
        (Mirror(0, np.invert), "encode(0)", "0xffffffff, expected 0"),
    ],
)
def test_the_hardware_half_lies_beside_and_clears_with_the_linux_half(mirror, field, message):
    with pytest.raises(ArchitectureError) as error:
        evolve(HALVES, hardware=HardwareView(mirror=mirror))
    assert error.value.field == field
    assert str(error.value).startswith(f"good, hardware.mirror: {field} is {message}")


# ---- layouts


def with_layout(**changes):
    return evolve(GOOD, layout=lambda request: evolve(layout(request), **changes))


@pytest.mark.parametrize(
    ("changes", "ram", "message"),
    [
        ({}, 4 << 20, "RAM is 4 MiB, expected more than the 4 MiB the kernel itself takes"),
        ({}, 0, "RAM is 0 B, expected more than the 4 MiB the kernel itself takes"),
        ({}, (), "RAM is 0 B, expected more than the 4 MiB the kernel itself takes"),
        ({"vmalloc_end": 1 << 32}, 1 << 29, "the vmalloc window is 0xf8800000..0x100000000, expected a window "
         "that "
         "is not empty within 32 bits; give less RAM or another vmalloc="),
        ({"vmalloc_end": 0xF8800000}, 1 << 29, "the vmalloc window is 0xf8800000..0xf8800000, expected a "
         "window that "
         "is not empty within 32 bits; give less RAM or another vmalloc="),
        ({"vmalloc_start": 0xDFFFF000}, 1 << 29, "vmalloc_start is 0xdffff000, expected high_memory 0xe0000000 or "
         "above"),
        ({"vmalloc_start": 0xF8800800}, 1 << 29, "vmalloc_start is 0xf8800800, expected a multiple of 0x1000, "
         "not negative"),
        ({"vmalloc_start": 0xC0000000}, 1 << 29, "vmalloc_start is 0xc0000000, expected high_memory 0xe0000000 or "
         "above"),
        ({"swapper_pg_dir": 0x300400}, 1 << 29, "swapper_pg_dir is 0x300400, expected a multiple of 0x1000, not "
         "negative"),
        ({"phys_offset": -0x1000}, 1 << 29, "phys_offset is -0x1000, expected a multiple of 0x1000, not negative"),
        ({"page_offset": 0xC0000001}, 1 << 29, "page_offset is 0xc0000001, expected a multiple of 0x1000, not "
         "negative"),
        ({"kernel_end": 0x400200}, 1 << 29, "kernel_end is 0x400200, expected a multiple of 0x1000, not negative"),
        ({"kernel_end": 0x300000}, 1 << 29, "kernel_end is 0x300000, expected 0x301000 or above, where the root "
         "table ends"),
        ({"first_kernel_pgd": 1024}, 1 << 29, "first_kernel_pgd is 1024, expected 0 to 1023, an entry of the "
         "root"),
        ({"first_kernel_pgd": -1}, 1 << 29, "first_kernel_pgd is -1, expected 0 to 1023, an entry of the root"),
        ({"lowmem_end": None}, 1 << 29, "layout: lowmem_end is None, expected int"),
        ({"lowmem_end": 0x400000}, 1 << 29, "the end of lowmem is 0x400000, expected one above 0x400000, "
         "where the "
         "kernel ends; give more RAM or a smaller vmalloc="),
        ({"swapper_pg_dir": 0x20000000}, 1 << 29, "swapper_pg_dir is 0x20000000..0x20001000, expected a place "
         "inside "
         "one bank of RAM"),
        ({}, (Bank(0, 1 << 20), Bank(1 << 28, 1 << 29)), "swapper_pg_dir is 0x300000..0x301000, expected a place "
         "inside one bank of RAM"),
        ({}, (Bank(0, 1 << 28), Bank(1 << 27, 1 << 29)), "RAM bank 0x8000000-0x20000000 is out of order, "
         "expected one "
         "that starts at 0x10000000 or above, after 0x0-0x10000000"),
        ({}, (1 << 29) + 1, "RAM bank 0x0-0x20000001 is not page aligned, expected bounds that are multiples of "
         "0x1000"),
    ],
)  # fmt: skip
def test_a_layout_that_contradicts_itself_is_refused(changes, ram, message):
    with pytest.raises(LayoutError, match="^" + re.escape(f"good: {message}") + "$"):
        with_layout(**changes).lay_out(LayoutRequest(ram=ram))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda request: None, "the layout function returned None, expected a Layout"),
        (lambda request: {}["x"], "the layout function raised KeyError: 'x', expected a Layout"),
        (lambda request: int("1\n2"),
         "the layout function raised ValueError: invalid literal for int() with base 10: '1\\n2', "
         "expected a Layout"),
    ],
)  # fmt: skip
def test_a_layout_function_that_fails_names_its_architecture(function, message):
    with pytest.raises(LayoutError, match="^" + re.escape(f"good: {message}") + "$"):
        evolve(GOOD, layout=function).lay_out(LayoutRequest(ram=1 << 29))


def test_an_unknown_platform_is_refused_with_the_nearest():
    with pytest.raises(LayoutError, match=r"^good: unknown platform 'bb': did you mean 'b'\? valid: a, b$"):
        GOOD.lay_out(LayoutRequest(ram=1 << 29, platform="bb"))
    with pytest.raises(LayoutError, match=r"^good: unknown platform 'a': valid: none$"):
        evolve(GOOD, platforms=()).lay_out(LayoutRequest(ram=1 << 29, platform="a"))


@pytest.mark.parametrize(("asked", "given"), [(None, "a"), ("a", "a"), ("b", "b")])
def test_the_first_platform_is_the_default(asked, given):
    seen = []
    arch = evolve(GOOD, layout=lambda request: (seen.append(request), layout(request))[1])
    arch.lay_out(LayoutRequest(ram=1 << 29, platform=asked))
    assert seen == [LayoutRequest(ram=1 << 29, platform=given)]


def test_a_layout_knows_its_windows():
    found = GOOD.lay_out(LayoutRequest(ram=1 << 29))
    assert found.high_memory == 0xE0000000
    assert (found.vmalloc, found.vmalloc.size) == (Window(0xF8800000, 0xFF7FE000), 0x6FFE000)
    assert LayoutRequest(ram=1 << 29).banks(0x80000000) == (Bank(0x80000000, 0xA0000000),)
    assert LayoutRequest(ram=(Bank(0, 1),)).banks(0x80000000) == (Bank(0, 1),)


@pytest.mark.parametrize(
    ("end", "kept", "notes"),
    [
        (5 << 30, (Bank(0, 3 << 30), Bank(4 << 30, 5 << 30)), ()),
        (4 << 30, (Bank(0, 3 << 30),),
         ("<4>Warning: 1 GiB of RAM above 0x100000000 cannot be used: no PAE.\n",)),
        (9 << 29, (Bank(0, 3 << 30), Bank(4 << 30, 9 << 29)),
         ("<4>Warning: 512 MiB of RAM above 0x120000000 cannot be used: no PAE.\n",)),
        (0, (), ("<4>Warning: 4 GiB of RAM above 0x0 cannot be used: no PAE.\n",)),
    ],
)  # fmt: skip
def test_ram_above_the_end_is_cut_with_a_log_line(end, kept, notes):
    banks = (Bank(0, 3 << 30), Bank(4 << 30, 5 << 30))
    assert cut_banks(banks, end, "no PAE") == (kept, notes)
