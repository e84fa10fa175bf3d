"""Flag bits and small constants, with the names and the values of the kernel.

Sources, all of 2.6.23/24: include/linux/vmalloc.h for ``VM_*`` of areas, include/linux/gfp.h for ``GFP``, and
include/linux/mm.h for ``VmaFlags``.
"""

from enum import IntFlag
from typing import Final


class VM(IntFlag):
    """``vm_struct.flags`` (include/linux/vmalloc.h)."""

    IOREMAP = 0x01
    ALLOC = 0x02
    MAP = 0x04
    USERMAP = 0x08
    VPAGES = 0x10


class GFP(IntFlag):
    """``__GFP_*`` bits of an allocation (include/linux/gfp.h)."""

    DMA = 0x01
    HIGHMEM = 0x02
    DMA32 = 0x04
    WAIT = 0x10
    HIGH = 0x20
    IO = 0x40
    FS = 0x80
    COLD = 0x100
    NOWARN = 0x200
    REPEAT = 0x400
    NOFAIL = 0x800
    NORETRY = 0x1000
    COMP = 0x4000
    ZERO = 0x8000
    NOMEMALLOC = 0x10000
    HARDWALL = 0x20000
    THISNODE = 0x40000
    MOVABLE = 0x80000


class VmaFlags(IntFlag):
    """``vm_area_struct.vm_flags`` that vmalloc and vm_insert_page use (include/linux/mm.h)."""

    RESERVED = 0x00080000
    INSERTPAGE = 0x02000000


GFP_KERNEL: Final = 0xD0  #: WAIT | IO | FS
GFP_PGTABLE: Final = 0x84D0  #: GFP_KERNEL | REPEAT | ZERO, for a kernel page-table page
GFP_LEVEL_MASK: Final = 0xF5FF0  #: the bits of a caller's mask that kmalloc sees: no zone bits, no ZERO

ENOMEM: Final = 12
EFAULT: Final = 14
EBUSY: Final = 16
EINVAL: Final = 22

ZERO_SIZE_PTR: Final = 16  #: the result of kmalloc(0) (include/linux/slab.h)
NO_FRAME: Final = -1  #: a NULL ``struct page *`` in an array of frames
ANY_NODE: Final = -1  #: node argument: the allocator chooses the node
