"""Page tables where machines differ: bad entries, levels built at boot, hardware halves."""

import pytest
from attrs import evolve

from tests.paging.test_tables import expected, map_pages, numbers, odd_word, per_table, start_of
from tests.support.slow_walker import FIRST_TABLE, RAM_END, ROOT, Bench, decode, encode, entry_address, hardware
from tests.support.synthetic import DEEP
from vmcore.errors import BusError, OutOfMemory
from vmcore.flags import NO_FRAME


def bad_word(level):
    """Return a word that is bad, made from a good table entry by flipping one bit of the rule."""
    good = encode(level, FIRST_TABLE, level.table_flags)
    bit = next(1 << n for n in range(8 * level.word_bytes) if (level.bad_mask & ~level.frame_mask) >> n & 1)
    assert (good ^ bit) & level.bad_mask != level.good_value
    return good ^ bit


def with_bad_rule(arch):
    return [depth for depth, level in enumerate(arch.levels[:-1]) if level.bad_mask]


@pytest.mark.parametrize("count", [3, 20], ids=["few tables", "many tables"])
def test_a_bad_entry_is_logged_and_cleared_and_the_rest_unmapped(arch, count):
    for depth in with_bad_rule(arch):
        bench, tables, level = Bench(arch), per_table(arch), arch.levels[depth]
        base = start_of(arch) & -(tables << arch.page_shift)
        base += tables << arch.page_shift  # whole tables, so that the range begins and ends with one
        map_pages(bench, base, numbers(count * tables))
        address = base + (1 << arch.levels[-2].shift)
        at, word = entry_address(bench, address, depth), bad_word(level)
        bench.memory.store(at, word, level.word_bytes)
        bench.tables.unmap(base, base + (count * tables << arch.page_shift))
        digits, wide = 2 * level.word_bytes, arch.word_bits // 4
        value = f"{word:0{digits}x}"
        text = value if digits == 8 else f"{at:0{wide}x}({value})"
        assert bench.log == [f"<3>mm/memory.c: bad {level.error_name} {text}.\n"]
        assert bench.memory.read(at, level.entry_bytes) == bytes(level.entry_bytes)
        assert bench.scan() == {}


@pytest.mark.parametrize(
    ("name", "depth", "word", "line"),
    [
        ("i386", 0, 0x008001E3, "<3>mm/memory.c: bad pgd 008001e3.\n"),
        ("i386", 0, 0x00400047, "<3>mm/memory.c: bad pgd 00400047.\n"),
        ("i386-pae", 1, 0x80000000004001E3, "<3>mm/memory.c: bad pmd 00400e20(80000000004001e3).\n"),
        ("x86_64", 0, 0x4000E7, "<3>mm/memory.c: bad pgd 0000000000300c20(00000000004000e7).\n"),
        ("x86_64", 1, 0x400000000067, "<3>mm/memory.c: bad pud 0000000000400000(0000400000000067).\n"),
        ("x86_64", 2, 0x4001E3, "<3>mm/memory.c: bad pmd 0000000000401000(00000000004001e3).\n"),
        ("armv5", 0, 0x0040041E, "<3>mm/memory.c: bad pmd 0040041e.\n"),
        ("armv7", 0, 0x0041040E, "<3>mm/memory.c: bad pmd 0041040e.\n"),
    ],
)
def test_large_pages_and_sections_are_bad(registry, name, depth, word, line):
    arch = registry.get(name)
    start = {"i386": 0xF8800000, "i386-pae": 0xF8800000, "x86_64": 0xFFFFC20000000000}.get(name, 0xC8800000)
    bench, level = Bench(arch), arch.levels[depth]
    map_pages(bench, start, [0x100])
    at, _ = bench.tables.entry(start, depth)
    bench.tables.set_entry(at, depth, word)
    bench.tables.unmap(start, start + arch.page_size)
    assert bench.log == [line]
    assert bench.memory.read(at, level.entry_bytes) == bytes(level.entry_bytes)


