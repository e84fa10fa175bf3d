"""The common parts of x86 machines: entry bits, protections, the 32-bit address map and the strong symbols.

Sources: include/asm-x86/pgtable_32.h, pgtable_64.h, page_32.h, fixmap_32.h, highmem.h, tlbflush_32.h,
arch/x86/kernel/setup_32.c, arch/x86/mm/fault_32.c, fault_64.c, init_32.c, all of 2.6.24.
"""

from __future__ import annotations

from attrs import evolve, frozen

from vmcore.architecture import (
    Access,
    CpuNote,
    KernelImage,
    Layout,
    LayoutRequest,
    Leaf,
    Level,
    LinearMap,
    Symbols,
    Window,
    cut_banks,
)
from vmcore.errors import LayoutError
from vmcore.host import Host, Tables
from vmcore.units import format_size

from ..lowmem import KERNEL_BYTES, banks_at, without_holes

PRESENT = 0x001
NX = 1 << 63
PAGE_TABLE = 0x067  #: _PAGE_TABLE: P, RW, USER, A, D
PROTNONE = 0x080  #: a bit of a page-table entry that is not PRESENT; pte_present tests for either bit

TABLE_FLAG_NAMES = (
    ("PRESENT", 0x001), ("RW", 0x002), ("USER", 0x004), ("PWT", 0x008), ("PCD", 0x010), ("ACCESSED", 0x020),
    ("DIRTY", 0x040), ("PSE", 0x080), ("GLOBAL", 0x100),
)  # fmt: skip
PTE_FLAG_NAMES = tuple(("PAT" if name == "PSE" else name, mask) for name, mask in TABLE_FLAG_NAMES)
NX_NAME = (("NX", NX),)

#: Protections of a machine with CR4.PGE whose page-table entries have no NX bit.
PROTECTIONS = {
    "PAGE_KERNEL_NOCACHE": 0x173,
    "PAGE_KERNEL_RO": 0x161,
    "PAGE_KERNEL_RX": 0x161,
    "PAGE_KERNEL_LARGE": 0x1E3,
    "PAGE_KERNEL_LARGE_EXEC": 0x1E3,
    "pgprot_noncached(PAGE_KERNEL)": 0x17B,
    "IOREMAP": 0x063,
    "IOREMAP_NOCACHE": 0x073,
}


def with_nx(protections: dict[str, int], *executable: str) -> dict[str, int]:
    """Return the protections with the NX bit added, except to those named in ``executable``."""
    return {name: value if name in executable else value | NX for name, value in protections.items()}


RW, GLOBAL, ACCESSED, DIRTY = 0x002, 0x100, 0x020, 0x040

#: The rights of supervisor accesses with CR0.WP set, and with EFER.NXE set where entries have NX (Intel SDM,
#: volume 3, 4.6 and 4.8).
ACCESS_32 = Access(write=((RW, RW),), shared=((GLOBAL, GLOBAL),), accessed=ACCESSED, dirty=DIRTY)
ACCESS_NX = evolve(ACCESS_32, execute=((NX, 0),))
#: Without long mode the bits between the frame and NX are reserved (Intel SDM, volume 3, tables 4-9 to 4-11).
ACCESS_PAE = evolve(ACCESS_NX, reserved=NX - (1 << 52))

#: kernel_physical_mapping_init (init_32.c), phys_pmd_init (init_64.c)
LINEAR_2M = LinearMap(leaf="2 MiB page", flags=NX | 0x1E3, kernel_flags=0x1E3)
LINEAR_4M = LinearMap(leaf="4 MiB page", flags=0x1E3)


def large_page(name: str, shift: int, width: int, access: Access | None = None) -> Leaf:
    """Return the leaf for a PSE page of ``1 << shift`` bytes with ``width`` physical address bits.

    With ``access`` it is the leaf as the MMU sees it, and the bits between the frame and PAT are reserved.
    """
    if access is not None:
        access = evolve(access, reserved=access.reserved | (1 << shift) - (1 << 13))
    return Leaf(name, PRESENT | 0x080, PRESENT | 0x080, shift, ((shift, width - shift, shift),), access)


def as_the_mmu(
    levels: tuple[Level, ...], width: int, access: Access, *leaves: tuple[Leaf, ...]
) -> tuple[Level, ...]:
    """Return Linux' levels as the MMU sees them: P is bit 0, no entry is bad, and frames end at bit ``width``.

    Args:
        levels: Linux' levels, root first.
        width: number of physical address bits.
        access: the rights of every level's entries.
        leaves: the leaves of each level.
    """
    return tuple(
        evolve(
            level,
            present_mask=PRESENT,
            bad_mask=0,
            good_value=0,
            frame=((12, width - 12, 12),),
            leaves=found,
            access=access,
        )
        for level, found in zip(levels, leaves, strict=True)
    )


# ---- dumps of x86 machines

