"""Booting and looking: selections, layouts, ioremap, explain(), vmallocinfo, check()."""

import re

import pytest

from vmcore.errors import (
    ArgumentError,
    BrokenInvariant,
    ConfigurationError,
    LayoutError,
    UnitError,
    UnknownArchitecture,
)
from vmcore.flags import NO_FRAME, VM
from vmcore.hookspecs import hookimpl
from vmcore.kernel import Kernel
from vmcore.linking.registry import load

MIB = 1 << 20
RAM = 64 * MIB


def test_a_plugin_that_fails_at_link_time_leaves_a_line_in_the_log():
    class Evil:
        vmcore_api = (1, 0)

        @hookimpl(wrapper=True)
        def vmcore_vmalloc_sync_all(self, arch):
            yield

    registry = load()
    registry.add(Evil(), "evil")
    for _ in range(2):
        k = Kernel("i386", ram=RAM, registry=registry)
        assert k.dmesg == [
            "<4>vmcore: plugin 'evil' left out: its vmalloc_sync_all for 'i386' is None, "
            "expected a callable vmalloc_sync_all(kernel)\n"
        ]
        k.vfree(k.vmalloc(1))
    assert list(registry.broken) == ["evil"]


def tables_above_lowmem(arch):
    """Return the levels, by name, whose tables the linear map needs."""
    if arch.linear_map is None:
        return set()
    levels = arch.hardware_levels
    depth = next(
        n for n, level in enumerate(levels) if arch.linear_map.leaf in {leaf.name for leaf in level.leaves}
    )
    return {level.name for level in levels[1 : depth + 1]}


def test_a_fresh_kernel(arch, kernel):
    k = kernel(arch)
    assert sum(bank.size for bank in k.layout.banks) <= arch.default_ram
    assert (len(k.vmlist), k.slab.live_objects, k.dead, len(k.cpus), k.warnings) == (0, 0, None, 1, [])
    assert k.pages.pages_in_use == sum(k.init_mm.tables.values())
    assert len(k.init_mm.entries()[0]) == 0
    assert k.init_mm.root == k.layout.swapper_pg_dir
    assert k.dmesg == list(k.layout.notes)
    made = {level.name: k.init_mm.tables[level.name] for level in arch.levels[1:]}
    prebuilt = {below.name for level, below in zip(arch.levels, arch.levels[1:], strict=False) if level.prebuilt}
    assert {name for name, count in made.items() if count} == prebuilt | tables_above_lowmem(arch)
    k.check()