@pytest.mark.parametrize(
    ("name", "word"),
    [("i386", 0x00800063), ("i386-pae", 0x8000000000800067), ("x86_64", 0x800001), ("x86_64", 0x800000),
     ("armv5", 0x00800051)],
)  # fmt: skip
def test_what_is_odd_but_not_bad_is_followed(registry, name, word):
    arch = registry.get(name)
    bench, depth, start = Bench(arch), len(arch.levels) - 2, start_of(arch)
    map_pages(bench, start, [0x100])
    at, _ = bench.tables.entry(start, depth)
    table = decode(arch.levels[depth], word)
    bench.tables.set_entry(at, depth, word)
    entry = entry_address(bench, start, depth + 1)
    assert entry - table < arch.page_size
    bench.memory.store(entry, 0x200163, arch.levels[-1].word_bytes)
    bench.tables.unmap(start, start + arch.page_size)
    assert (bench.log, bench.word(entry, arch.levels[-1].word_bytes)) == ([], 0)


def test_the_low_half_decides_whether_a_pae_pmd_is_none(registry):
    arch = registry.get("i386-pae")
    bench, start = Bench(arch), 0xF8800000
    map_pages(bench, start, [0x100])
    at, _ = bench.tables.entry(start, 1)
    bench.memory.store(at, 0x8000000100000000, 8)
    bench.tables.unmap(start, start + 0x1000)
    assert (bench.log, bench.word(at, 8)) == ([], 0x8000000100000000)
    assert (bench.tables.lookup(start), bench.scan()) == (None, {})


@pytest.mark.parametrize(
    ("name", "depth", "word", "made"),
    [("x86_64", 2, 0x800006, 1), ("x86_64", 1, 0x804006, 0), ("i386", 0, 0x800066, 1), ("armv5", 0, 0x800004, 0)],
)  # fmt: skip
def test_a_table_is_made_where_the_kernels_own_test_says_so(registry, name, depth, word, made):
    """Of x86_64 only pte_alloc_kernel looks at PRESENT; pud_alloc and pmd_alloc follow what is not 0."""
    arch = registry.get(name)
    bench, start = Bench(arch), start_of(arch)
    map_pages(bench, start, [0x100])
    at, _ = bench.tables.entry(start, depth)
    bench.tables.set_entry(at, depth, word)
    before = len(bench.handed_out)
    child = decode(arch.levels[depth], word)
    bench.memory.write(child, bytes(arch.page_size))
    map_pages(bench, start, [0x101])
    made_here = [t for t in bench.handed_out[before:] if decode(arch.levels[depth], bench.word(at, 4)) == t]
    assert len(made_here) == made


def test_an_entry_that_ends_behind_memory_is_not_stored(registry):
    """The second word of ARM's would be there, and the first one stays as it was."""
    bench = Bench(registry.get("armv5"))
    with pytest.raises(BusError):
        bench.tables.set_entry(RAM_END - 4, 0, 0x400011)
    assert bench.word(RAM_END - 4, 4) == 0


# ---- levels that exist since boot


def test_prebuilt_levels_are_made_once_for_the_kernels_half_only():
    levels = [evolve(level, prebuilt=level.name in ("pgd", "p4d")) for level in DEEP.levels]
    levels[1] = evolve(levels[1], bits=9)
    arch = evolve(DEEP, levels=levels)
    bench = Bench(arch)
    bench.tables.prebuild(255)
    assert bench.tables.tables == {"p4d": 1, "pud": 512, "pmd": 0, "pte": 0}
    assert bench.tables.entry(0xFFE0_0000_0000_0000, 0)[1] == 0
    made = len(bench.handed_out)
    bench.tables.prebuild(255)
    assert bench.tables.tables["pud"] == 512
    assert (len(bench.handed_out), bench.taken_back) == (made, [])
    map_pages(bench, 0xFFF8_0000_0000_0000, [1])
    assert bench.tables.tables == {"p4d": 1, "pud": 512, "pmd": 1, "pte": 1}


def test_boot_tells_of_each_table_by_the_first_address_it_serves():
    arch, heard = evolve(DEEP, levels=[evolve(level, prebuilt=level.name == "pgd") for level in DEEP.levels]), []
    bench = Bench(arch, on_table=lambda **told: heard.append(told))
    bench.tables.prebuild(250)
    top = 1 << arch.word_bits
    addresses = [top - (256 - n << 52) for n in range(250, 256)]
    assert heard == [
        {"level": "p4d", "address": a, "table": FIRST_TABLE + n * arch.page_size} for n, a in enumerate(addresses)
    ]


def test_boot_says_which_table_there_is_no_page_for():
    arch = evolve(DEEP, levels=[evolve(level, prebuilt=level.name == "pgd") for level in DEEP.levels])
    bench = Bench(arch, tables=[FIRST_TABLE])
    with pytest.raises(OutOfMemory, match="no page for the p4d of 0xfff0000000000000 at boot"):
        bench.tables.prebuild(254)


