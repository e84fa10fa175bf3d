"""Make one allocation of a trace on this machine, as the kind of its window and of its area is made there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from attrs import define, field, frozen

from vmcore.errors import (
    InvalidSize,
    KernelBug,
    KernelDead,
    KernelFailure,
    KernelOops,
    OutOfMemory,
    OutOfVmallocSpace,
    TraceError,
)
from vmcore.flags import ANY_NODE, GFP, GFP_KERNEL, VM
from vmcore.kernel import Kernel
from vmcore.placement.arealist import VmStruct
from vmcore.texts.trace import ALLOC, FREE, Trace
from vmcore.texts.vmallocinfo import VmallocinfoEntry
from vmcore.wording import counted

DEADLY: Final = (KernelBug, KernelOops, KernelDead)  #: errors that end a kernel
BACKINGS: Final = ("frames", "ioremap", "stand_in", "vmap")  #: the pages that can be behind an area
_IOREMAP, _ALLOC, _VMAP = int(VM.IOREMAP), int(VM.ALLOC), int(VM.MAP)
_HIGHUSER: Final = GFP_KERNEL | int(GFP.HIGHMEM)
_MAPPED: Final = frozenset(("ioremap", "vmap", "dma-coherent", "vm_map_ram"))  # their pages are not vmalloc's


class _Refused(KernelFailure):
    """A request that the port does not take, or an area that it returns outside its window."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@frozen
class Route:
    """Arguments for allocations in one kind of window on this machine.

    Attributes:
        window: "vmalloc" or "modules".
        start: First address searched.
        end: End as the search takes it.
        limit: First address behind the window; an ``end`` that is the last byte is one less.
        gfp: Flags for the pages.
        prot: Protection of the mapping.
        limited: Whether num_physpages limits the size, as in __vmalloc_node() and vmap().
    """

    window: str
    start: int
    end: int
    limit: int
    gfp: int
    prot: int
    limited: bool


def routes(kernel: Kernel) -> tuple[Route, Route]:
    """Return the routes of the vmalloc window and of module windows."""
    layout, executable = kernel.layout, kernel.protection("PAGE_KERNEL_EXEC")
    start, end = layout.vmalloc_start, layout.vmalloc_end
    limit = end + (end & 1)
    vmalloc = Route("vmalloc", start, end, limit, _HIGHUSER, kernel.page_kernel, limited=True)
    if layout.modules is None:  # module_alloc() is vmalloc_exec()
        return vmalloc, Route("vmalloc", start, end, limit, _HIGHUSER, executable, limited=True)
    start, end = layout.modules.start, layout.modules.end
    return vmalloc, Route("modules", start, end, end + (end & 1), GFP_KERNEL, executable, limited=False)


