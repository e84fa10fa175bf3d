"""64-bit RISC-V with Sv39: three levels of 512 entries, page numbers stored from bit 10 up.

The view is that of Linux 6.16 (arch/riscv): every root entry of the kernel has its table since boot
(preallocate_pgd_pages_range, mm/init.c), so no fault ever has to copy one. The encoding is that of the
RISC-V privileged architecture, "Sv39: Page-Based 39-bit Virtual-Memory System".
"""

from __future__ import annotations

from attrs import evolve

from vmcore import Architecture, HardwareView, Layout, LayoutError, LayoutRequest, hookimpl
from vmcore.architecture import Access, KernelImage, Leaf, Level, LinearMap, Symbols, Window, Zone, cut_banks
from vmcore.host import Host
from vmcore.units import format_size

vmcore_api = (1, 2)

PFN = (10, 44, 12)  # (entry bit, width, address bit): _PAGE_PFN_SHIFT, asm/pgtable-bits.h
FLAGS = {name: 1 << bit for bit, name in enumerate([*"VRWXUGAD", "SPECIAL"])}
FLAGS |= {"NC": 1 << 61, "IO": 1 << 62, "N": 1 << 63}  # Svpbmt and Svnapot


#: What an entry of a page allows in supervisor mode; an entry of a table has no say.
ACCESS = Access(read=[(0x2, 0x2)], write=[(0x4, 0x4)], execute=[(0x8, 0x8)], shared=[(0x20, 0x20)],
                accessed=0x40, dirty=0x80)  # fmt: skip


def leaves(shift: int) -> list[Leaf]:
    """Return the large pages of a level: V with any of R, W, X, the page number without its low bits."""
    frame = [(PFN[0] + shift - 12, PFN[1] - shift + 12, shift)]
    name = f"{format_size(1 << shift)} page"
    return [Leaf(f"{name} ({x})", 1 | FLAGS[x], 1 | FLAGS[x], shift, frame, ACCESS) for x in "RWX"]


WORD = (1 << 64) - 1
PGD = Level(name="pgd", shift=30, bits=9, entry_bytes=8, frame=[PFN], none_mask=WORD, table_flags=0x1,
            bad_mask=0x1, good_value=0x1, leaves=leaves(30), prebuilt=True, flag_names=FLAGS)  # fmt: skip
PMD = evolve(PGD, name="pmd", error_name="pmd", shift=21, bad_mask=0xF, leaves=leaves(21), prebuilt=False)
# pte_present() counts _PAGE_PROT_NONE, which is G without V; the MMU does not.
PTE = Level(name="pte", shift=12, bits=9, entry_bytes=8, frame=[PFN], none_mask=WORD, present_mask=0x21,
            flag_names=FLAGS)  # fmt: skip

PAGE_OFFSET = 0xFFFF_FFD6_0000_0000
VMALLOC = Window(PAGE_OFFSET - (64 << 30), PAGE_OFFSET)  # VMALLOC_SIZE, asm/pgtable.h


def layout(request: LayoutRequest) -> Layout:
    """Lay out Sv39 (Documentation/arch/riscv/vm-layout.rst).

    The place and the size of the kernel are those of Debian's 6.12.
    """
    if request.vmalloc is not None:
        raise LayoutError(f"riscv64: found vmalloc={format_size(request.vmalloc)}, expected none: this kernel has "
                          f"no vmalloc=, its window is always {VMALLOC.start:#x}..{VMALLOC.end:#x}")  # fmt: skip
    banks = request.banks(0x8000_0000)
    start = banks[0].start & -(1 << 21)  # phys_ram_base: start of RAM, rounded down to PMD_SIZE
    banks, notes = cut_banks(banks, start + (128 << 30), "the linear map ends there")  # KERN_VIRT_SIZE
    return Layout(
        page_offset=PAGE_OFFSET, phys_offset=start, lowmem_end=banks[-1].end,
        vmalloc_start=VMALLOC.start, vmalloc_end=VMALLOC.end,
        modules=Window(0xFFFF_FFFF_01E6_B000, 0xFFFF_FFFF_8000_0000),
        swapper_pg_dir=start + 0x1FC_A000, kernel_end=start + 0x220_0000,
        first_kernel_pgd=256, banks=banks, notes=notes,
        regions=(("vmemmap", Window(0xFFFF_FFC5_0000_0000, 0xFFFF_FFC6_0000_0000)),),
    )  # fmt: skip


def flush_tlb_kernel_range(kernel: Host, cpu: int, start: int, end: int) -> None:
    """Fence every hart: page by page up to 64 pages, else everything (tlb_flush_all_threshold, mm/tlbflush.c)."""
    if end - start > 64 * kernel.arch.page_size:
        kernel.flush_tlb_all(cpu)
    else:
        kernel.flush_tlb_pages(cpu, start, end, every_cpu=True)


RISCV64 = Architecture(
    name="riscv64", aliases=("riscv", "rv64", "rv64gc", "riscv64gc"),
    description="64-bit RISC-V, Sv39: 3 levels", era="6.16",
    word_bits=64, page_shift=12, levels=[PGD, PMD, PTE],
    page_kernel=0xE7, page_kernel_exec=0xEF,
    protections={"PAGE_KERNEL_READ": 0xE3, "PAGE_KERNEL_READ_EXEC": 0xEB},
    ioremap_max_order=30, zones=[Zone("DMA32", 1 << 32), Zone("NORMAL")], layout=layout,
    hardware=HardwareView(levels=(PGD, PMD, evolve(PTE, present_mask=0x1, access=ACCESS)), canonical_bits=39),
    linear_map=LinearMap(leaf="2 MiB page (R)", flags=0xE7, kernel_flags=0xEF,
                         image=(0xFFFF_FFFF_8000_0000, 0x220_0000, 0xEF)),
    symbols=Symbols(flush_tlb_kernel_range=flush_tlb_kernel_range),
    # arch/riscv/kernel/vmcore_info.c
    image=KernelImage(
        machine=243, bases=[0xFFFF_FFFF_8000_0000], base_number="KERNEL_LINK_ADDR", linear=False,
        offset_number="va_kernel_pa_offset", lines={"NUMBER(VA_BITS)": ["39"]},
    ),
)  # fmt: skip


@hookimpl
def vmcore_architectures() -> list[Architecture]:
    """Bring the record."""
    return [RISCV64]