@pytest.mark.parametrize("count", [5, 300 * 512 + 3], ids=["few pages", "many tables"])
@pytest.mark.parametrize("skip", [0, 511])
def test_large_pages_in_a_row_go_to_memory_in_a_row(registry, count, skip):
    arch = registry.get("x86_64")
    large = next(leaf for leaf in arch.hardware_levels[2].leaves if leaf.shift == 21)
    bench, start = Bench(arch), 0xFFFF810000000000 + (skip << 21)
    bench.tables.map_linear(start, start + (count << 21), 6 << 21, large, 0x1E3)
    tables = (skip + count - 1 >> 9) + 1
    assert bench.tables.tables == {"pud": (tables - 1 >> 9) + 1, "pmd": tables, "pte": 0}

    def translate(address):
        return hardware(bench.word, arch, ROOT, address)

    borders = (511, 512, 255 * 512, 256 * 512 - 1, 256 * 512, 256 * 512 + 1, 300 * 512)
    for n in {0, 1, count - 1, *(border - skip for border in borders if border - skip < count)}:
        assert translate(start + (n << 21) + 5) == (n + 6 << 21) + 5
    ends = start - 1, start + (count << 21)
    assert {translate(address) for address in ends} <= {"NOT_PRESENT", "NO_TABLE"}


def test_entries_may_begin_inside_of_a_table_at_every_level():
    """Of ARM only the last level's do; the walks take each level's offset from the record."""
    places = {"pgd": 0x200, "p4d": 0x1000, "pud": 0x800, "pmd": 0x400, "pte": 0x1000}
    shifts = {"pgd": 49, "p4d": 40, "pud": 31, "pmd": 22, "pte": 13}
    levels = [
        evolve(level, offset=places[level.name], bits=min(level.bits, 9), shift=shifts[level.name])
        for level in DEEP.levels
    ]
    arch = evolve(DEEP, levels=levels)
    bench, start, pages = Bench(arch), 0xFFC0_0000_0000_0000 - (7 << 13), 20 << 9
    frames = numbers(pages)
    assert map_pages(bench, start, frames).done == pages
    assert bench.scan() == expected(arch, start, frames, arch.page_kernel)
    assert bench.tables.frames(start - 8192, pages + 2).tolist() == [NO_FRAME, *frames.tolist(), NO_FRAME]
    assert bench.tables.frame(start + 8192) == frames[1]
    found = bench.tables.table_addresses()
    assert sorted(at for tables in found.values() for at in tables.tolist()) == sorted(bench.handed_out)
    assert {name: len(tables) for name, tables in found.items()} == bench.tables.tables
    assert bench.tables.entries()[0].tolist() == sorted(bench.scan())
    bench.tables.unmap(start, start + (pages << 13))
    assert bench.scan() == {}


# ---- entries that are none though they are not 0


@pytest.mark.parametrize("count", [1, 30], ids=["few", "more than a few"])
@pytest.mark.parametrize("heard", [{}, {"on_cleared": lambda **told: None}], ids=["unheard", "heard"])
def test_a_last_level_entry_that_is_none_is_cleared_without_a_warning(count, heard):
    """PTE bits that no test of the kernel looks at, for example of a swap cache, do not make an entry."""
    last = evolve(DEEP.levels[-1], none_mask=(1 << 64) - 1 & ~0x300)
    arch = evolve(DEEP, levels=[*DEEP.levels[:-1], last])
    bench, start = Bench(arch, **heard), start_of(arch)
    map_pages(bench, start, numbers(count))
    at = entry_address(bench, start, len(arch.levels) - 1)
    bench.memory.store(at, 0x200, 8)
    assert (len(bench.scan()), bench.tables.frame(start)) == (count - 1, None)
    bench.tables.unmap(start, start + (count << arch.page_shift))
    assert (bench.log, bench.word(at, 8), bench.scan()) == ([], 0, {})
    bench.memory.store(at, 0x200, 8)
    map_pages(bench, start, numbers(count))
    assert (bench.log, bench.scan()) == ([], expected(arch, start, numbers(count), arch.page_kernel))


@pytest.mark.parametrize(
    ("name", "first", "tables"), [("i386-pae", 3, {"pmd": 1, "pte": 0}), ("i386", 768, {"pte": 0})]
)
def test_what_boot_makes(registry, name, first, tables):
    bench = Bench(registry.get(name))
    bench.tables.prebuild(first)
    assert bench.tables.tables == tables
    if name == "i386-pae":
        assert bench.tables.entry(0xC0000000, 0) == (ROOT + 0x18, FIRST_TABLE | 1)
        assert [bench.word(ROOT + 8 * n, 8) for n in range(3)] == [0, 0, 0]


