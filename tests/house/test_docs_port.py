"""docs/port.md names every function of the C file, where it is there and where it is here."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import vmcore
from vmcore.errors import InvalidSize, KernelBug, OutOfMemory
from vmcore.kernel import Kernel
from vmcore.port.user import UserPages
from vmcore.port.vmalloc import Vmalloc

TEXT = (Path(__file__).parents[2] / "docs" / "port.md").read_text("utf-8")

# function -> (line of its name, line of its closing brace) in mm/vmalloc.c, revision c21b37f6
C_FUNCTIONS = {
    "vunmap_pte_range": (30, 39),
    "vunmap_pmd_range": (41, 54),
    "vunmap_pud_range": (56, 69),
    "unmap_kernel_range": (71, 88),
    "unmap_vm_area": (90, 93),
    "vmap_pte_range": (95, 112),
    "vmap_pmd_range": (114, 129),
    "vmap_pud_range": (131, 146),
    "map_vm_area": (148, 166),
    "__get_vm_area_node": (169, 239),
    "__get_vm_area": (241, 245),
    "get_vm_area": (257, 260),
    "get_vm_area_node": (262, 267),
    "__find_vm_area": (270, 280),
    "__remove_vm_area": (283, 302),
    "remove_vm_area": (312, 319),
    "__vunmap": (321, 360),
    "vfree": (372, 376),
    "vunmap": (388, 392),
    "vmap": (405, 422),
    "__vmalloc_area_node": (425, 471),
    "__vmalloc_area": (473, 476),
    "__vmalloc_node": (489, 503),
    "__vmalloc": (505, 508),
    "vmalloc": (520, 523),
    "vmalloc_user": (533, 546),
    "vmalloc_node": (560, 563),
    "vmalloc_exec": (582, 585),
    "vmalloc_32": (602, 605),
    "vmalloc_32_user": (615, 628),
    "vread": (631, 667),
    "vwrite": (669, 704),
    "remap_vmalloc_range": (719, 762),
    "vmalloc_sync_all": (769, 771),
    "f": (774, 778),
    "alloc_vm_area": (791, 814),
    "free_vm_area": (817, 823),
}


def rows(title):
    """Return the cells of the first table under a heading."""
    section = TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ")[0].split("\nOther definitions")[0]
    return [[c.strip() for c in row[1:-1].split("|")] for row in section.splitlines() if row.startswith("| `")]


def test_the_table_has_every_function_in_the_order_of_the_file():
    assert [row[0].strip("`") for row in rows("Every function of the file")] == list(C_FUNCTIONS)


@pytest.mark.parametrize("row", rows("Every function of the file"), ids=lambda row: row[0].strip("`"))
def test_cited_lines_are_those_of_the_function(row):
    first, last = map(int, row[1].split("-"))
    name_at, closes_at = C_FUNCTIONS[row[0].strip("`")]
    assert first == name_at
    assert closes_at <= last <= closes_at + 1  # at most its EXPORT_SYMBOL besides


def named(text):
    return re.findall(r"`((?:vmcore(?:\.\w+)+)|(?:[A-Z]\w+\.\w+))`", text)


@pytest.mark.parametrize("name", sorted({n for n in named(TEXT) if not n.endswith((".py", ".done"))}))
def test_what_the_page_names_exists(name):
    home, attribute = name.rsplit(".", 1)
    if home.startswith("vmcore."):
        assert hasattr(import_module(home), attribute)
        return
    k = boot()
    objects = {
        "PageTables": k.init_mm,
        "AreaList": k.vmlist,
        "Architecture": k.arch,
        "Level": k.arch.levels[-1],
        "UserPages": UserPages,
        "Log": k.log,
        "Allocators": k.allocators,
        "Symbols": k.symbols,
    }
    assert hasattr(objects.get(home, k), attribute)


@pytest.mark.parametrize("row", rows("Every function of the file"), ids=lambda row: row[0].strip("`"))
def test_a_function_is_mapped_to_its_own_name(row):
    c_name, python = row[0].strip("`"), named(row[2])
    if c_name.startswith(("vunmap_p", "vmap_p")) or c_name == "f":
        assert all(name.startswith(("PageTables.", "vmcore.paging.")) for name in python)
        return
    own = c_name.removeprefix("__") if c_name == "__find_vm_area" else c_name.replace("__", "_", 1)
    assert python[0] in {f"Vmalloc.{own}", f"Vmalloc._{own}", f"Vmalloc.raw{own}"}


def test_docstrings_cite_the_lines_of_their_functions():
    cited = 0
    for row in rows("Every function of the file"):
        for name in named(row[2]):
            home, attribute = name.rsplit(".", 1)
            if home != "Vmalloc" or attribute.startswith(("_page", "_free", "_usermap")):
                continue
            lines = re.findall(r"mm/vmalloc\.c:(\d+)", getattr(Vmalloc, attribute).__doc__ or "")
            first, last = C_FUNCTIONS[row[0].strip("`")]
            within = [n for n in map(int, lines) if first - 53 <= n <= last]
            assert within or not lines, name
            cited += bool(lines)
    assert cited >= 25


# ---- the one-line examples, and a few more of the quirks


def boot(**selection):
    return Kernel("i386-highmem", ram="1G", **selection)


def test_one_line_examples_of_the_page_hold():
    examples = re.findall(r"`(boot\(\)[^`]* == [^`]+)`", TEXT)
    assert len(examples) == 3
    for example in examples:
        assert eval(example, {"boot": boot}), example


def test_an_empty_list_never_looks_at_the_end():
    k = boot()
    area = k.get_vm_area(0x7F00000, 2)
    assert area.addr + area.size > k.layout.vmalloc_end


def test_start_behind_the_last_area_is_not_bounded():
    k = boot()
    first = k.get_vm_area(0x4000, 2)
    assert k.raw_get_vm_area(0x3000, 2, first.addr + 0x1000, first.addr + 0x2000).addr == 0xF8805000


def test_a_size_that_is_zero_with_its_guard_page_takes_the_address_of_another():
    k = boot()
    a = k.vmalloc(0x1000)
    assert (k.get_vm_area(0xFFFFF000, 2).addr, k.find_vm_area(a).size) == (a, 0)
    with pytest.raises(KernelBug, match="addr >= end"):
        k.vfree(a)
    with pytest.raises(vmcore.KernelDead):
        k.vmalloc(0x1000)


def test_sizes_that_round_to_zero_are_refused_without_a_word():
    k = boot()
    with pytest.raises(InvalidSize):
        k.get_vm_area(0xFFFFF001, 2)
    assert (k.dmesg, k.slab.live_objects) == ([], 0)


def test_fls_over_aligns_a_power_of_two():
    k = boot()
    start = k.layout.vmalloc_start
    assert k.raw_get_vm_area(0xFFF, 1, start + 0x1000, k.layout.vmalloc_end).addr == start + 0x1000
    assert k.raw_get_vm_area(0x1000, 1, start + 0x1000, k.layout.vmalloc_end).addr == start + 0x4000


def test_vmap_counts_bytes_in_32_bits():
    k = boot()
    k.num_physpages = 0x400000
    frames = k.alloc_pages(2, 0xD0, -1)
    addr = k.vmap(frames, 0x100002, 4, k.page_kernel)
    assert (k.find_vm_area(addr).size, k.vmalloc_to_page(addr + 0x1000)) == (0x3000, frames[1])


@pytest.mark.parametrize(("pages", "areas"), [(1024, 1), (1025, 2)])
def test_a_page_array_above_one_page_is_an_area_of_its_own(pages, areas):
    k = boot()
    k.vmalloc(pages << 12)
    assert len(k.vmlist) == areas


def test_page_tables_stay_and_their_frames_too():
    k = boot()
    before = k.pages.pages_in_use
    k.vfree(k.vmalloc(0x1000))
    assert (k.pages.pages_in_use - before, k.init_mm.tables) == (1, {"pte": 1})


def test_vfree_of_null_in_interrupt_is_a_bug_but_vmalloc_of_nothing_is_not():
    k = boot()
    k.in_interrupt = True
    with pytest.raises(InvalidSize):
        k.vmalloc(0)
    with pytest.raises(KernelBug):
        k.vfree(0)


def test_a_map_that_fails_leaves_what_it_did():
    k = boot()
    frames = k.alloc_pages(4, 0xD0, -1)
    kept, frames[2] = frames[:2].tolist(), -1
    area = k.get_vm_area(0x4000, 4)
    with pytest.raises(OutOfMemory) as failure:
        k.map_vm_area(area, k.page_kernel, frames)
    assert (failure.value.what, failure.value.done) == ("page", 2)
    assert k.init_mm.frames(area.addr, 4).tolist() == [*kept, -1, -1]
    assert (k.flush_log[-1].symbol, k.flush_log[-1].end) == ("flush_cache_vmap", area.addr + 0x4000)


def test_vunmap_of_a_vmalloc_area_loses_its_pages():
    k = boot()
    a = k.vmalloc(0x2000)
    before = k.pages.pages_in_use
    k.vunmap(a)
    assert (k.pages.pages_in_use, k.slab.live_objects, len(k.vmlist)) == (before, 1, 0)


def test_a_bad_entry_is_logged_without_a_line_number():
    k = boot()
    a = k.vmalloc(0x1000)
    entry, _ = k.init_mm.entry(a, 0)
    k.memory.write(entry, (0x123).to_bytes(4, "little"))
    k.vfree(a)
    assert k.dmesg == ["<3>mm/memory.c: bad pgd 00000123.\n"]
