"""x86_64: four levels, constant windows.

Sources: include/asm-x86/pgtable_64.h, page_64.h, arch/x86/mm/fault_64.c, arch/x86/kernel/module_64.c,
Documentation/x86_64/mm.txt, of 2.6.24; Intel SDM, volume 3, 4.5.
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import evolve

from vmcore.architecture import (
    Architecture,
    HardwareView,
    KernelImage,
    Layout,
    LayoutRequest,
    Level,
    Symbols,
    Window,
    Zone,
    cut_banks,
)
from vmcore.errors import LayoutError
from vmcore.host import Host, Tables
from vmcore.units import format_size

from ..lowmem import KERNEL_BYTES, banks_at
from . import family as x86

Entry: TypeAlias = tuple[int, int] | None  # physical address and word of an entry; None: a table is absent

PAGE_OFFSET = 0xFFFF810000000000
VMALLOC_START = 0xFFFFC20000000000
VMALLOC_END = 0xFFFFE1FFFFFFFFFF  #: the last byte, but the C file takes it for the end
VMEMMAP = Window(0xFFFFE20000000000, 0xFFFFE30000000000)
MODULES = Window(0xFFFFFFFF88000000, 0xFFFFFFFFFFF00000)
KERNEL_MAP = 0xFFFFFFFF80000000  #: __START_KERNEL_map; modules share its root entry
KERNEL_TEXT_SIZE = 40 << 20  #: the bytes that head_64.S maps there with __PAGE_KERNEL_LARGE_EXEC
PHYSICAL_BITS = 46  #: __PHYSICAL_MASK_SHIFT; the MMU has up to 52


def _table(name: str, shift: int, missing_mask: int, *large: int) -> Level:
    """Return an upper level. On all of them p?d_bad tests all bits except those of the frame and of a table."""
    return Level(
        name=name,
        shift=shift,
        bits=9,
        entry_bytes=8,
        frame=((12, PHYSICAL_BITS - 12, 12),),
        missing_mask=missing_mask,
        bad_mask=0xFFFFC00000000F98,
        table_flags=x86.PAGE_TABLE,
        leaves=tuple(x86.large_page("2 MiB page", size, PHYSICAL_BITS) for size in large),
        flag_names=x86.TABLE_FLAG_NAMES + x86.NX_NAME,
    )


#: pud_alloc and pmd_alloc test for an entry of 0, pte_alloc_kernel tests the PRESENT bit.
LEVELS = (
    _table("pgd", 39, (1 << 64) - 1),
    _table("pud", 30, (1 << 64) - 1),
    _table("pmd", 21, x86.PRESENT, 21),
    Level(
        name="pte",
        shift=12,
        bits=9,
        entry_bytes=8,
        frame=((12, PHYSICAL_BITS - 12, 12),),
        present_mask=x86.PRESENT | x86.PROTNONE,
        flag_names=x86.PTE_FLAG_NAMES + x86.NX_NAME,
    ),
)
LARGE = (
    (),
    (x86.large_page("1 GiB page", 30, 52, x86.ACCESS_NX),),
    (x86.large_page("2 MiB page", 21, 52, x86.ACCESS_NX),),
    (),
)
_AS_THE_MMU = x86.as_the_mmu(LEVELS, 52, x86.ACCESS_NX, *LARGE)
#: PS of a root entry is reserved (Intel SDM, volume 3, table 4-15).
MMU_LEVELS = (evolve(_AS_THE_MMU[0], access=evolve(x86.ACCESS_NX, reserved=0x080)), *_AS_THE_MMU[1:])


def lay_out(request: LayoutRequest) -> Layout:
    """Return the layout of the machine. Of its windows, only high_memory depends on RAM.

    Raises:
        LayoutError: ``vmalloc=`` was given, or RAM does not start at 0 or is too small.
    """
    if request.vmalloc is not None:
        raise LayoutError(
            f"x86_64: vmalloc= is {format_size(request.vmalloc)}, expected none: VMALLOC_START and VMALLOC_END "
            "are constants here (32 TiB); leave vmalloc= out"
        )
    banks, notes = cut_banks(banks_at("x86_64", request, 0), 1 << PHYSICAL_BITS, "MAXMEM is 46 bits")
    return Layout(
        page_offset=PAGE_OFFSET,
        phys_offset=0,
        lowmem_end=banks[-1].end,
        vmalloc_start=VMALLOC_START,
        vmalloc_end=VMALLOC_END,
        swapper_pg_dir=x86.SWAPPER_PG_DIR,
        kernel_end=KERNEL_BYTES,
        first_kernel_pgd=258,
        banks=banks,
        modules=MODULES,
        notes=notes,
        regions=(("direct map", Window(PAGE_OFFSET, PAGE_OFFSET + (1 << 46))), ("vmemmap", VMEMMAP)),
    )


#: arch/x86/kernel/vmcore_info_64.c; init_level4_pgt until 4.12.
IMAGE = KernelImage(
    machine=62,
    roots=("init_top_pgt", "swapper_pg_dir", "init_level4_pgt"),
    bases=(0xFFFFFFFF80000000,),  # __START_KERNEL_map
    base_number="__START_KERNEL_map",
    physical_number="phys_base",
    physical=0,
    linear=False,
    lines={"NUMBER(pgtable_l5_enabled)": ("0", ""), "NUMBER(sme_mask)": ("0", "")},
    cpu=x86.qemu_note(x86.PAE_ON, x86.LA57_OFF),
)


def _same_table(tables: Tables, one: Entry, other: Entry, depth: int) -> bool:
    """Return whether two entries point to one table. It is False if an entry is none or cannot be reached."""
    if one is None or other is None or not one[1]:
        return False
    return tables.address_of(one[1], depth) == tables.address_of(other[1], depth)


def _sync_pgd(kernel: Host, tables: Tables, address: int, function: str) -> bool:
    """Copy init_mm's pgd entry if ``tables`` has none. Return False if init_mm has none either."""
    reference, entry = kernel.init_mm.entry(address, 0), tables.entry(address, 0)
    if reference is None or entry is None or not reference[1]:
        return False
    if not entry[1]:
        tables.copy_entry(entry[0], reference[0], 0)
        return True
    differ = not _same_table(tables, entry, reference, 0)
    kernel.bug_on(differ, "pgd_page_vaddr(*pgd) != pgd_page_vaddr(*pgd_ref)", function)
    return True


