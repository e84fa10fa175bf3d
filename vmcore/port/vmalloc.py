"""The port of mm/vmalloc.c, function by function, in the order of the C file.

Every function of the file is a method here under its own name. Of names with two underscores, ``__x`` becomes
``raw_x`` where other files of the kernel call it, for example ``__vmalloc``, and ``_x`` where it is static. An
exception with the facts is raised where C answers NULL or -Exxx. BUG_ON and accesses the machine cannot do end
the kernel. Numbers are ``unsigned long``: they wrap at the architecture's word. docs/port.md lists each deliberate
difference. Line numbers are those of mm/vmalloc.c, revision c21b37f6.
"""

from __future__ import annotations

from operator import index
from typing import Final

import numpy as np

from vmcore.cpu.cpu import as_bytes
from vmcore.errors import ArgumentError, InvalidSize, KernelError, OutOfMemory, OutOfVmallocSpace, PageFault
from vmcore.flags import (
    ANY_NODE,
    EINVAL,
    GFP,
    GFP_KERNEL,
    GFP_LEVEL_MASK,
    NO_FRAME,
    VM,
    ZERO_SIZE_PTR,
    VmaFlags,
)
from vmcore.machine.life import mutating
from vmcore.machine.machine import Machine
from vmcore.paging.tables import MapResult
from vmcore.placement.arealist import VmStruct
from vmcore.port.structs import VmAreaStruct
from vmcore.port.user import UserPages
from vmcore.wording import counted

# plain ints: an IntFlag costs ten times as much in an expression
_IOREMAP, _ALLOC, _USERMAP, _VPAGES = (int(f) for f in (VM.IOREMAP, VM.ALLOC, VM.USERMAP, VM.VPAGES))
_HIGHMEM, _ZERO = int(GFP.HIGHMEM), int(GFP.ZERO)
_RESERVED, _INSERTPAGE = int(VmaFlags.RESERVED), int(VmaFlags.INSERTPAGE)
_UINT: Final = 0xFFFF_FFFF  # ``unsigned int`` is 32 bits on every architecture
_NULL = (OutOfVmallocSpace, OutOfMemory, InvalidSize)  # errors for which C returns NULL
_FEW = 8  # pages up to which a list is faster than an array
_MOST_FRAMES = (1 << 63) - 1  # the largest int64
_ANSWER_MOST = 1 << 30  # most bytes that vread() returns. In C the caller has a buffer for them
_OUT_OF_SPACE = "<4>allocation failed: out of vmalloc space - use vmalloc=<size> to increase size.\n"


def _bounds(frames: np.ndarray) -> tuple[int, int]:
    """Return the lowest and the highest of some frames, and 0 and 0 of none."""
    if len(frames) <= _FEW:
        numbers = frames.tolist() or (0,)
        return min(numbers), max(numbers)
    return int(frames.min()), int(frames.max())


