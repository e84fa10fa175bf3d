"""ioremap() and iounmap(), the other large user of vmalloc areas (lib/ioremap.c, arch/*/mm/ioremap.c)."""

from __future__ import annotations

from operator import index

import numpy as np

from vmcore.errors import ArgumentError, VmcoreError
from vmcore.flags import VM
from vmcore.port.vmalloc import Vmalloc


def ioremap(kernel: Vmalloc, phys: int, size: int, prot: int | None) -> int:
    """Map device memory. See `vmcore.kernel.Kernel.ioremap`."""
    arch = kernel.arch
    page, shift, most = arch.page_size, arch.page_shift, arch.levels[-1].physical_end
    phys, size = index(phys), index(size)
    if not 0 <= phys <= phys + size <= most:
        raise ArgumentError(
            f"ioremap: found {size:#x} bytes at physical address {phys:#x}, expected a range within "
            f"0x0..{most:#x}, the addresses that a page-table entry of {arch.name} holds"
        )
    if prot is None:
        prot = dict(arch.protections).get("IOREMAP", arch.page_kernel) | kernel.smp_flags
    prot, offset = kernel.entry_bits(prot, "ioremap"), phys & page - 1
    area = kernel.get_vm_area((size + offset + page - 1) & -page if size else 0, int(VM.IOREMAP))
    area.phys_addr = phys - offset
    pages = area.size - page >> shift
    frames = (phys >> shift) + np.arange(pages, dtype=np.int64)
    try:
        kernel.map_vm_area(area, prot, frames)
    except VmcoreError:
        if kernel.life.dead is None:
            iounmap(kernel, area.addr)
        raise
    return area.addr + offset


def iounmap(kernel: Vmalloc, addr: int) -> None:
    """Undo `ioremap`. See `vmcore.kernel.Kernel.iounmap`."""
    addr = index(addr) & kernel.word_mask
    area = kernel.remove_vm_area(addr & -kernel.page_size)
    if area is None:
        kernel.log.printk(f"<3>iounmap: bad address {addr:0{kernel.arch.word_bits // 4}x}\n")
        return
    kernel.allocators.kfree(area.handle)