def vmalloc_fault(kernel: Host, cpu: int, address: int, error_code: int) -> bool:
    """Copy the pgd entry of an address in the vmalloc window (arch/x86/mm/fault_64.c, vmalloc_fault)."""
    window, init = kernel.layout.vmalloc, kernel.init_mm
    if error_code & 0xD or not window.start <= address < window.end:
        return False
    tables = x86.current_tables(kernel, cpu)
    if not _sync_pgd(kernel, tables, address, "vmalloc_fault"):
        return False
    for depth, condition in enumerate(_SHARED, 1):
        reference = init.entry(address, depth)
        if reference is None or not reference[1]:
            return False
        differ = not _same_table(tables, tables.entry(address, depth), reference, depth)
        kernel.bug_on(differ, condition, "vmalloc_fault")
    return x86.page_present(init, address) and _same_page(kernel, tables, address)


#: Below the pgd everything is shared; BUG() if not.
_SHARED = (
    "pud_none(*pud) || pud_page_vaddr(*pud) != pud_page_vaddr(*pud_ref)",
    "pmd_none(*pmd) || pmd_page(*pmd) != pmd_page(*pmd_ref)",
)


def _same_page(kernel: Host, tables: Tables, address: int) -> bool:
    same = _same_table(tables, tables.entry(address, 3), kernel.init_mm.entry(address, 3), 3)
    differ = not same or not x86.page_present(tables, address)
    kernel.bug_on(differ, "!pte_present(*pte) || pte_pfn(*pte) != pte_pfn(*pte_ref)", "vmalloc_fault")
    return True


def vmalloc_sync_all(kernel: Host) -> None:
    """Copy init_mm's pgd entries for the vmalloc window to every process (arch/x86/mm/fault_64.c).

    The window of modules needs no copies, because it shares the pgd entry of the kernel text.
    """
    root = kernel.arch.levels[0]
    statics, window = kernel.statics, kernel.layout.vmalloc
    insync = statics.setdefault("vmalloc_sync_all.insync", set())
    first = statics.setdefault("vmalloc_sync_all.start", window.start & -(1 << root.shift))
    for address in range(first, window.end + 1, 1 << root.shift):
        index = address >> root.shift & root.entries - 1
        if index not in insync:
            reference = kernel.init_mm.entry(address, 0)
            if reference is None or not reference[1]:
                continue
            with kernel.pgd_lock:
                for mm in kernel.pgd_list:
                    _sync_pgd(kernel, mm.tables, address, "vmalloc_sync_all")
            insync.add(index)
        if address == statics["vmalloc_sync_all.start"]:
            statics["vmalloc_sync_all.start"] = address + (1 << root.shift)


X86_64 = Architecture(
    name="x86_64",
    aliases=("amd64", "x64", "intel64", "em64t"),
    description="64-bit x86 with NX, four levels",
    word_bits=64,
    page_shift=12,
    levels=LEVELS,
    page_kernel=x86.NX | 0x163,
    page_kernel_exec=0x163,
    protections={
        "PAGE_KERNEL_NOCACHE": x86.NX | 0x173,
        "PAGE_KERNEL_RO": x86.NX | 0x161,
        "PAGE_KERNEL_LARGE": x86.NX | 0x1E3,
        "__PAGE_KERNEL_LARGE_EXEC": 0x0E3,
        "PAGE_KERNEL_VSYSCALL": 0x125,
        "PAGE_KERNEL_VSYSCALL_NOCACHE": 0x135,
        "pgprot_noncached(PAGE_KERNEL)": x86.NX | 0x17B,
        "IOREMAP": 0x163,
        "IOREMAP_NOCACHE": 0x173,
    },
    zones=(Zone("DMA", 16 << 20), Zone("DMA32", 4 << 30), "NORMAL"),
    layout=lay_out,
    hardware=HardwareView(
        levels=MMU_LEVELS,
        canonical_bits=48,
    ),
    linear_map=evolve(x86.LINEAR_2M, image=(KERNEL_MAP, KERNEL_TEXT_SIZE, 0x0E3)),
    image=IMAGE,
    symbols=Symbols(
        flush_tlb_kernel_range=x86.flush_tlb_kernel_range,
        vmalloc_sync_all=vmalloc_sync_all,
        vmalloc_fault=vmalloc_fault,
    ),
)
