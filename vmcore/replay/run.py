"""Replay the vmalloc events of a traced kernel on another kernel, and count failures and costs.

docs/replay.md has the rules, and the assumptions where a trace says nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from time import perf_counter
from typing import Any, Final

import numpy as np
from attrs import define, field

from vmcore.architecture import LayoutRequest
from vmcore.cpu.cpu import Cpu
from vmcore.errors import KernelFailure, PageFault
from vmcore.kernel import Kernel
from vmcore.placement.arealist import VmStruct
from vmcore.replay.requests import BACKINGS, DEADLY, Requests, Route, join, reason_of, routes
from vmcore.replay.result import (
    Coherence,
    EventCounts,
    Failure,
    ReplayResult,
    Space,
    describe_layout,
    describe_source,
    flush_counts,
)
from vmcore.replay.window import LargerWindow, find_larger_window
from vmcore.texts.trace import ALLOC, FREE, Trace
from vmcore.texts.vmallocinfo import VmallocinfoEntry
from vmcore.units import format_size
from vmcore.wording import counted

SAMPLES: Final = 200  #: stretches that the live areas over time are cut into

Progress = Callable[[int, int], object]


@define(eq=False)
class _Replay:
    """A replay under way: the machine, the areas that live on it, and the counts."""

    trace: Trace
    kernel: Kernel
    requests: Requests
    stop: bool
    routes: tuple[Route, Route] = field(init=False)
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
    failures: list[Failure] = field(factory=list)
    stopped: str | None = None

    def __attrs_post_init__(self) -> None:
        self.routes = routes(self.kernel)
        self.peak = self.space()

    # ---- the space

    def space(self) -> Space:
        """Measure the space as it is."""
        return Space(line=self.line, areas=self.areas, bytes=self.bytes, **self._holes(self.routes[0]))

    def _holes(self, route: Route) -> dict[str, Any]:
        areas = self.kernel.vmlist
        free, hole = areas.free_bytes(route.start, route.end), areas.largest_hole(route.start, route.end)
        return {"free": free, "largest_hole": hole, "fragmentation": 1 - hole / free if free else 0.0}

    def leave_peak(self) -> None:
        """Measure the holes at the peak before its areas change."""
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
        """Replay up to ``count`` events, and return how many were replayed."""
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

    def _alloc(self, addr: int, size: int, align: int, route: Route) -> None:
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
            area = self.requests.make(self.line, asked, size, align, route)
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

    def _failed(self, error: KernelFailure, size: int, align: int, route: Route) -> None:
        self.failures.append(
            Failure(line=self.line, areas=self.areas, bytes=self.bytes, **self._holes(route), window=route.window,
                    size=size, align=align, reason=reason_of(error), message=str(error))
        )  # fmt: skip
        if isinstance(error, DEADLY):
            self.stopped = f"line {self.line}: {error}"
        elif self.stop:
            self.stopped = f"line {self.line}: the first failure"

    def found(self) -> Coherence | None:
        """Return the findings of the coherence checker, or None if the kernel has no checker."""
        return None


@define(eq=False)
class _Checked(_Replay):
    """A replay under the coherence checker: events run on the CPUs of the trace, and areas are touched."""

    touched: int = 0
    _cpus: dict[int, int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        events, count = self.trace.events, len(self.kernel.cpus)
        self._cpus = {line: max(0, cpu) % count for line, cpu in zip(events.line, events.cpu, strict=True)}

    def _alloc(self, addr: int, size: int, align: int, route: Route) -> None:
        with self.kernel.on_cpu(self._cpus[self.line]) as cpu:
            super()._alloc(addr, size, align, route)
            area, _ = self.live[addr]
            if area is not None and area.pages is not None:
                self._touch(cpu, area)

    def _free(self, addr: int) -> None:
        with self.kernel.on_cpu(self._cpus[self.line]):
            super()._free(addr)

    def _touch(self, cpu: Cpu, area: VmStruct) -> None:
        """Load from, store to and load from the first and the last page of an area.

        Each store has bytes of its own (event, page number), because an old copy of equal bytes is not stale.
        """
        page = self.kernel.page_size
        for at in sorted({area.addr, area.addr + area.size - 2 * page}):
            halves = np.array([self.line & 0xFFFF_FFFF, at // page & 0xFFFF_FFFF], "<u4")
            with suppress(PageFault):  # the checker reports it where init_mm maps the page
                cpu.load(at, 8)
                cpu.store(at, halves.tobytes())
                cpu.load(at, 8)
        self.touched += 1

    def found(self) -> Coherence | None:
        """Return the findings of the checker."""
        checker = self.kernel.coherence
        assert checker is not None
        return Coherence(touched=self.touched, reports=tuple(checker.reports), repeated=checker.repeated)


def _assumptions(run: _Replay, said: list[str]) -> list[str]:
    trace, arch, modules = run.trace, run.kernel.arch, len(run.trace.windows) > 1
    size = format_size(trace.page_size)
    said = [
        f"sizes asked for: those of the trace less one guard page of {size}; here in pages of "
        f"{format_size(arch.page_size)}",
        *(said or ["no vmallocinfo: every area is taken to be vmalloc's own, with page frames"]),
        "page arrays of large areas: events of the trace; the model's own stay off the list",
    ]
    if run.requests.backing["vmap"]:
        said.append("vmap: every page is the first page frame of RAM")
    if n := run.requests.backing["stand_in"]:
        asked = counted(n + run.requests.backing["ioremap"], "physical address", "physical addresses")
        misfit = "does not fit this machine, or is" if n == 1 else "do not fit this machine, or are"
        said.append(f"ioremap: {n:,} of {asked} {misfit} not given; a stand-in frame, the first of RAM, is mapped")
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
    request: LayoutRequest | None = None,
    progress: Progress | None = None,
) -> ReplayResult:
    """Replay a trace on a kernel.

    The replay goes on after a failure, and skips the free of an area that failed. On a kernel with a coherence
    checker, events run on the CPUs of the trace (modulo the number of CPUs here), and the first and last page of
    each area with page frames of its own are loaded from and stored to.

    Args:
        trace: Checked, see `vmcore.texts.trace.read_trace`.
        kernel: Fresh; the areas live at the end of the trace stay on it.
        stop: End at the first failure.
        vmallocinfo: /proc/vmallocinfo of the traced kernel, read after the trace: areas of ioremap and vmap
            that live at the end are mapped without page frames of their own.
        request: The request that the kernel was laid out for. Where areas do not fit into its vmalloc window, the
            replay then looks for a larger ``vmalloc=``.
        progress: Called up to `SAMPLES` times with the number of events done and of all events.

    Raises:
        TraceError: ``vmallocinfo`` is not of this trace.
    """
    given, said = join(trace, vmallocinfo) if vmallocinfo is not None else ({}, [])
    kind = _Replay if kernel.coherence is None else _Checked
    run = kind(trace, kernel, Requests(kernel, given), stop)
    before = _costs(kernel)
    started = perf_counter()
    run.run(progress)
    seconds = perf_counter() - started
    return ReplayResult(
        source=describe_source(trace),
        arch=kernel.arch.name,
        layout=describe_layout(kernel),
        events=EventCounts(
            read=len(trace.events),
            skipped=dict(run.skipped),
            **{name: run.counts[name] for name in ("alloc", "free", "purge")},
        ),
        peak=run.peak,
        end=run.space(),
        most_areas=dict(zip(("line", "areas"), run.most_areas, strict=True)),
        demand=dict(zip(("line", "bytes"), run.demand, strict=True)),
        samples=run.samples,
        **_since(before, _costs(kernel)),
        capped_alignments=run.counts["capped"],
        backing={kind: run.requests.backing[kind] for kind in BACKINGS},
        assumptions=_assumptions(run, said),
        failures=run.failures,
        stopped=run.stopped,
        larger_window=_larger_window(run, request),
        seconds=seconds,
        coherence=run.found(),
    )


def _costs(kernel: Kernel) -> dict[str, Any]:
    """Return the counts of a kernel that a replay reports, so far."""
    return {
        "tables": dict(kernel.init_mm.tables),
        "flushes": flush_counts(kernel),
        "nodes_visited": kernel.vmlist.nodes_visited,
    }


def _since(before: Any, after: Any) -> Any:
    """Subtract counts of the same keys."""
    if isinstance(after, dict):
        return {key: _since(before[key], value) for key, value in after.items()}
    return after - before


def _larger_window(run: _Replay, request: LayoutRequest | None) -> LargerWindow | None:
    """Look for a larger vmalloc= where the vmalloc window was too small."""
    small = any(failure.reason in ("space", "end") and failure.window == "vmalloc" for failure in run.failures)
    if request is None or not small:
        return None
    size = run.kernel.layout.vmalloc.size
    return find_larger_window(run.kernel.arch, request, max(run.demand[1], size + 1))
