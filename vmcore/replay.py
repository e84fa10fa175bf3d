"""Replay the vmalloc events of a traced kernel on another: what fits, where it ends, what it costs.

The rules, and what is assumed where a trace says nothing, are in docs/replay.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from time import perf_counter
from typing import Any, Final

import numpy as np
from attrs import define, field, frozen

from vmcore.arealist import VmStruct
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
from vmcore.procfs import VmallocinfoEntry
from vmcore.replay_report import (
    Events,
    Failure,
    Report,
    Space,
    describe_layout,
    describe_source,
    flush_counts,
)
from vmcore.trace import ALLOC, FREE, Trace
from vmcore.units import format_size

SAMPLES: Final = 200  #: stretches that the live areas over time are cut into
_IOREMAP, _ALLOC, _MAP = int(VM.IOREMAP), int(VM.ALLOC), int(VM.MAP)
_HIGHUSER: Final = GFP_KERNEL | int(GFP.HIGHMEM)
_MAPPED: Final = frozenset(("ioremap", "vmap", "dma-coherent", "vm_map_ram"))  # their pages are somebody else's
_DEADLY: Final = (KernelBug, KernelOops, KernelDead)

Progress = Callable[[int, int], object]


class _Refused(KernelFailure):
    """A request the port cannot be asked, or an answer of it that is no success."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@frozen
class _Route:
    """How the allocations of one kind of window are made on this machine.

    Attributes:
        window: where: "vmalloc" or "modules".
        start: first address searched.
        end: what the search is given as its end.
        limit: first address behind the window; an ``end`` that is the last byte is one less.
        gfp: of the pages.
        prot: of the mapping.
        limited: whether num_physpages is looked at, as __vmalloc_node() does.
    """

    window: str
    start: int
    end: int
    limit: int
    gfp: int
    prot: int
    limited: bool


def _routes(kernel: Kernel) -> tuple[_Route, _Route]:
    """Return the routes of the vmalloc window and of module windows."""
    layout, executable = kernel.layout, kernel.protection("PAGE_KERNEL_EXEC")
    start, end = layout.vmalloc_start, layout.vmalloc_end
    limit = end + (end & 1)
    vmalloc = _Route("vmalloc", start, end, limit, _HIGHUSER, kernel.page_kernel, limited=True)
    if layout.modules is None:  # module_alloc() is vmalloc_exec()
        return vmalloc, _Route("vmalloc", start, end, limit, _HIGHUSER, executable, limited=True)
    start, end = layout.modules.start, layout.modules.end
    return vmalloc, _Route("modules", start, end, end + (end & 1), GFP_KERNEL, executable, limited=False)