_CR3, _CR4 = 416, 424  #: in QEMUCPUState (QEMU, target/i386/arch_dump.c)
PAE_ON = (_CR4, 0x20, 0x20, "CR4.PAE is 0: two levels")
PAE_OFF = (_CR4, 0x20, 0x00, "CR4.PAE is 1: three or more levels")
LA57_OFF = (_CR4, 0x1000, 0x0000, "CR4.LA57 is 1: five levels")


def qemu_note(*checks: tuple[int, int, int, str]) -> CpuNote:
    """Describe the note of QEMU's dump-guest-memory: the place of CR3, and the conditions on CR4."""
    return CpuNote(name="QEMU", size=432, root_at=_CR3, root_mask=(1 << 52) - 1, checks=checks)


def image_32(pae: bool) -> KernelImage:
    """Describe the VMCOREINFO of 32-bit kernels (arch/x86/kernel/vmcore_info_32.c). Bases: CONFIG_VMSPLIT."""
    return KernelImage(
        machine=3,
        root_align=32 if pae else 4096,
        bases=(0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000),
        physical=0,
        lines={"CONFIG_X86_PAE": ("y",) if pae else ("",)},
        cpu=qemu_note(PAE_ON if pae else PAE_OFF),
    )


# ---- the address map of the 32-bit kernels

PAGE_OFFSET = 0xC0000000
VMALLOC_RESERVE = 128 << 20  #: __VMALLOC_RESERVE, the default of ``vmalloc=``
VMALLOC_OFFSET = 8 << 20
FIXADDR_TOP = 0xFFFFF000
KM_TYPE_NR = 13
PARAVIRT = "paravirt"
#: Processes of a PAE kernel share the kernel's pmd table, unless a hypervisor says otherwise (SHARED_KERNEL_PMD).
PAE_PLATFORMS = ("native", PARAVIRT)
SWAPPER_PG_DIR = 0x00300000


def permanent_slots(highmem: bool, nr_cpus: int = 1) -> int:
    """Count the permanent fixmap slots of the reference configuration (include/asm-x86/fixmap_32.h).

    It has local and I/O APIC, ACPI and PCI_MMCONFIG. It does not have F00F, CYCLONE, VISWS or PARAVIRT.
    """
    always, local_apic, io_apics, acpi, mmconfig = 4, 1, 64, 4, 1
    return always + local_apic + io_apics + acpi + mmconfig + (KM_TYPE_NR * nr_cpus if highmem else 0)


def top_windows(highmem: bool, pae: bool, nr_cpus: int = 1) -> dict[str, Window]:
    """Return the windows above the vmalloc area: "fixmap", "boot fixmap" and, with highmem, "pkmap"."""
    start = FIXADDR_TOP - 0x1000 * permanent_slots(highmem, nr_cpus)
    boot_start = start - 0x1000 * 17  # FIX_BTMAP: 16 slots, and FIX_WP_TEST
    windows = {"fixmap": Window(start, FIXADDR_TOP), "boot fixmap": Window(boot_start, start)}
    if highmem:
        slots, pmd_shift = (512, 21) if pae else (1024, 22)  # LAST_PKMAP is one full page table
        base = boot_start - 0x1000 * (slots + 1) >> pmd_shift << pmd_shift
        windows["pkmap"] = Window(base, base + 0x1000 * slots)
    return windows


@frozen(kw_only=True)
class Layout32:
    """The address map of a 32-bit kernel (setup_32.c, pgtable_32.h), as a layout function.

    Attributes:
        name: the architecture, for messages.
        highmem: CONFIG_HIGHMEM: frames above lowmem are used.
        pae: True: three levels and frames up to 64 GiB; False: two levels and frames up to 4 GiB.
    """

    name: str
    highmem: bool
    pae: bool

    def __call__(self, request: LayoutRequest) -> Layout:
        """Return the layout of the machine, see `vmcore.architecture.Layout`.

        Raises:
            LayoutError: ``vmalloc=`` leaves no lowmem, or RAM does not start at 0, is too small or has a hole.
        """
        maxmem = self._maxmem(request.vmalloc)
        banks, notes = cut_banks(banks_at(self.name, request, 0), *self._limit(maxmem))
        lowmem_end = min(banks[-1].end, maxmem)
        without_holes(self.name, banks, lowmem_end)
        windows = top_windows(self.highmem, self.pae)
        high_memory = PAGE_OFFSET + lowmem_end
        return Layout(
            page_offset=PAGE_OFFSET,
            phys_offset=0,
            lowmem_end=lowmem_end,
            vmalloc_start=high_memory + 2 * VMALLOC_OFFSET - 1 & ~(VMALLOC_OFFSET - 1),
            vmalloc_end=windows["pkmap" if self.highmem else "fixmap"].start - 0x2000,
            swapper_pg_dir=SWAPPER_PG_DIR,
            kernel_end=KERNEL_BYTES,
            first_kernel_pgd=PAGE_OFFSET >> (30 if self.pae else 22),
            banks=banks,
            notes=notes,
            regions=(("lowmem", Window(PAGE_OFFSET, high_memory)), *windows.items()),
            shared_kernel_tables=request.platform != PARAVIRT,
        )

    def _maxmem(self, vmalloc: int | None) -> int:
        """Return MAXMEM_PFN in bytes: the lowmem that fits below the reserve."""
        reserve = VMALLOC_RESERVE if vmalloc is None else vmalloc
        maxmem = (1 << 32) - PAGE_OFFSET - reserve
        if maxmem <= KERNEL_BYTES:
            most = (1 << 32) - PAGE_OFFSET - KERNEL_BYTES
            raise LayoutError(
                f"{self.name}: vmalloc= is {reserve:#x} ({format_size(reserve)}), expected less than {most:#x} "
                f"({format_size(most)}): kernel space is 1 GiB and lowmem must hold the kernel"
            )
        return maxmem & ~0xFFF

    def _limit(self, maxmem: int) -> tuple[int, str]:
        if not self.highmem:
            return maxmem, "use a HIGHMEM enabled kernel"
        return (1 << 36, "PAE ends there") if self.pae else (1 << 32, "use a PAE enabled kernel")