@define(eq=False)
class Requests:
    """Make allocations on a kernel.

    Attributes:
        kernel: The machine.
        given: Line of an allocation to the vmallocinfo entry of an area that owns no pages.
        backing: Areas made so far, by `BACKINGS`.
    """

    kernel: Kernel
    given: dict[int, VmallocinfoEntry]
    backing: Counter[str] = field(factory=Counter)

    def make(self, line: int, asked: int, size: int, align: int, route: Route) -> VmStruct:
        """Make an area with its pages, by the calls that its kind needs.

        Raises:
            KernelFailure: The allocation failed; nothing of it is left.
        """
        kernel = self.kernel
        if not asked:
            raise InvalidSize(asked)
        if size > kernel.arch.word_mask:
            raise _Refused("size", f"{size:#x} bytes do not fit an unsigned long of {kernel.arch.word_bits} bits")
        entry = self.given.get(line)
        flags = _ALLOC if entry is None else _IOREMAP if "ioremap" in entry.kinds else _VMAP
        if route.limited and flags != _IOREMAP:
            kernel.check_num_physpages((size >> kernel.arch.page_shift) - 1)
        area = self._reserve(asked, flags, align, route)
        if entry is None:
            kernel.raw_vmalloc_area_node(area, route.gfp, route.prot, ANY_NODE, page_array_on_list=False)
            self.backing["frames"] += 1
        else:
            self._map(area, entry)
        return area

    def _reserve(self, asked: int, flags: int, align: int, route: Route) -> VmStruct:
        """Get an area, and remove it again if it lies outside its window: the C code looks at ``end`` too late."""
        kernel = self.kernel
        area = kernel.raw_get_vm_area_node(asked, flags, route.start, route.end, ANY_NODE, route.gfp, align)
        if route.start <= area.addr and area.addr + area.size <= route.limit:
            return area
        # An area that wraps cannot be unmapped (BUG_ON), and nothing is mapped yet.
        with kernel.lock_vmlist():
            kernel.vmlist.remove(area)
            if kernel.events.area_removed is not None:
                kernel.events.area_removed(address=area.addr, size=area.size, flags=area.flags)
        kernel.kfree(area.handle)
        found = f"{area.addr:#x}..{area.addr + area.size:#x}"
        raise _Refused(
            "end", f"the first hole found is {found}, beyond the window {route.start:#x}..{route.end:#x}"
        )

    def _map(self, area: VmStruct, entry: VmallocinfoEntry) -> None:
        """Map an area that owns no pages to the physical addresses given, or to the first frame of RAM."""
        kernel, arch = self.kernel, self.kernel.arch
        count = area.size - arch.page_size >> arch.page_shift
        prot, frames = kernel.page_kernel, np.full(count, kernel.layout.banks[0].start >> arch.page_shift)
        kind = "vmap"
        if area.flags == _IOREMAP:
            kind, prot = "stand_in", _ioremap_protection(kernel)
            if entry.phys is not None and entry.phys + area.size - arch.page_size <= arch.levels[-1].physical_end:
                kind, area.phys_addr = "ioremap", entry.phys
                frames = (entry.phys >> arch.page_shift) + np.arange(count)
        try:
            kernel.map_vm_area(area, prot, frames)
        except OutOfMemory:
            kernel.vunmap(area.addr)
            raise
        self.backing[kind] += 1


def _ioremap_protection(kernel: Kernel) -> int:
    named = any(name == "IOREMAP" for name, _ in kernel.arch.protections)
    return kernel.protection("IOREMAP") if named else kernel.page_kernel


def reason_of(error: KernelFailure) -> str:
    """Return which of `vmcore.replay.result.REASONS` a failure is."""
    if isinstance(error, _Refused):
        return error.reason
    if isinstance(error, OutOfMemory):
        return error.what
    if isinstance(error, DEADLY):
        return "bug"
    return {OutOfVmallocSpace: "space", InvalidSize: "size"}[type(error)]


# ---- areas of vmallocinfo


def _live_at_end(trace: Trace) -> dict[int, tuple[int, int]]:
    """Return address to (line, size) of every area that the traced kernel still holds at the end."""
    live: dict[int, tuple[int, int]] = {}
    for line, kind, addr, size, _, _, failed, _ in trace.events:
        if kind == ALLOC and not failed:
            live[addr] = line, size
        elif kind == FREE:
            live.pop(addr, None)
    return live


_OTHER_BOOT: Final = "read both on the same boot, /proc/vmallocinfo right after the trace"


def join(trace: Trace, entries: Sequence[VmallocinfoEntry]) -> tuple[dict[int, VmallocinfoEntry], list[str]]:
    """Find the allocations of areas that own no pages.

    Returns:
        Line of the allocation to its entry, and sentences for people about the join.

    Raises:
        TraceError: Fewer than half of the live areas are in both, as with files of two boots.
    """
    live, known = _live_at_end(trace), {entry.start: entry for entry in entries}
    both = {addr: line for addr, (line, size) in live.items() if addr in known and known[addr].size == size}
    if 2 * len(both) < len(live):
        areas = counted(len(live), "area")
        found = f"{len(both):,} of {areas} live at its end found in vmallocinfo by address and size"
        raise TraceError(trace.file, None, f"{found}, expected {-(-len(live) // 2)} or more; {_OTHER_BOOT}")
    given = {line: known[addr] for addr, line in both.items() if known[addr].kinds & _MAPPED}
    said = [
        f"vmallocinfo: it has {len(both):,} of {counted(len(live), 'area')} live at the end; the others, and all "
        "that were freed, are taken to be vmalloc's own, with page frames"
    ]
    if older := len(known) - len(both):
        said.append(f"vmallocinfo: areas not in the trace (older, or of percpu) are left out: {older}")
    return given, said
