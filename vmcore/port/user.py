"""The part of mm/memory.c that remap_vmalloc_range() calls: vm_insert_page(), for many pages in one step."""

from __future__ import annotations

import numpy as np

from vmcore.arrays import readonly
from vmcore.errors import KernelError
from vmcore.flags import EBUSY, EFAULT, EINVAL, ENOMEM, NO_FRAME, VmaFlags
from vmcore.machine.machine import Machine
from vmcore.port.structs import VmAreaStruct
from vmcore.wording import counted

_INSERTPAGE = int(VmaFlags.INSERTPAGE)
_BATCH = 1 << 16  # pages that are looked at in one step
_REASONS = {
    EFAULT: "it is outside the vma",
    EBUSY: "a page is there already",
    EINVAL: "the page is free",
    ENOMEM: "out of memory",
}


class UserPages:
    """The pages of one user mapping, to be inserted."""

    def __init__(self, machine: Machine, vma: VmAreaStruct) -> None:
        self._machine, self._vma = machine, vma

    def insert(self, addr: int, usize: int) -> None:
        """Insert the pages of a kernel range, one vm_insert_page() each, up to the first that fails.

        The C loop tests ``usize`` after each page. A size that is no multiple of a page runs on to the end of the
        vma, where vm_insert_page() stops it with -EFAULT. A vma that ends where it starts, or below, stops it at
        once.

        Args:
            addr: of the first page, kernel virtual, bytes.
            usize: size of the mapping, bytes.

        Raises:
            KernelError: a page cannot be inserted, see `vmcore.port.vmalloc.Vmalloc.remap_vmalloc_range`.
            KernelOops: a page of the range is not mapped in the kernel.
        """
        machine, vma = self._machine, self._vma
        if vma.vm_end & machine.word_mask <= vma.vm_start & machine.word_mask:
            usize = 0
        inside, ragged = usize >> machine.page_shift, bool(usize & machine.page_size - 1)
        tried = inside + ragged
        for first in range(0, tried, _BATCH):
            self._insert_batch(addr, first, min(tried - first, _BATCH))
        if ragged or not tried:
            beyond = machine.init_mm.frames(addr + (tried << machine.page_shift), 1)
            self._fail(tried, beyond, EFAULT)

    def _insert_batch(self, addr: int, first: int, count: int) -> None:
        """Insert ``count`` pages of the mapping from ``first`` on, or those before the first that fails."""
        machine, vma = self._machine, self._vma
        shift = machine.page_shift
        if len(vma.inserted) < first + count:
            more = np.full(first + count - len(vma.inserted), NO_FRAME, np.int64)
            vma.inserted = np.concatenate((vma.inserted, more))
        frames = machine.init_mm.frames(addr + (first << shift), count)
        slots = vma.inserted[first : first + count]
        done, errno = self._insertable(frames, slots)
        if done or errno in (ENOMEM, EBUSY):
            vma.vm_flags |= _INSERTPAGE
        slots[:done] = frames[:done]
        self._announce(vma.vm_start + (first << shift), frames[:done], 0)
        if done < count:
            if not errno:
                machine.log.oops(0, "read page_count(NULL)")
            self._fail(first + done, frames[done : done + 1], errno)

    def _insertable(self, frames: np.ndarray, slots: np.ndarray) -> tuple[int, int]:
        """Return how many pages can be inserted, and the errno of the next (0: it is NULL, or there is none)."""
        faults = self._machine.faults
        null = frames == NO_FRAME
        loose = ~null & ~self._machine.pages.allocated(np.where(null, 0, frames))
        busy = slots != NO_FRAME
        stop = int((null | loose | busy).argmax()) if (null | loose | busy).any() else len(frames)
        calls = stop + (1 if stop < len(frames) and busy[stop] and not null[stop] and not loose[stop] else 0)
        if 0 < faults.insert <= calls:
            done, faults.insert = faults.insert - 1, 0
            return done, ENOMEM
        faults.insert = max(faults.insert - calls, 0)
        if stop == len(frames) or null[stop]:
            return stop, 0
        return stop, EINVAL if loose[stop] else EBUSY

    def _announce(self, address: int, frames: np.ndarray, errno: int) -> None:
        events = self._machine.events
        if events.page_inserted is not None and len(frames):
            events.page_inserted(address=address, frames=readonly(frames), errno=errno)

    def _fail(self, number: int, frames: np.ndarray, errno: int) -> None:
        at = self._vma.vm_start + (number << self._machine.page_shift)
        self._announce(at, frames, -errno)
        after = counted(number, "page")
        raise KernelError(errno, f"vm_insert_page at {at:#x}: {_REASONS[errno]} (after {after})")