# ---- two words, two halves


@pytest.mark.parametrize(
    ("name", "linux", "hardware", "prot", "words"),
    [
        ("armv5", 0x800, 0x000, 0x0EF, (0x0EF, 0x55E)),
        ("armv5", 0x800, 0x000, 0x0ED, (0x0ED, 0x000)),
        ("armv5", 0x800, 0x000, 0x0CF, (0x0CF, 0x00E)),
        ("armv7", 0x800, 0x000, 0x0EF, (0x0EF, 0x01E)),
        ("armv7", 0x800, 0x000, 0x0ED, (0x0ED, 0x00E)),
        ("armv7", 0x800, 0x000, 0x4EF, (0x4EF, 0x41E)),
    ],
)
@pytest.mark.parametrize("count", [3, 40, 512 * 18])
def test_both_halves_of_a_table(registry, name, linux, hardware, prot, words, count):
    arch = registry.get(name)
    bench, start = Bench(arch), 0xC8800000
    frames = numbers(count)
    map_pages(bench, start, frames, prot)
    soft, hard = words
    for n in (0, 1, count // 2, count - 1):
        table = bench.handed_out[n // 512]
        frame = int(frames[n]) << 12
        at = table + 4 * (n % 512)
        not_young = hard and frame | hard
        assert (bench.word(at + linux, 4), bench.word(at + hardware, 4)) == (frame | soft, not_young)
    root = ROOT + (start >> 21) * 8
    table = bench.handed_out[0]
    assert (bench.word(root, 4), bench.word(root + 4, 4)) == (table | 0x11, (table | 0x11) + 0x400)
    bench.tables.unmap(start, start + (count << 12))
    assert all(bench.memory.read(table, 4096) == bytes(4096) for table in bench.handed_out)
    assert (bench.word(root, 4), bench.word(root + 4, 4)) == (table | 0x11, (table | 0x11) + 0x400)


def test_a_cleared_odd_entry_is_cleared_in_the_hardware_half_too(registry):
    arch = registry.get("armv7")
    bench, start = Bench(arch), 0xC8800000
    map_pages(bench, start, [1])
    table = bench.handed_out[0]
    bench.memory.store(table + 0x800, odd_word(arch), 4)
    bench.tables.unmap(start, start + 0x1000)
    assert bench.memory.read(table, 4096) == bytes(4096)


def test_without_nx_bit_63_is_never_stored(registry):
    for name in ("i386-pae", "x86_64"):
        arch = evolve(registry.get(name), supported_pte_mask=0x7FFFFFFFFFFFFFFF)
        bench, start = Bench(arch), start_of(arch)
        for frames in (numbers(3), numbers(60)):
            map_pages(bench, start, frames)
            assert bench.scan() == expected(arch, start, frames, 0x163)
            bench.tables.unmap(start, start + (len(frames) << 12))


@pytest.mark.parametrize("count", [3, 60])
def test_a_frame_wider_than_the_entry_loses_the_bits_that_are_not_supported(registry, count):
    """pfn_pte() shifts and masks, whatever the frame (asm-i386/pgtable-3level.h, asm-x86_64/pgtable.h)."""
    for name in ("i386-pae", "x86_64"):
        arch = evolve(registry.get(name), supported_pte_mask=0x7FFFFFFFFFFFFFFF)
        start = start_of(arch)
        for heard in ({}, {"on_mapped": lambda **a: None}):
            bench = Bench(arch, **heard)
            map_pages(bench, start, numbers(count) | 1 << 51)
            at = entry_address(bench, start, len(arch.levels) - 1)
            words = [bench.word(at + 8 * n, 8) for n in range(count)]
            assert words == [int(frame) << 12 | arch.page_kernel & ~(1 << 63) for frame in numbers(count)]


@pytest.mark.parametrize("count", [3, 60])
def test_more_frames_than_pages_are_not_mapped(arch, count):
    bench, start, frames = Bench(arch), start_of(arch), numbers(count + 5)
    assert bench.tables.map(start, start + (count << arch.page_shift), frames, arch.page_kernel).done == count
    assert bench.scan() == expected(arch, start, frames[:count], arch.page_kernel)
