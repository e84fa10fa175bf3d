"""Which pages and protections each allocator asks for, heard through events, on every machine."""

import pytest

from tests.support.listening import Recorder
from vmcore.flags import VM

RAM = 64 << 20
KERNEL, ZERO = 0xD0, 0x8000


@pytest.fixture
def heard():
    return Recorder()


@pytest.fixture
def k(arch, kernel, heard):
    return kernel(arch, ram=RAM, listeners=[heard])


def highest(arch):
    return "HIGHMEM" if "HIGHMEM" in arch.zone_names else "NORMAL"


def mask32(arch):
    """Return GFP_VMALLOC32 and its zone by the #if of mm/vmalloc.c:587, from the record's zones."""
    if arch.word_bits == 64 and "DMA32" in arch.zone_names:
        return KERNEL | 0x4, "DMA32"
    return (KERNEL | 0x1, "DMA") if arch.word_bits == 64 and "DMA" in arch.zone_names else (KERNEL, "NORMAL")


CALLS = {
    "vmalloc": (lambda k, n: k.vmalloc(n), 0xD2, 0),
    "vmalloc_user": (lambda k, n: k.vmalloc_user(n), 0xD2 | ZERO, VM.USERMAP),
    "vmalloc_node": (lambda k, n: k.vmalloc_node(n, 0), 0xD2, 0),
    "vmalloc_exec": (lambda k, n: k.vmalloc_exec(n), 0xD2, 0),
    "vmalloc_32": (lambda k, n: k.vmalloc_32(n), None, 0),
    "vmalloc_32_user": (lambda k, n: k.vmalloc_32_user(n), None, VM.USERMAP),
}


@pytest.mark.parametrize("name", CALLS)
def test_masks_zones_flags_and_protections(k, heard, name):
    call, gfp, flags = CALLS[name]
    zone = highest(k.arch)
    if gfp is None:
        gfp, zone = mask32(k.arch)
        gfp |= ZERO if flags else 0
    addr = call(k, 3 * k.arch.page_size)
    node = 0 if name == "vmalloc_node" else -1
    area = k.find_vm_area(addr)
    assert heard.of("pages_allocated") == [("pages_allocated", node, gfp, zone, area.pages.tolist(), False)]
    assert heard.of("kmalloc") == [
        ("kmalloc", k.arch.sizeof_vm_struct, node, gfp & 0xF5FF0, area.handle),
        ("kmalloc", 3 * k.arch.pointer_bytes, node, gfp & 0xF5FF0 | ZERO, area.pages_handle),
    ]
    assert area.flags == VM.ALLOC | flags
    executable = k.arch.page_kernel if k.arch.page_kernel_exec is None else k.arch.page_kernel_exec
    prot = executable if name == "vmalloc_exec" else k.arch.page_kernel
    assert k.init_mm.lookup(addr) & ~k.arch.levels[-1].frame_mask == prot


@pytest.mark.parametrize("name", ["vmalloc_user", "vmalloc_32_user"])
def test_user_memory_is_zero(k, name):
    page = k.arch.page_size
    dirty = CALLS[name.replace("_user", "")][0](k, 20 * page)
    k.vwrite(dirty, b"\xee" * (20 * page))
    frames = k.find_vm_area(dirty).pages[::-1].tolist()
    k.vfree(dirty)
    addr = CALLS[name][0](k, 20 * page)
    assert k.find_vm_area(addr).pages.tolist() == frames
    assert k.vread(addr, 20 * page) == bytes(20 * page)


def test_vmalloc_leaves_what_was_in_its_pages(k):
    page = k.arch.page_size
    addr = k.vmalloc(2 * page)
    k.vwrite(addr, b"\x11" * page + b"\x22" * page)
    k.vfree(addr)
    addr = k.vmalloc(2 * page)
    assert k.vread(addr, 2 * page) == b"\x22" * page + b"\x11" * page


def test_a_mask_and_a_protection_of_ones_own(k, heard):
    last = k.arch.levels[-1]
    prot = last.present_mask & -last.present_mask
    addr = k.raw_vmalloc(k.arch.page_size, 0x102D0 | ZERO, prot)
    assert heard.of("pages_allocated")[0][2] == 0x102D0 | ZERO
    assert heard.of("kmalloc")[0][3] == 0x102D0
    assert k.init_mm.lookup(addr) & ~last.frame_mask == prot


def test_a_descriptor_with_a_node_and_a_mask(k, heard):
    heard.take()  # tables made at boot
    area = k.get_vm_area_node(k.arch.page_size, VM.ALLOC, 0, 0x80D2)
    assert heard.take() == [
        ("kmalloc", k.arch.sizeof_vm_struct, 0, 0xD0, area.handle),
        ("area_added", area.addr, 2 * k.arch.page_size, VM.ALLOC),
    ]


def test_the_defaults_of_a_record(kernel):
    from tests.support.synthetic import PLAIN  # noqa: PLC0415  # whatever VMCORE_ARCH says

    assert (PLAIN.ioremap_max_order, PLAIN.page_kernel_exec, PLAIN.gfp_vmalloc32) == (19, None, 0xD1)
    heard = Recorder()
    k = kernel(PLAIN, ram=RAM, listeners=[heard])
    k.vmalloc_32(4096)
    area = k.get_vm_area(1 << 22, VM.IOREMAP)
    assert heard.of("pages_allocated")[0][2:4] == (0xD1, "DMA")
    assert (area.addr - k.layout.vmalloc_start, k.protection("PAGE_KERNEL_EXEC")) == (1 << 19, PLAIN.page_kernel)
