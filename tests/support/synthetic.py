"""Two synthetic machines that expose hidden assumptions of the core."""

from vmcore.architecture import Architecture, Layout, Level, Zone
from vmcore.errors import LayoutError
from vmcore.hookspecs import hookimpl

FRAME_AT_10 = [(10, 44, 13)]  # the page frame number from bit 10 up, of 8 KiB pages
FRAME_IN_PLACE = [(12, 40, 12)]
FLAG_NAMES = {"VALID": 0x1, "READ": 0x2, "WRITE": 0x4, "EXEC": 0x8, "GLOBAL": 0x20}


def lay_out(name, page_offset, first_kernel_pgd, vmalloc_start, vmalloc_end):
    """Return a layout function: all RAM is in the linear map, the windows are constant."""

    def layout(request):
        if request.vmalloc is not None:
            raise LayoutError(f"{name}: vmalloc= is {request.vmalloc:#x}, expected none: the window is constant")
        banks = request.banks(0)
        return Layout(
            page_offset=page_offset,
            phys_offset=0,
            lowmem_end=banks[-1].end,
            vmalloc_start=vmalloc_start,
            vmalloc_end=vmalloc_end,
            swapper_pg_dir=0x300000,
            kernel_end=0x800000,
            first_kernel_pgd=first_kernel_pgd,
            banks=banks,
        )

    return layout


def table(name, shift, bits):
    """Return an upper level of the deep machine: bad is what is not exactly VALID in its low bits."""
    return Level(
        name=name, shift=shift, bits=bits, entry_bytes=8, frame=FRAME_AT_10, bad_mask=0xF, good_value=0x1,
        table_flags=0x1, flag_names=FLAG_NAMES,
    )  # fmt: skip


#: Five levels of different sizes over 8 KiB pages; frames are not in place; leaves have other bits than tables.
DEEP = Architecture(
    name="synthetic-deep",
    description="64 bit, 8 KiB pages, five levels",
    word_bits=64,
    page_shift=13,
    levels=[
        table("pgd", 52, 8),
        table("p4d", 43, 9),
        table("pud", 33, 10),
        table("pmd", 23, 10),
        Level(name="pte", shift=13, bits=10, entry_bytes=8, frame=FRAME_AT_10, flag_names=FLAG_NAMES),
    ],
    page_kernel=0x27,
    page_kernel_exec=0x2F,
    smp_flags=0x40,
    ioremap_max_order=23,
    zones=[Zone("DMA32", 1 << 32), "NORMAL"],
    layout=lay_out("synthetic-deep", 0xFF80_0000_0000_0000, 248, 0xFFC0_0000_0000_0000, 0xFFC1_0000_0000_0000),
)

#: As little as a record can say: GFP_VMALLOC32 is DMA here, IOREMAP_MAX_ORDER and PAGE_KERNEL_EXEC the defaults.
PLAIN = Architecture(
    name="synthetic-plain",
    description="64 bit, three levels, every default",
    word_bits=64,
    page_shift=12,
    levels=[
        Level(name="pgd", shift=30, bits=9, entry_bytes=8, frame=FRAME_IN_PLACE, table_flags=0x1),
        Level(name="pmd", shift=21, bits=9, entry_bytes=8, frame=FRAME_IN_PLACE, table_flags=0x1),
        Level(name="pte", shift=12, bits=9, entry_bytes=8, frame=FRAME_IN_PLACE),
    ],
    page_kernel=0x7,
    zones=[Zone("DMA", 16 << 20), "NORMAL"],
    layout=lay_out("synthetic-plain", 0xFFFF_FFC0_0000_0000, 256, 0xFFFF_FFE0_0000_0000, 0xFFFF_FFF0_0000_0000),
)

RECORDS = (DEEP, PLAIN)


class Flushes:
    """Their TLBs are dropped whole when something is unmapped."""

    @hookimpl
    def vmcore_flush_tlb_kernel_range(self, arch):
        return lambda kernel, cpu, start, end: kernel.flush_tlb_all(cpu)


def symbols(arch):
    """Return the listeners that define the symbols of a record, where it is one of these."""
    return [Flushes()] if arch in RECORDS else []