# ---- symbols


def flush_tlb_kernel_range(kernel: Host, cpu: int, start: int, end: int) -> None:
    """Flush the whole TLB of every CPU. The range is ignored (tlbflush_32.h, tlbflush_64.h)."""
    kernel.flush_tlb_all(cpu)


def current_tables(kernel: Host, cpu: int) -> Tables:
    """Return the tables that a CPU runs on: those of its process, or init_mm's if it runs no process."""
    mm = kernel.current_mm(cpu)
    return kernel.init_mm if mm is None else mm.tables


def page_present(tables: Tables, address: int) -> bool:
    """Return pte_present of the entry for an address. It is False if a table is absent."""
    found = tables.entry(address, len(tables.levels) - 1)
    return found is not None and bool(found[1] & tables.levels[-1].present_mask)


def vmalloc_sync_one(kernel: Host, tables: Tables, address: int) -> bool:
    """Copy init_mm's pmd entry for an address to ``tables`` (arch/x86/mm/fault_32.c, vmalloc_sync_one).

    The pmd is the level above the last. Without PAE the pmd is folded, so this is the pgd.

    Returns:
        False if init_mm has no such entry. The C function returns NULL then.
    """
    depth = len(kernel.arch.levels) - 2
    reference, entry = (t.entry(address, depth) for t in (kernel.init_mm, tables))
    if reference is None or entry is None or not reference[1] & PRESENT:
        return False
    if not entry[1] & PRESENT:
        tables.copy_entry(entry[0], reference[0], depth)
        return True
    differ = tables.address_of(entry[1], depth) != tables.address_of(reference[1], depth)
    kernel.bug_on(differ, "pmd_page(*pmd) != pmd_page(*pmd_k)", "vmalloc_sync_one")
    return True


def vmalloc_fault_32(kernel: Host, cpu: int, address: int, error_code: int) -> bool:
    """Copy the pmd entry for any kernel address (arch/x86/mm/fault_32.c, do_page_fault, vmalloc_fault).

    The entry is copied even if the page is absent. No lock is taken.
    """
    if address < kernel.layout.page_offset or error_code & 0xD:
        return False
    return vmalloc_sync_one(kernel, current_tables(kernel, cpu), address) and page_present(kernel.init_mm, address)


def vmalloc_sync_all_32(kernel: Host) -> None:
    """Copy init_mm's pmd entries to every process (arch/x86/mm/fault_32.c), !SHARED_KERNEL_PMD.

    The function steps by PGDIR_SIZE from TASK_SIZE to the top, and copies one entry per root entry. Without PAE
    these are all entries. An unshared PAE kernel copies only the first entry of the kernel's gigabyte.
    """
    shift, task_size = kernel.arch.levels[0].shift, kernel.layout.page_offset
    statics = kernel.statics
    insync = statics.setdefault("vmalloc_sync_all.insync", set())
    address = statics.setdefault("vmalloc_sync_all.start", task_size)
    while address >= task_size:
        index = address >> shift
        if index not in insync and _sync_list(kernel, address):
            insync.add(index)
        following = address + (1 << shift) & kernel.arch.word_mask
        if address == statics["vmalloc_sync_all.start"] and index in insync:
            statics["vmalloc_sync_all.start"] = following
        address = following


def _sync_list(kernel: Host, address: int) -> bool:
    """Walk pgd_list for one address. Return True if the walk reaches its end, also if the list is empty."""
    with kernel.pgd_lock:
        for position, mm in enumerate(kernel.pgd_list):
            if not vmalloc_sync_one(kernel, mm.tables, address):
                kernel.bug_on(position != 0, "page != pgd_list", "vmalloc_sync_all")
                return False
    return True


#: The symbols of i386 without PAE. With PAE, vmalloc_sync_all differs. No cache flush does anything, because
#: caches are coherent.
SYMBOLS_32 = Symbols(
    flush_tlb_kernel_range=flush_tlb_kernel_range,
    vmalloc_sync_all=vmalloc_sync_all_32,
    vmalloc_fault=vmalloc_fault_32,
)