def test_nodes(arch, kernel):
    k = kernel(arch, ram=RAM, nodes=2)
    addr = k.vmalloc_node(arch.page_size, 1)
    assert k.vmalloc_to_pfn(addr) in range(k.layout.banks[-1].end - RAM // 2 >> arch.page_shift, 1 << 40)
    with pytest.raises(ConfigurationError, match="node 2: this machine has nodes 0 to 1"):
        k.vmalloc_node(arch.page_size, 2)


def test_too_little_ram(arch, kernel):
    with pytest.raises(LayoutError, match=f"{arch.name}"):
        kernel(arch, ram=MIB)


@pytest.mark.parametrize("vmalloc", ["4G", "1020M"])
def test_a_vmalloc_that_is_too_large(arch, kernel, vmalloc):
    with pytest.raises(LayoutError, match=f"{arch.name}: .*vmalloc="):
        kernel(arch, ram=RAM, vmalloc=vmalloc)


def test_too_many_cpus(arch, kernel):
    most = arch.max_cpus
    assert [cpu.number for cpu in kernel(arch, ram=RAM, cpus=most).cpus] == list(range(most))
    with pytest.raises(ConfigurationError, match=f"{arch.name}: cpus is {most + 1}, expected 1 to {most}"):
        kernel(arch, ram=RAM, cpus=most + 1)


def test_an_unknown_platform(arch, kernel):
    with pytest.raises(LayoutError, match=f"{arch.name}: unknown platform 'toaster': "):
        kernel(arch, ram=RAM, platform="toaster")
    for platform in arch.platforms[:3]:
        assert kernel(arch, platform=platform).layout.vmalloc.size > 0


@pytest.mark.parametrize(
    ("selection", "error"),
    [({"ram": -1}, "ram"), ({"ram": "lots"}, "ram"), ({"ram": "1G-0"}, "ram"), ({"ram": True}, "ram"),
     ({"vmalloc": -5}, "vmalloc"), ({"vmalloc": "12Q"}, "vmalloc"), ({"cpus": 0}, "cpus"),
     ({"cpus": "two"}, "cpus"),
     ({"nodes": 0}, "nodes"), ({"nodes": -1}, "nodes")],
)  # fmt: skip
def test_sizes_and_numbers_that_are_none(kernel, selection, error):
    with pytest.raises((ConfigurationError, UnitError), match=error):
        kernel("x86_64", **selection)


def test_an_unknown_architecture(kernel):
    with pytest.raises(UnknownArchitecture, match="unknown architecture 'i486': did you mean 'i386'"):
        kernel("i486")


def test_the_registry_of_its_own_without_the_one_that_is_loaded():
    k = Kernel("x86_64", ram=RAM)
    assert k.registry.get("x86_64") is k.arch
    with pytest.raises(ConfigurationError, match="cannot block plugin 'nobody'"):
        Kernel("x86_64", ram=RAM, block=["nobody"])


def test_more_cpus_may_add_a_bit_to_protections(arch, kernel):
    for cpus in (1, min(2, arch.max_cpus)):
        k = kernel(arch, ram=RAM, cpus=cpus)
        extra = arch.smp_flags if cpus > 1 else 0
        assert (k.page_kernel, k.protection("PAGE_KERNEL")) == (arch.page_kernel | extra, arch.page_kernel | extra)
        assert k.init_mm.lookup(k.vmalloc(1)) & ~arch.levels[-1].frame_mask == arch.page_kernel | extra


# ---- ioremap


def test_ioremap(arch, kernel):
    k, page = kernel(arch, ram=RAM), arch.page_size
    used = k.pages.pages_in_use - sum(k.init_mm.tables.values())
    addr = k.ioremap(0x10000000 + 0x123, page)
    area = k.find_vm_area(addr & -page)
    assert addr == area.addr + 0x123
    assert (area.flags, area.size, area.phys_addr) == (VM.IOREMAP, 3 * page, 0x10000000)
    first = 0x10000000 >> arch.page_shift
    assert k.init_mm.frames(area.addr, 3).tolist() == [first, first + 1, NO_FRAME]
    prot = dict(arch.protections).get("IOREMAP", arch.page_kernel) & arch.supported_pte_mask
    assert k.init_mm.lookup(area.addr) & ~arch.levels[-1].frame_mask == prot
    assert k.pages.pages_in_use - sum(k.init_mm.tables.values()) == used
    k.check()
    k.iounmap(addr)
    assert (len(k.vmlist), k.slab.live_objects, len(k.init_mm.entries()[0])) == (0, 0, 0)


def test_ioremap_with_a_protection_and_without_a_table(arch, kernel):
    k = kernel(arch, ram=RAM)
    prot = arch.levels[-1].present_mask & -arch.levels[-1].present_mask
    addr = k.ioremap(0x10000000, 1, prot)
    assert k.init_mm.lookup(addr) & ~arch.levels[-1].frame_mask == prot
    k.iounmap(addr)
    k = kernel(arch, ram=RAM)
    k.fail("pgtable", 1)
    with pytest.raises(MemoryError):
        k.ioremap(0x10000000, 1)
    assert (len(k.vmlist), k.slab.live_objects) == (0, 0)


def test_iounmap_of_nothing(arch, kernel):
    k = kernel(arch, ram=RAM)
    k.iounmap(k.layout.vmalloc_start + 5)
    digits = arch.word_bits // 4
    assert k.dmesg == [f"<3>iounmap: bad address {k.layout.vmalloc_start + 5:0{digits}x}\n"]
    assert k.warnings == []


# ---- for people


def test_explain_on_two_levels(kernel):
    k = kernel("i386-highmem", ram="1G")
    addr = k.vmalloc(0x1000)
    assert addr == 0xF8800000
    table, frame = k.init_mm.entry(addr, 0)[1] & ~0xFFF, k.vmalloc_to_pfn(addr)
    assert k.explain(addr + 5) == (
        "0xf8800005 on i386-highmem, root 0x300000\n"
        f"  pgd[994] at 0x300f88: {table | 0x67:08x}  table {table:#x} PRESENT|RW|USER|ACCESSED|DIRTY\n"
        f"  pte[0] at {table:#x}: {frame << 12 | 0x163:08x}  frame {frame:#x} "
        "PRESENT|RW|ACCESSED|DIRTY|GLOBAL\n"
        f"  physical address {frame << 12 | 5:#x}"
    )
    assert k.explain(addr + 0x1000) == (
        "0xf8801000 on i386-highmem, root 0x300000\n"
        f"  pgd[994] at 0x300f88: {table | 0x67:08x}  table {table:#x} PRESENT|RW|USER|ACCESSED|DIRTY\n"
        f"  pte[1] at {table + 4:#x}: 00000000  none\n"
        "  not mapped: pte entry is none"
    )
    assert k.explain(0xF9000000) == (
        "0xf9000000 on i386-highmem, root 0x300000\n"
        "  pgd[996] at 0x300f90: 00000000  none\n"
        "  not mapped: pgd entry is none"
    )
    k.init_mm.set_entry(0x300F90, 0, 0x004001E3)
    assert k.explain(0xF9000000).endswith("GLOBAL\n  not mapped: pgd entry is bad")
    k.memory.store(table + 4, 0x200160, 4)
    assert k.explain(addr + 0x1000).endswith("\n  not mapped: not present")


def test_explain_shows_the_hardware_word(kernel):
    k = kernel("armv5", ram="128M")
    addr = k.vmalloc(0x1000)
    table, frame = k.init_mm.entry(addr, 0)[1] & ~0xFFF, k.vmalloc_to_pfn(addr)
    lines = k.explain(addr).split("\n")
    assert lines[0] == "0xc8800000 on armv5, root 0x4000"
    assert lines[-2].startswith(f"  hardware second at {table:#x}: {frame << 12 | 0x55E:08x}  ")
    assert lines[-1] == f"  physical address {frame << 12:#x}"


def test_explain_reaches_the_frame_on_every_machine(arch, kernel):
    k = kernel(arch, ram=RAM)
    addr = k.vmalloc(arch.page_size)
    lines = k.explain(addr + 7).split("\n")
    assert lines[0] == f"{addr + 7:#x} on {arch.name}, root {k.init_mm.root:#x}"
    assert [line.split("[")[0] for line in lines[1 : 1 + len(arch.levels)]] == [
        f"  {lv.name}" for lv in arch.levels
    ]
    assert lines[-1] == f"  physical address {(k.vmalloc_to_pfn(addr) << arch.page_shift) + 7:#x}"


def test_vmallocinfo(kernel):
    k = kernel("i386-highmem", ram="1G")
    assert k.vmallocinfo() == ""
    k.vmalloc(0x3000)
    k.vmalloc_user(1)
    k.ioremap(0xFEE00000, 0x1000)
    k.get_vm_area(0x1000, VM.MAP)
    assert k.vmallocinfo() == (
        "0xf8800000-0xf8804000   16384 pages=3 vmalloc\n"
        "0xf8804000-0xf8806000    8192 pages=1 vmalloc user\n"
        "0xf8806000-0xf8808000    8192 phys=0xfee00000 ioremap\n"
        "0xf8808000-0xf880a000    8192 vmap\n"
    )
    assert kernel("x86_64", ram=RAM).vmallocinfo() == ""
    k = kernel("x86_64", ram=RAM)
    k.vmalloc(1025 * 4096)
    first, second = k.vmallocinfo().splitlines()
    assert first == "0xffffc20000000000-0xffffc20000402000 4202496 pages=1025 vmalloc vpages"
    assert second == "0xffffc20000402000-0xffffc20000406000   16384 pages=3 vmalloc"


# ---- check() finds what it promises to find


def damaged(k, kind):
    page = k.arch.page_size
    addr, other = k.vmalloc(3 * page), k.vmalloc(2 * page)
    area, second = k.find_vm_area(addr), k.find_vm_area(other)
    k.check()
    last = len(k.arch.levels) - 1
    at, word = k.init_mm.entry(addr, last)
    if kind == "entry of the guard page":
        k.memory.store(at + 3 * k.arch.levels[-1].entry_bytes, word, k.arch.levels[-1].word_bytes)
        return "is in no area"
    if kind == "another frame":
        k.memory.store(at, k.init_mm.entry(other, last)[1], k.arch.levels[-1].word_bytes)
        return "maps to another frame than its area's page array says"
    if kind == "a page of two areas":
        second.pages[0] = area.pages[0]
        k.unmap_kernel_range(other, page)
        return "a page frame belongs to two areas"
    if kind == "a free page":
        k.pages.free(area.pages[1:2])
        return "an area holds a page frame that is free"
    if kind == "a dead object":
        k.slab.free(area.handle)
        return "do not live"
    if kind == "an object of two areas":
        second.handle = area.handle
        return "or to two"
    if kind == "the list":
        area.size += page
        return "ends are not those of the areas"
    if kind == "the allocator":
        k.pages.pages_in_use += 1
        return "pages counted in use"
    if kind == "vmlist_lock":
        k.vmlist_lock.__enter__()
        return "vmlist_lock is held"
    k.init_mm.lock.acquire()
    return "page_table_lock is held"


@pytest.mark.parametrize(
    "kind",
    ["entry of the guard page", "another frame", "a page of two areas", "a free page", "a dead object",
     "an object of two areas", "the list", "the allocator", "vmlist_lock", "page_table_lock"],
)  # fmt: skip
def test_check_finds(arch, kernel, kind):
    k = kernel(arch, ram=RAM)
    text = damaged(k, kind)
    with pytest.raises(AssertionError, match=text):
        k.check()
    assert issubclass(BrokenInvariant, AssertionError)


def test_an_entry_where_no_area_is(arch, kernel):
    k = kernel(arch, ram=RAM)
    addr = k.vmalloc(arch.page_size)
    at, word = k.init_mm.entry(addr, len(arch.levels) - 1)
    k.vfree(addr)
    k.memory.store(at, word, arch.levels[-1].word_bytes)
    with pytest.raises(BrokenInvariant, match=f"page-table entry {word:#x} at {addr:#x} is in no area"):
        k.check()


@pytest.mark.parametrize("arch", ["i386", "i386-pae", "armv7", "x86_64"])
def test_no_number_of_vmallocinfo_is_wider_than_the_word(kernel, arch):
    k = kernel(arch, ram=RAM)
    top, page = k.arch.word_mask + 1, k.arch.page_size
    area = k.raw_get_vm_area(page, VM.IOREMAP, top - page, top - 1)
    area.addr, area.size, area.phys_addr = top - page, page, (1 << 64) - page  # the port itself ends below
    digits = k.arch.word_bits // 4
    for number in re.findall(r"(?:0x|\b)([0-9a-f]+)", k.vmallocinfo()):
        assert len(number) <= digits
    assert k.vmallocinfo().startswith(f"0x{top - page:x}-0x{0:0{digits}x} ")


def test_vread_over_a_gap_that_no_caller_has_room_for(kernel):
    k = kernel("x86_64", ram=RAM)
    low = k.vmalloc(4096)
    high = k.raw_get_vm_area(4096, VM.IOREMAP, low + (1 << 44), k.layout.vmalloc_end).addr
    with pytest.raises(
        ArgumentError, match=r"vread: found 0x100000000000 bytes to read from .* at most 0x40000000"
    ):
        k.vread(low, high - low)
    with pytest.raises(ArgumentError, match="read area by area"):
        k.vread(low, k.arch.word_mask)
    assert len(k.vread(low, 1 << 20)) == 1 << 20