class Vmalloc(Machine):
    """A machine with mm/vmalloc.c on it."""

    @mutating
    def unmap_kernel_range(self, addr: int, size: int) -> None:
        """Clear the page tables over a range, flushing caches before and TLBs after.

        Areas stay on the list. The range may cross holes and several areas.

        Args:
            addr: virtual, bytes.
            size: bytes.

        Raises:
            KernelBug: the range is empty or wraps (C: ``BUG_ON(addr >= end)``).

        Kernel: mm/vmalloc.c:30-88.
        """
        self._unmap_kernel_range(addr, size)

    def _unmap_kernel_range(self, addr: int, size: int) -> None:
        addr, size = index(addr) & self.word_mask, index(size)
        end = addr + size & self.word_mask
        if addr >= end:
            self.log.bug("addr >= end", "unmap_kernel_range")
        self.symbols.flush("flush_cache_vunmap", addr, end)
        self.init_mm.unmap(addr, end)
        self.symbols.flush("flush_tlb_kernel_range", addr, end)

    def _unmap_vm_area(self, area: VmStruct) -> None:
        """Unmap an area, guard page included (mm/vmalloc.c:90)."""
        self._unmap_kernel_range(area.addr, area.size)

    @mutating
    def map_vm_area(self, area: VmStruct, prot: int, pages: np.ndarray) -> int:
        """Enter pages over an area. Its guard page stays unmapped.

        Entries written before a failure stay, and caches are flushed all the same, as in C.

        Args:
            area: An area on the list. Its ``size`` includes the guard page.
            prot: protection bits of the last level.
            pages: Frames, integers, at least one per page. NO_FRAME is NULL. If no entry can hold a frame, its
                upper bits are lost, as in C, and the log says so.

        Returns:
            How far C would have moved the caller's page pointer: entries written.

        Raises:
            OutOfMemory: No table, or a NULL page (C: -ENOMEM). ``what`` says which, and ``done`` says how many
                entries were written.
            KernelBug: the area has no page (C: ``BUG_ON(addr >= end)``).
            ArgumentError: ``pages`` are too few or no frames, ``prot`` has bits that no entry has.

        Kernel: mm/vmalloc.c:95-167.
        """
        needed = -(self.page_size - area.size >> self.page_shift)  # C reads one for a part of a page, too
        prot, frames = self.entry_bits(prot, "map_vm_area"), self._page_pointers(pages, needed, "map_vm_area")
        result = self._map_page_pointers(area, prot, frames, "map_vm_area")
        if not result.ok:
            raise self._map_failure(area, result)
        return result.done

    @staticmethod
    def _page_pointers(pages: np.ndarray, needed: int, function: str) -> np.ndarray:
        """Return the part of a caller's page array that is to be mapped: frames, int64, shape ``(needed,)``.

        Raises:
            ArgumentError: it is shorter (C would read on behind it), or holds a number that is no frame.
        """
        found = np.asarray(pages)
        if found.ndim != 1 or len(found) < needed:
            raise ArgumentError(
                f"{function}: found a page array of shape {found.shape}, expected one frame for each of the "
                f"{counted(needed, 'page')} to map (NO_FRAME, {NO_FRAME}, for NULL)"
            )
        found = found[: max(needed, 0)]
        if found.dtype.kind not in "iu" and len(found):
            raise ArgumentError(f"{function}: found a page array of {found.dtype}, expected frames, int64")
        low, high = _bounds(found)
        if low < NO_FRAME or high > _MOST_FRAMES:
            raise ArgumentError(
                f"{function}: found {low if low < NO_FRAME else high:#x} in the page array, expected frames, "
                f"0 to {_MOST_FRAMES:#x} (NO_FRAME, {NO_FRAME}, for NULL)"
            )
        return found.astype(np.int64, copy=False)

    def entry_bits(self, prot: int, function: str) -> int:
        """Return a caller's protection.

        Raises:
            ArgumentError: it has bits that a page-table entry has not.
        """
        bits = index(prot)
        if not 0 <= bits < self.entry_end or bits & self.frame_mask:
            raise ArgumentError(
                f"{function}: found protection {bits:#x}, expected bits of an entry, below {self.entry_end:#x}, "
                f"without those of the frame, {self.frame_mask:#x}"
            )
        return bits

    def _map_page_pointers(self, area: VmStruct, prot: int, frames: np.ndarray, function: str) -> MapResult:
        """Map a caller's frames, and say which of them entries cannot hold (C loses their upper bits silently)."""
        result = self._map_vm_area(area, prot, frames)
        if _bounds(frames[: result.done])[1] >= self.frames_end:
            cut = np.flatnonzero(frames[: result.done] >= self.frames_end)
            n = int(cut[0])
            at = area.addr + (n << self.page_shift)
            more = f" (the first of {len(cut)})" if len(cut) > 1 else ""
            kept = int(frames[n]) % self.frames_end
            used = self.smp.cpu.mmu.translate(at)
            other = (
                ""
                if used is None or used >> self.page_shift == kept
                else (f" to Linux, and frame {used >> self.page_shift:#x} to the MMU")
            )
            self.log.printk(
                f"<4>vmcore: {function}: frame {int(frames[n]):#x}{more}, but an entry of {self.arch.name} holds "
                f"frames below {self.frames_end:#x}: {at:#x} maps frame {kept:#x}{other}.\n"
            )
        return result

    def _map_vm_area(self, area: VmStruct, prot: int, pages: np.ndarray) -> MapResult:
        addr = area.addr
        end = addr + area.size - self.page_size & self.word_mask
        if addr >= end:
            self.log.bug("addr >= end", "map_vm_area")
        self.life.steps += 1
        result = self.init_mm.map(addr, end, pages, prot)
        self.symbols.flush("flush_cache_vmap", addr, end)
        return result

    def _map_failure(self, area: VmStruct, result: MapResult) -> OutOfMemory:
        at = area.addr + (result.done << self.page_shift)
        missing = "page table" if result.what == "table" else "page (NULL in the page array)"
        text = f"no {missing} for {at:#x}, after {counted(result.done, 'entry', 'entries')}"
        return OutOfMemory(result.what, text, self.log.lines(), result.done)

    def _get_vm_area_node(
        self, size: int, flags: int, start: int, end: int, node: int, gfp_mask: int, align: int = 1
    ) -> VmStruct:
        """Reserve the first hole that fits, and a guard page behind it.

        ``end`` is checked only after an area that begins at or above the candidate was stepped over. With an
        empty list, a start behind the last area or a large alignment, the area may lie beyond ``end``, as in C.

        Args:
            size: bytes, before rounding up.
            flags: `VM` bits. IOREMAP aligns by size.
            start: first address to consider.
            end: bound, see above.
            node: for the descriptor.
            gfp_mask: for the descriptor.
            align: Unlike C, a further alignment in bytes, a power of two. It is capped at
                ``1 << IOREMAP_MAX_ORDER`` as C caps its own.

        Raises:
            InvalidSize: it rounds to 0.
            OutOfMemory: no descriptor ("kmalloc").
            OutOfVmallocSpace: No hole fits. It is logged unless printk_ratelimit is off.
            KernelBug: in interrupt.

        Kernel: mm/vmalloc.c:169-239.
        """
        arch, size = self.arch, index(size)
        if self.in_interrupt:
            self.log.bug("in_interrupt()", "__get_vm_area_node")
        if align > 1:
            align = min(align, 1 << arch.ioremap_max_order)
        if flags & _IOREMAP:
            bit = (size & _UINT).bit_length()  # fls() takes an int: the upper half of a long is lost
            align = max(align, 1 << min(max(bit, self.page_shift), arch.ioremap_max_order))
        page = self.page_size
        asked, size = size, size + page - 1 & -page & self.word_mask
        if not size:
            raise InvalidSize(asked)
        handle = self.allocators.kmalloc(self.sizeof_vm_struct, gfp_mask & GFP_LEVEL_MASK, node)
        if handle is None:
            raise OutOfMemory("kmalloc", "kmalloc of a vm_struct failed")
        size = size + page & self.word_mask
        with self.lock_vmlist():
            placement = self.vmlist.search(size, align, start, end)
            if placement is not None:
                area = VmStruct(placement.addr, size, flags, handle=handle)
                self.vmlist.insert(area, placement)
                if self.events.area_added is not None:
                    self.events.area_added(address=area.addr, size=size, flags=flags)
                return area
        self.allocators.kfree(handle)
        lines = (_OUT_OF_SPACE,) if self.printk_ratelimit else ()
        for line in lines:
            self.log.printk(line)
        raise OutOfVmallocSpace(size, align, start, end, lines)

    @mutating
    def raw_get_vm_area(self, size: int, flags: int, start: int, end: int) -> VmStruct:
        """Reserve an area in a window (mm/vmalloc.c:241 __get_vm_area). See `_get_vm_area_node`."""
        return self._get_vm_area_node(size, index(flags), index(start), index(end), ANY_NODE, GFP_KERNEL)

    @mutating
    def get_vm_area(self, size: int, flags: int) -> VmStruct:
        """Reserve an area in the vmalloc window (mm/vmalloc.c:257). See `_get_vm_area_node`."""
        layout = self.layout
        start, end = layout.vmalloc_start, layout.vmalloc_end
        return self._get_vm_area_node(size, index(flags), start, end, ANY_NODE, GFP_KERNEL)

    @mutating
    def get_vm_area_node(self, size: int, flags: int, node: int, gfp_mask: int) -> VmStruct:
        """Reserve an area, its descriptor on a node, any if negative (mm/vmalloc.c:262). See `_get_vm_area_node`.

        Raises:
            ConfigurationError: this machine has no such node.
        """
        window, node = (self.layout.vmalloc_start, self.layout.vmalloc_end), self.allocators.node(node)
        return self._get_vm_area_node(size, index(flags), *window, node, index(gfp_mask))

    @mutating
    def raw_get_vm_area_node(
        self, size: int, flags: int, start: int, end: int, node: int, gfp_mask: int, align: int = 1
    ) -> VmStruct:
        """Reserve an area in a window, as `_get_vm_area_node` does, with a further alignment that C does not know.

        Args:
            size: bytes, before rounding up.
            flags: `VM` bits.
            start: first address to consider.
            end: Bound, which C checks late.
            node: Node of the descriptor, any if negative.
            gfp_mask: for the descriptor.
            align: Bytes, a power of two. 1 adds nothing to C's own alignment.

        Raises:
            InvalidSize, OutOfMemory, OutOfVmallocSpace: as for `get_vm_area`.
        """
        window, node = (index(start), index(end)), self.allocators.node(node)
        return self._get_vm_area_node(size, index(flags), *window, node, index(gfp_mask), index(align))

    def find_vm_area(self, addr: int) -> VmStruct | None:
        """Return the first area on the list that starts at an address (mm/vmalloc.c:270 __find_vm_area)."""
        self.life.readable()
        addr = index(addr) & self.word_mask
        with self.lock_vmlist():
            return self.vmlist.find(addr)

    def _remove_vm_area(self, addr: int) -> VmStruct | None:
        """Find, unmap and take off the list, with vmlist_lock held (mm/vmalloc.c:283 __remove_vm_area)."""
        area = self.vmlist.find(addr)
        if area is None:
            return None
        self._unmap_vm_area(area)
        self.vmlist.remove(area)
        if self.events.area_removed is not None:
            self.events.area_removed(address=area.addr, size=area.size, flags=area.flags)
        area.size = area.size - self.page_size & self.word_mask
        return area

    @mutating
    def remove_vm_area(self, addr: int) -> VmStruct | None:
        """Unmap the area that starts at an address and take it off the list.

        Returns:
            The area, whose ``size`` now excludes the guard page, or None if there is none. The caller frees it
            (`kfree(area.handle)`), as iounmap() does.

        Raises:
            KernelBug: the area is empty or wraps (C: ``BUG_ON(addr >= end)``), or a plugin called back.

        Kernel: mm/vmalloc.c:312.
        """
        return self._take_off_list(index(addr) & self.word_mask)

    def _take_off_list(self, addr: int) -> VmStruct | None:
        with self.lock_vmlist():
            return self._remove_vm_area(addr)

    def _vunmap(self, addr: int, deallocate_pages: bool) -> None:
        """Unmap an area, and free its pages if asked. A bad address is logged (mm/vmalloc.c:321)."""
        addr = index(addr) & self.word_mask
        if not addr:
            return
        if addr & self.page_size - 1:
            self._complain("bad address", addr)
            return
        area = self._take_off_list(addr)
        if area is None:
            self._complain("nonexistent vm area", addr)
            return
        if deallocate_pages:
            self._free_area_pages(area)
        self.allocators.kfree(area.handle)

    def _complain(self, what: str, addr: int) -> None:
        digits = self.arch.word_bits // 4
        self.log.printk(f"<3>Trying to vfree() {what} ({addr:0{digits}x})\n")
        self.log.warn_on("1", "__vunmap")

    def _free_area_pages(self, area: VmStruct) -> None:
        """Free an area's pages and then its page array (mm/vmalloc.c:344-356)."""
        if area.nr_pages and area.pages is not None:
            frames = area.pages[: area.nr_pages]
            if area.pages_addr:
                self._read_page_array(area, frames)
            if (NO_FRAME in frames.tolist()) if len(frames) <= _FEW else frames.min() < 0:
                first = int((frames == NO_FRAME).argmax())
                self.allocators.free_pages(frames[:first])
                self.log.bug("!area->pages[i]", "__vunmap")
            self.allocators.free_pages(frames)
        if area.flags & _VPAGES:  # of a caller's own flag: C takes the pointer of an object for an address
            self.vfree(area.pages_handle or area.pages_addr)
        else:
            self.allocators.kfree(area.pages_handle)

    def _read_page_array(self, area: VmStruct, frames: np.ndarray) -> None:
        """Oops where C cannot read a vmalloc'ed page array any more, the pages in front of it freed."""
        pointer = self.pointer_bytes
        mapped = self._frames_under(area.pages_addr, len(frames) * pointer)
        if (missing := np.flatnonzero(mapped == NO_FRAME)).size:
            readable = (int(missing[0]) << self.page_shift) // pointer
            self.allocators.free_pages(frames[:readable])
            self.log.oops(area.pages_addr + readable * pointer, "read")

    @mutating
    def vfree(self, addr: int) -> None:
        """Release memory allocated by the vmalloc family. 0 (NULL) does nothing.

        A bad or unknown address is logged and warned about and changes nothing, as in C.

        Raises:
            KernelBug: in interrupt.

        Kernel: mm/vmalloc.c:372.
        """
        if self.in_interrupt:
            self.log.bug("in_interrupt()", "vfree")
        self._vunmap(addr, deallocate_pages=True)

    @mutating
    def vunmap(self, addr: int) -> None:
        """Release a mapping made by vmap(). Its pages stay the caller's (mm/vmalloc.c:388). See `vfree`."""
        if self.in_interrupt:
            self.log.bug("in_interrupt()", "vunmap")
        self._vunmap(addr, deallocate_pages=False)

    @mutating
    def vmap(self, pages: np.ndarray, count: int, flags: int, prot: int) -> int:
        """Map an array of pages into consecutive kernel addresses.

        Args:
            pages: frames, as for `map_vm_area`.
            count: Number of pages, an ``unsigned int``. Their size in bytes wraps at 32 bits, as in C.
            flags: `VM` bits of the area.
            prot: protection bits of the last level.

        Returns:
            The virtual address.

        Raises:
            OutOfMemory: more than num_physpages, no descriptor, no table, a NULL page.
            InvalidSize: no page.
            OutOfVmallocSpace: no hole.
            ArgumentError: as for `map_vm_area`.

        Kernel: mm/vmalloc.c:405.
        """
        count, prot = index(count) & _UINT, self.entry_bits(prot, "vmap")
        self.check_num_physpages(count)
        size = count << self.page_shift & _UINT
        frames = self._page_pointers(pages, size >> self.page_shift, "vmap")
        area = self.get_vm_area(size, flags)
        result = self._map_page_pointers(area, prot, frames, "vmap")
        if not result.ok:
            self.vunmap(area.addr)
            raise self._map_failure(area, result)
        return area.addr

    def check_num_physpages(self, count: int) -> None:
        """Refuse a request for more pages than num_physpages.

        Raises:
            OutOfMemory: there are fewer.
        """
        if count > self.num_physpages:
            raise OutOfMemory(
                "num_physpages",
                f"{counted(count, 'page', form='#x')} asked for, this machine has {self.num_physpages:#x}",
            )

    def _vmalloc_area_node(
        self, area: VmStruct, gfp_mask: int, prot: int, node: int, page_array_on_list: bool = True
    ) -> int:
        """Back an area with pages and map them (mm/vmalloc.c:425). The area is gone if that fails.

        Unlike C, ``page_array_on_list=False`` keeps a large area's page array out of the address space: it is
        one kmalloc object of any size. A trace has the array of its kernel as an event of its own.
        """
        page = self.page_size
        nr_pages = (area.size - page & self.word_mask) >> self.page_shift & _UINT
        array_size = nr_pages * self.pointer_bytes & _UINT
        area.nr_pages = nr_pages
        self._page_array(area, array_size, gfp_mask, node, page_array_on_list)
        if area.pages_handle == ZERO_SIZE_PTR and nr_pages:
            self.allocators.alloc_pages(1, gfp_mask, node)  # the first store to the array of size 0 faults
            self.log.oops(ZERO_SIZE_PTR, "write")
        frames = area.pages = self.allocators.alloc_pages(nr_pages, gfp_mask, node)
        if self.mem_map is not None and area.pages_addr:
            self._store_page_array(area, frames, self.mem_map)
        if len(frames) < nr_pages:
            area.nr_pages = len(frames)
            text = f"page {len(frames)} of {nr_pages} could not be allocated"
            failure = OutOfMemory("page", text, self.log.lines(), len(frames))
            self.vfree(area.addr)
            try:
                raise failure
            finally:
                del failure  # a frame that kept it would keep the kernel, in a cycle
        result = self._map_vm_area(area, prot, frames)
        if not result.ok:
            failure = self._map_failure(area, result)
            self.vfree(area.addr)
            try:
                raise failure
            finally:
                del failure  # a frame that kept it would keep the kernel, in a cycle
        return area.addr

    def _page_array(self, area: VmStruct, array_size: int, gfp_mask: int, node: int, on_list: bool) -> None:
        """Get the array of page pointers: kmalloc, or above one page a vmalloc of its own (:436-450)."""
        try:
            if array_size > self.page_size and on_list:
                area.pages_addr = self._vmalloc_node(array_size, gfp_mask | _ZERO, self.page_kernel, node)
                area.flags |= _VPAGES
            else:
                area.pages_handle = self.allocators.kmalloc(array_size, gfp_mask & GFP_LEVEL_MASK | _ZERO, node)
                if area.pages_handle is None:
                    raise OutOfMemory(
                        "kmalloc", f"kmalloc of a page array of {counted(array_size, 'byte', form='#x')} failed"
                    )
        except _NULL:
            self.remove_vm_area(area.addr)
            self.allocators.kfree(area.handle)
            raise

    def _store_page_array(self, area: VmStruct, frames: np.ndarray, mem_map: tuple[int, int]) -> None:
        """Put into a vmalloc'ed page array the pointers that C has there."""
        base, size = mem_map
        pointers = (base + size * frames).astype(f"u{self.pointer_bytes}")
        if len(pointers):
            self._copy_to(area.pages_addr, pointers.view(np.uint8))

    @mutating
    def raw_vmalloc_area(self, area: VmStruct, gfp_mask: int, prot: int) -> int:
        """Back an area the caller reserved (mm/vmalloc.c:473 __vmalloc_area) and return its address.

        Raises:
            OutOfMemory: No pages, tables or page array. The area is gone then.
            OutOfVmallocSpace: no hole for the page array of a large area.
        """
        return self._vmalloc_area_node(area, index(gfp_mask), self.entry_bits(prot, "__vmalloc_area"), ANY_NODE)

    @mutating
    def raw_vmalloc_area_node(
        self, area: VmStruct, gfp_mask: int, prot: int, node: int, page_array_on_list: bool = True
    ) -> int:
        """Back an area the caller reserved with pages of a node (mm/vmalloc.c:425 __vmalloc_area_node).

        Args:
            area: An area on the list. It is gone if this fails.
            gfp_mask: for the pages and the page array.
            prot: protection bits of the last level.
            node: Node of the pages, any if negative.
            page_array_on_list: False keeps the page array of a large area out of the address space, unlike C.

        Raises:
            OutOfMemory, OutOfVmallocSpace: as for `raw_vmalloc_area`.
        """
        bits, node = self.entry_bits(prot, "__vmalloc_area_node"), self.allocators.node(node)
        return self._vmalloc_area_node(area, index(gfp_mask), bits, node, page_array_on_list)

    def _vmalloc_node(self, size: int, gfp_mask: int, prot: int, node: int) -> int:
        """Allocate virtually contiguous memory (mm/vmalloc.c:489 __vmalloc_node)."""
        page = self.page_size
        asked = index(size)
        size = asked + page - 1 & -page & self.word_mask
        if not size:
            raise InvalidSize(asked)
        self.check_num_physpages(size >> self.page_shift)
        layout = self.layout
        start, end = layout.vmalloc_start, layout.vmalloc_end
        area = self._get_vm_area_node(size, _ALLOC, start, end, node, gfp_mask)
        return self._vmalloc_area_node(area, gfp_mask, prot, node)

    @mutating
    def raw_vmalloc(self, size: int, gfp_mask: int, prot: int) -> int:
        """Allocate with a page-allocator mask and a protection (mm/vmalloc.c:505 __vmalloc). See `vmalloc`."""
        return self._vmalloc_node(size, index(gfp_mask), self.entry_bits(prot, "__vmalloc"), ANY_NODE)

    @mutating
    def vmalloc(self, size: int) -> int:
        """Allocate virtually contiguous memory.

        Args:
            size: Bytes. They are rounded up to pages, and a guard page is reserved behind them.

        Returns:
            The virtual address.

        Raises:
            InvalidSize: it rounds to 0.
            OutOfMemory: more pages than the machine has, or no page, table or small object.
            OutOfVmallocSpace: no hole.
            KernelBug: in interrupt.

        Kernel: mm/vmalloc.c:520.
        """
        return self._vmalloc_node(size, GFP_KERNEL | _HIGHMEM, self.page_kernel, ANY_NODE)

    @mutating
    def vmalloc_user(self, size: int) -> int:
        """Allocate zeroed memory that may be mapped to user space (mm/vmalloc.c:533). See `vmalloc`."""
        return self._usermap(self.raw_vmalloc(size, GFP_KERNEL | _HIGHMEM | _ZERO, self.page_kernel))

    def _usermap(self, addr: int) -> int:
        if not addr:  # an area at address 0 is NULL to C
            return addr
        with self.lock_vmlist():
            area = self.vmlist.find(addr)
            if area is not None:  # C does not ask: another thread may have freed it, an oops there
                area.flags |= _USERMAP
        return addr

    @mutating
    def vmalloc_node(self, size: int, node: int) -> int:
        """Allocate on a NUMA node, any if it is negative (mm/vmalloc.c:560). See `vmalloc`.

        Raises:
            ConfigurationError: this machine has no such node.
        """
        return self._vmalloc_node(size, GFP_KERNEL | _HIGHMEM, self.page_kernel, self.allocators.node(node))

    def vmalloc_exec(self, size: int) -> int:
        """Allocate executable memory (mm/vmalloc.c:582). See `vmalloc`.

        Where the headers do not define PAGE_KERNEL_EXEC it is PAGE_KERNEL (mm/vmalloc.c:566).
        """
        return self.raw_vmalloc(size, GFP_KERNEL | _HIGHMEM, self.protection("PAGE_KERNEL_EXEC"))

    def vmalloc_32(self, size: int) -> int:
        """Allocate pages that 32 bits of physical address reach (mm/vmalloc.c:602). See `vmalloc`."""
        return self.raw_vmalloc(size, self.arch.gfp_vmalloc32, self.page_kernel)

    @mutating
    def vmalloc_32_user(self, size: int) -> int:
        """Allocate zeroed 32-bit memory that may be mapped to user space (mm/vmalloc.c:615)."""
        return self._usermap(self.raw_vmalloc(size, self.arch.gfp_vmalloc32 | _ZERO, self.page_kernel))

    def vread(self, addr: int, count: int) -> bytes:
        """Read kernel virtual memory. Holes between areas and guard pages read as zeros.

        Reading ends behind the last area, so the answer may be shorter than ``count``. Areas of every kind are
        read, so a page that is not mapped is an oops.

        Args:
            addr: virtual, bytes.
            count: bytes.

        Raises:
            ArgumentError: the answer would have more than 1 GiB: C has a buffer of the caller for it.
            KernelOops: a page of an area is not mapped.

        Kernel: mm/vmalloc.c:631.
        """
        self.life.readable()
        mask, page = self.word_mask, self.page_size
        addr, count = index(addr) & mask, index(count) & mask
        if addr + count & mask < count:  # don't allow overflow
            count = -addr & mask
        parts: list[bytes] = []
        with self.lock_vmlist():
            if count > _ANSWER_MOST:
                self._check_answer(addr, count)
            for area in self.vmlist.from_address(addr):
                end = area.addr + area.size - page & mask
                if addr >= end:
                    continue
                if addr < area.addr:
                    gap = min(area.addr - addr, count)
                    parts.append(bytes(gap))
                    addr, count = addr + gap, count - gap
                n = min(end - addr, count)
                if not n:
                    break
                parts.append(self._copy_from(addr, n))
                addr, count = addr + n, count - n
        return b"".join(parts)

    def _check_answer(self, addr: int, count: int) -> None:
        """Refuse a read whose answer, which ends behind the last area, is larger than any caller has room for."""
        end = max((area.addr + area.size - self.page_size for area in self.vmlist), default=0)
        size = min(count, end - addr)
        if size > _ANSWER_MOST:
            raise ArgumentError(
                f"vread: found {size:#x} bytes to read from {addr:#x} to the last area, holes included, "
                f"expected at most {_ANSWER_MOST:#x}; read area by area"
            )

    @mutating
    def vwrite(self, addr: int, data: bytes) -> int:
        """Write kernel virtual memory. Bytes in holes and guard pages are skipped, and counted.

        Args:
            addr: virtual, bytes.
            data: Bytes, or a buffer in one piece. If its items are wider than a byte, all their bytes are written.

        Returns:
            Number of bytes passed, up to the end of the last area.

        Raises:
            KernelOops: A page of an area is not mapped. Bytes written before stay.
            ArgumentError: ``data`` is no buffer, or not in one piece.

        Kernel: mm/vmalloc.c:669.
        """
        source, done = np.frombuffer(as_bytes(data, "vwrite"), np.uint8), 0
        mask, page, count = self.word_mask, self.page_size, len(source)
        addr = index(addr) & mask
        if addr + count & mask < count:  # don't allow overflow
            count = -addr & mask
        with self.lock_vmlist():
            for area in self.vmlist.from_address(addr):
                end = area.addr + area.size - page & mask
                if addr + done >= end:
                    continue
                done += min(max(area.addr - addr - done, 0), count - done)
                n = min(end - addr - done, count - done)
                if not n:
                    break
                self._copy_to(addr + done, source[done : done + n])
                done += n
        return done

    def _copy_from(self, addr: int, count: int) -> bytes:
        """Read kernel memory on the running CPU, or oops at the first byte that faults."""
        try:
            return self.smp.cpu.load(addr, count)
        except PageFault as fault:
            self.log.oops(fault.address, fault.access)

    def _copy_to(self, addr: int, data: np.ndarray) -> None:
        """Write kernel memory on the running CPU, page after page, until the first byte that faults."""
        try:
            self.smp.cpu.store(addr, data)
        except PageFault as fault:
            self.log.oops(fault.address, fault.access)

    def _frames_under(self, addr: int, count: int) -> np.ndarray:
        shift = self.page_shift
        return self.init_mm.frames(addr, (addr + count - 1 >> shift) - (addr >> shift) + 1)

    @mutating
    def remap_vmalloc_range(self, vma: VmAreaStruct, addr: int, pgoff: int) -> None:
        """Map an area's pages into a user mapping, all of it.

        Args:
            vma: User mapping to fill.
            addr: Address of an area with VM_USERMAP.
            pgoff: Pages to skip. Its upper bits are lost in the shift, as in C.

        Raises:
            KernelError: EINVAL: no such area or too small; EFAULT: past the end of the vma (its size is not
                a multiple of the page size, or it ends where it starts or below); EBUSY: a page is there
                already; ENOMEM.
            KernelOops: a page of the range is not mapped in the kernel.

        Kernel: mm/vmalloc.c:719.
        """
        page, mask = self.page_size, self.word_mask
        addr, usize = index(addr) & mask, vma.vm_end - vma.vm_start & mask
        offset = index(pgoff) << self.page_shift & mask
        if addr & page - 1:
            raise KernelError(EINVAL, f"remap_vmalloc_range: address {addr:#x} is not page aligned")
        with self.lock_vmlist():
            area = self.vmlist.find(addr)
            if area is None or not area.flags & _USERMAP:
                raise KernelError(EINVAL, f"remap_vmalloc_range: no VM_USERMAP area starts at {addr:#x}")
            if usize + offset & mask > area.size - page & mask:
                raise KernelError(EINVAL, f"remap_vmalloc_range: {usize:#x} bytes from {offset:#x} on do not fit "
                                          f"the area at {addr:#x}")  # fmt: skip
        UserPages(self, vma).insert(addr + offset & mask, usize)
        vma.vm_flags |= _RESERVED

    @mutating
    def alloc_vm_area(self, size: int) -> VmStruct:
        """Reserve an area and make all its page tables, guard page's included, without mapping anything.

        Raises:
            OutOfMemory: No descriptor or no table. The area is gone then, but the tables made so far stay.
            OutOfVmallocSpace: no hole.

        Kernel: mm/vmalloc.c:791.
        """
        area = self.get_vm_area(size, _IOREMAP)
        end = area.addr + area.size & self.word_mask
        if area.addr >= end:
            self.log.bug("addr >= end", "apply_to_page_range")
        if not self.init_mm.populate(area.addr, end):
            failure = OutOfMemory("table", f"no page table for the area at {area.addr:#x}", self.log.lines())
            self.free_vm_area(area)
            try:
                raise failure
            finally:
                del failure  # a frame that kept it would keep the kernel, in a cycle
        self.vmalloc_sync_all()
        return area

    @mutating
    def free_vm_area(self, area: VmStruct) -> None:
        """Release an area got by alloc_vm_area() or get_vm_area() (mm/vmalloc.c:817).

        Raises:
            KernelBug: it is not the first on the list at its address (C: ``BUG_ON(ret != area)``).
        """
        removed = self._take_off_list(area.addr)
        if removed is not area:
            self.log.bug("ret != area", "free_vm_area")
        self.allocators.kfree(area.handle)

    @mutating
    def vmalloc_sync_all(self) -> None:
        """Call the symbol, which is weak (mm/vmalloc.c:769)."""
        self.symbols.vmalloc_sync_all()

    # ---- mm/memory.c, beside them

    def vmalloc_to_pfn(self, addr: int) -> int | None:
        """Return the frame a kernel address maps to, or None if it is not present (mm/memory.c)."""
        return self.init_mm.frame(addr)

    def vmalloc_to_page(self, addr: int) -> int | None:
        """Return the page a kernel address maps to. Pages are their frame numbers here (mm/memory.c)."""
        return self.init_mm.frame(addr)