@define(eq=False)
class _Replay:
    """One replay: the machine, what lives on it, and what is counted."""

    trace: Trace
    kernel: Kernel
    given: dict[int, VmallocinfoEntry]
    stop: bool
    routes: tuple[_Route, _Route] = field(init=False)
    #: address in the trace to the area here (None: it failed) and its size, guard page included
    live: dict[int, tuple[VmStruct | None, int]] = field(factory=dict)
    areas: int = 0
    bytes: int = 0
    wanted: int = 0
    line: int = 0
    peak: Space = field(init=False)
    at_peak: tuple[int, int, int] | None = None  # its figures, while the holes are those of the peak
    peak_bytes: int = 0
    most_areas: tuple[int, int] = (0, 0)
    demand: tuple[int, int] = (0, 0)
    highest: tuple[int, int, int] = (0, 0, 0)  # bytes, areas, line of this stretch
    samples: list[tuple[int, int, int]] = field(factory=list)
    counts: Counter[str] = field(factory=Counter)
    skipped: Counter[str] = field(factory=Counter)
    backing: Counter[str] = field(factory=Counter)
    failures: list[Failure] = field(factory=list)
    stopped: str | None = None

    def __attrs_post_init__(self) -> None:
        self.routes = _routes(self.kernel)
        self.peak = self.space()

    # ---- the space

    def space(self) -> Space:
        """Measure the space as it is."""
        return Space(line=self.line, areas=self.areas, bytes=self.bytes, **self._holes(self.routes[0]))

    def _holes(self, route: _Route) -> dict[str, Any]:
        areas = self.kernel.vmlist
        free, hole = areas.free_bytes(route.start, route.end), areas.largest_hole(route.start, route.end)
        return {"free": free, "largest_hole": hole, "fragmentation": 1 - hole / free if free else 0.0}

    def leave_peak(self) -> None:
        """Measure the peak, as long as the areas are those of it."""
        if self.at_peak is not None:
            line, areas, size = self.at_peak
            self.peak = Space(line=line, areas=areas, bytes=size, **self._holes(self.routes[0]))
            self.at_peak = None

    # ---- events

    def run(self, progress: Progress | None) -> None:
        """Replay all events, or up to the one that ends it."""
        rows, total = iter(self.trace.events), len(self.trace.events)
        every, done = max(1, -(-total // SAMPLES)), 0
        while done < total and self.stopped is None:
            done += self._stretch(rows, every)
            bytes_, areas, line = self.highest
            self.samples.append((line, areas, bytes_))
            if progress is not None:
                progress(done, total)
        self.leave_peak()
        if done < total:
            self.skipped["not_reached"] = total - done

    def _stretch(self, rows: Iterator[tuple[int, ...]], count: int) -> int:
        """Replay up to ``count`` events; return how many."""
        done, self.highest = 0, (-1, 0, 0)
        for line, kind, addr, size, align, window, failed, _ in islice(rows, count):
            done, self.line = done + 1, line
            if kind == ALLOC:
                if failed:
                    self.skipped["failed_on_source"] += 1
                else:
                    self._alloc(addr, size, align, self.routes[window > 0])
            elif kind == FREE:
                self._free(addr)
            else:
                self.counts["purge"] += 1
            if self.bytes > self.highest[0]:
                self.highest = self.bytes, self.areas, line
            if self.stopped is not None:
                break
        return done

    def _free(self, addr: int) -> None:
        area, size = self.live.pop(addr, (None, 0))
        self.wanted -= size
        if area is None:
            self.skipped["failed_here" if size else "unknown_address"] += 1
            return
        if self.at_peak is not None:
            self.leave_peak()
        self.counts["free"] += 1
        self.areas -= 1
        self.bytes -= size
        self.kernel.vfree(area.addr)

    def _alloc(self, addr: int, size: int, align: int, route: _Route) -> None:
        page = self.kernel.arch.page_size
        asked = size - self.trace.page_size
        size = (asked + page - 1 & -page) + page
        self.counts["alloc"] += 1
        self.wanted += size
        if self.wanted > self.demand[1]:
            self.demand = self.line, self.wanted
        if align > 1 << self.kernel.arch.ioremap_max_order:
            self.counts["capped"] += 1
        try:
            area = self._place(asked, size, align, route)
        except KernelFailure as error:
            self.live[addr] = None, size
            self._failed(error, size, align, route)
            return
        self.live[addr] = area, size
        self.areas += 1
        self.bytes += size
        if self.bytes > self.peak_bytes:
            self.peak_bytes = self.bytes
            self.at_peak = self.line, self.areas, self.bytes
        if self.areas > self.most_areas[1]:
            self.most_areas = self.line, self.areas

    def _failed(self, error: KernelFailure, size: int, align: int, route: _Route) -> None:
        self.failures.append(
            Failure(line=self.line, areas=self.areas, bytes=self.bytes, **self._holes(route), window=route.window,
                    size=size, align=align, reason=_reason(error), message=str(error))
        )  # fmt: skip
        if isinstance(error, _DEADLY):
            self.stopped = f"line {self.line}: {error}"
        elif self.stop:
            self.stopped = f"line {self.line}: the first failure"

    # ---- one allocation

    def _place(self, asked: int, size: int, align: int, route: _Route) -> VmStruct:
        """Make an area with its pages, as its kind is made.

        Raises:
            KernelFailure: it failed; nothing of it is left.
        """
        kernel = self.kernel
        if not asked:
            raise InvalidSize(asked)
        if size > kernel.arch.word_mask:
            raise _Refused("size", f"{size:#x} bytes do not fit an unsigned long of {kernel.arch.word_bits} bits")
        if route.limited:
            kernel._limit(size - 1 >> kernel.arch.page_shift)
        entry = self.given.get(self.line)
        if entry is None:
            area = self._reserve(asked, _ALLOC, align, route)
            kernel._vmalloc_area_node(area, route.gfp, route.prot, ANY_NODE, page_array_on_list=False)
            self.backing["frames"] += 1
            return area
        flags = _IOREMAP if "ioremap" in entry.kinds else _MAP
        area = self._reserve(asked, flags, align, route)
        self._map(area, entry)
        return area

    def _reserve(self, asked: int, flags: int, align: int, route: _Route) -> VmStruct:
        """Get an area inside its window: where the C looks at ``end`` too late, take it back."""
        kernel = self.kernel
        area = kernel._get_vm_area_node(asked, flags, route.start, route.end, ANY_NODE, route.gfp, align)
        if route.start <= area.addr and area.addr + area.size <= route.limit:
            return area
        # An area that wraps cannot be unmapped (BUG_ON), and nothing is mapped yet.
        with kernel.vmlist_lock:
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
            kind, prot = "ioremap", _ioremap_protection(kernel)
            if entry.phys is not None and entry.phys + area.size <= _physical_end(kernel):
                area.phys_addr = entry.phys
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


def _physical_end(kernel: Kernel) -> int:
    """Return the first physical address that last-level entries cannot name."""
    return 1 << max(segment.address_bit + segment.width for segment in kernel.arch.levels[-1].frame)


def _reason(error: KernelFailure) -> str:
    """Return which of `vmcore.replay_report.REASONS` a failure is."""
    if isinstance(error, _Refused):
        return error.reason
    if isinstance(error, OutOfMemory):
        return error.what
    if isinstance(error, _DEADLY):
        return "bug"
    return {OutOfVmallocSpace: "space", InvalidSize: "size"}[type(error)]


# ---- what vmallocinfo knows


def _live_at_end(trace: Trace) -> dict[int, tuple[int, int]]:
    """Return address to (line, size) of every area that the traced kernel still holds at the end."""
    live: dict[int, tuple[int, int]] = {}
    for line, kind, addr, size, _, _, failed, _ in trace.events:
        if kind == ALLOC and not failed:
            live[addr] = line, size
        elif kind == FREE:
            live.pop(addr, None)
    return live


def _join(trace: Trace, entries: Sequence[VmallocinfoEntry]) -> tuple[dict[int, VmallocinfoEntry], list[str]]:
    """Find the allocations of areas that own no pages.

    Returns:
        Line of the allocation to its entry, and what is to be said of the join.

    Raises:
        TraceError: not one area is in both: they are of two boots.
    """
    live, known = _live_at_end(trace), {entry.start: entry for entry in entries}
    both = {addr: line for addr, (line, size) in live.items() if addr in known and known[addr].size == size}
    if live and not both:
        expected = "expected the text read on the same boot, after the trace"
        raise TraceError(trace.file, None, f"none of its {len(live)} last areas is in vmallocinfo, {expected}")
    given = {line: known[addr] for addr, line in both.items() if known[addr].kinds & _MAPPED}
    said = [
        f"vmallocinfo: {len(both)} of the {len(live)} areas live at the end are in it; the others, and all "
        "that were freed, are taken to be vmalloc's own, with page frames"
    ]
    if older := len(known) - len(both):
        said.append(f"vmallocinfo: {older} areas are not in the trace (older, or of percpu) and are left out")
    return given, said


def _assumptions(run: _Replay, said: list[str]) -> list[str]:
    trace, arch, modules = run.trace, run.kernel.arch, len(run.trace.windows) > 1
    size = format_size(trace.page_size)
    said = [
        f"sizes asked for: those of the trace less one guard page of {size}; here in pages of "
        f"{format_size(arch.page_size)}",
        *(said or ["no vmallocinfo: every area is taken to be vmalloc's own, with page frames"]),
        "page arrays of large areas: events of the trace; the model's own stay off the list",
    ]
    if run.backing["vmap"]:
        said.append("vmap: every page is the first page frame of RAM")
    if modules and run.kernel.layout.modules is None:
        said.append("modules: this architecture has no window for them, they are in vmalloc's (vmalloc_exec)")
    return said


# ---- the job


def replay(
    trace: Trace,
    kernel: Kernel,
    *,
    stop: bool = False,
    vmallocinfo: Sequence[VmallocinfoEntry] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Replay a trace on a kernel.

    A failure is noted and the replay goes on; the free of what failed is skipped.

    Args:
        trace: Checked, see `vmcore.trace.read_trace`.
        kernel: Fresh; the areas live at the end of the trace stay on it.
        stop: End at the first failure.
        vmallocinfo: /proc/vmallocinfo of the traced kernel, read after the trace: areas of ioremap and vmap
            that live at the end are mapped without page frames of their own.
        progress: Called up to `SAMPLES` times with the events done and all there are.

    Returns:
        What was found.

    Raises:
        TraceError: ``vmallocinfo`` is not of this trace.
    """
    given, said = _join(trace, vmallocinfo) if vmallocinfo is not None else ({}, [])
    run = _Replay(trace, kernel, given, stop)
    tables, nodes = dict(kernel.init_mm.tables), kernel.vmlist.nodes_visited
    before = flush_counts(kernel)
    started = perf_counter()
    run.run(progress)
    seconds = perf_counter() - started
    return Report(
        source=describe_source(trace),
        arch=kernel.arch.name,
        layout=describe_layout(kernel),
        events=Events(
            read=len(trace.events),
            alloc=run.counts["alloc"],
            free=run.counts["free"],
            purge=run.counts["purge"],
            skipped=dict(run.skipped),
        ),
        peak=run.peak,
        end=run.space(),
        most_areas=dict(zip(("line", "areas"), run.most_areas, strict=True)),
        demand=dict(zip(("line", "bytes"), run.demand, strict=True)),
        samples=run.samples,
        tables={level: n - tables[level] for level, n in kernel.init_mm.tables.items()},
        flushes={
            name: {key: n - before[name][key] for key, n in of.items()}
            for name, of in flush_counts(kernel).items()
        },
        nodes_visited=kernel.vmlist.nodes_visited - nodes,
        capped_alignments=run.counts["capped"],
        backing=dict(run.backing),
        assumptions=_assumptions(run, said),
        failures=run.failures,
        stopped=run.stopped,
        seconds=seconds,
    )
