"""What a replay found, as a record and as the object that ``vmcore replay --json`` writes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, field, frozen

from vmcore.coherence import checker as coherence

if TYPE_CHECKING:
    from vmcore.kernel import Kernel
    from vmcore.texts.trace import Trace

SCHEMA: Final = 1  #: of `Report.to_dict`; docs/replay.md lists its keys
#: Reasons of a `Failure`, and what they say of the window, RAM or request.
REASONS: Final = {
    "space": "no hole fits",
    "end": "the first hole found ends beyond the window",
    "size": "the size is none this machine can be asked for",
    "num_physpages": "more pages than the machine has",
    "page": "out of page frames",
    "table": "out of page frames for page tables",
    "kmalloc": "out of small objects",
    "bug": "the kernel died",
}
#: Keys of `Events.skipped`, and the names of one and of several of what they count.
SKIPPED: Final = {
    "failed_on_source": (
        "allocation that failed on the traced kernel",
        "allocations that failed on the traced kernel",
    ),
    "failed_here": ("free of an allocation that failed here", "frees of allocations that failed here"),
    "unknown_address": ("free of an address nobody held", "frees of addresses nobody held"),
    "not_reached": ("event after the end of the replay", "events after the end of the replay"),
}


@frozen(kw_only=True)
class Space:
    """Hold the state of the space after one event.

    Attributes:
        line: Line of the event in the trace.
        areas: Live areas of the trace, in every window.
        bytes: Sum of their sizes on this machine, guard pages included.
        free: Bytes of [VMALLOC_START, VMALLOC_END) that no area covers.
        largest_hole: Bytes of the longest run of them.
        fragmentation: 1 - largest hole / free bytes; 0 where nothing is free.
    """

    line: int
    areas: int
    bytes: int
    free: int
    largest_hole: int
    fragmentation: float


@frozen(kw_only=True)
class Failure(Space):
    """Hold an allocation that failed, and the state of the space then; the area is not in it.

    Attributes:
        free: Of the window searched, as are the two below.
        largest_hole: Of the window searched.
        fragmentation: Of the window searched.
        window: The window searched: "vmalloc" or "modules".
        size: Bytes asked for, guard page included.
        align: Bytes, as the trace has it.
        reason: One of `REASONS`.
        message: What the port said.
    """

    window: str
    size: int
    align: int
    reason: str
    message: str


@frozen(kw_only=True)
class Events:
    """Count events; ``read`` is the sum of the others.

    Attributes:
        read: Vmalloc events in the trace.
        alloc: Allocations replayed, those that failed here included.
        free: Frees replayed.
        purge: Purges; nothing is done, since this kernel unmaps at once.
        skipped: Number of events not replayed, by keys of `SKIPPED`.
    """

    read: int
    alloc: int
    free: int
    purge: int
    skipped: dict[str, int]


@frozen(kw_only=True)
class Coherence:
    """Hold what the coherence checker found.

    Attributes:
        touched: Areas whose first and last page were loaded from and stored to.
        reports: Oldest first.
        repeated: How many more there were of the same.
    """

    touched: int
    reports: tuple[coherence.Report, ...]
    repeated: int


@frozen(kw_only=True)
class Report:
    """Hold what a replay found. docs/replay.md says what each figure means.

    Attributes:
        source: What was read.
        arch: Name of the architecture replayed on.
        layout: Its windows and RAM.
        events: Counts of events.
        peak: The space when the live areas were largest, in bytes, for the first time.
        end: The space after the last event.
        most_areas: ``line`` and ``areas`` when they were most, for the first time.
        demand: ``line`` and ``bytes`` when the traced kernel held most, what failed here included.
        samples: (line, areas, bytes) where the bytes were highest in each of up to 200 stretches of the trace.
        tables: Page-table pages made, by level.
        flushes: Flush symbol to ``calls`` and ``pages`` in their ranges.
        nodes_visited: List nodes the C code would have looked at.
        capped_alignments: Allocations whose alignment was cut to 1 << IOREMAP_MAX_ORDER.
        backing: Areas made, by what is behind them: "frames", "ioremap", "stand_in" or "vmap".
        assumptions: What was assumed where the trace does not say, one sentence each.
        failures: All allocations that failed, in order.
        stopped: Why the replay ended early; None: it did not.
        seconds: What it took.
        coherence: What the checker found; None: the kernel has none.
    """

    source: dict[str, Any]
    arch: str
    layout: dict[str, Any]
    events: Events
    peak: Space
    end: Space
    most_areas: dict[str, int]
    demand: dict[str, int]
    samples: list[tuple[int, int, int]] = field(repr=False)
    tables: dict[str, int]
    flushes: dict[str, dict[str, int]]
    nodes_visited: int
    capped_alignments: int
    backing: dict[str, int]
    assumptions: list[str]
    failures: list[Failure] = field(repr=False)
    stopped: str | None
    seconds: float
    coherence: Coherence | None

    @property
    def rate(self) -> float:
        """Allocations and frees replayed per second."""
        return (self.events.alloc + self.events.free) / self.seconds if self.seconds else 0.0

    def failures_by_reason(self) -> dict[str, int]:
        """Return how many allocations failed for each reason, most first."""
        return dict(Counter(failure.reason for failure in self.failures).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Return the object of ``--json``: numbers, strings, lists and objects only."""
        facts = asdict(self)
        facts["samples"] = [list(sample) for sample in self.samples]
        if self.coherence is not None:
            facts["coherence"]["reports"] = [report.to_dict() for report in self.coherence.reports]
        return {"schema": SCHEMA, **facts, "rate": self.rate}


# ---- facts of what goes in


def flush_counts(kernel: Kernel) -> dict[str, dict[str, int]]:
    """Return calls of each flush symbol so far, and pages in their ranges."""
    return {name: {"calls": n.calls, "pages": n.pages} for name, n in kernel.flush_counts.items()}


def describe_source(trace: Trace) -> dict[str, Any]:
    """Return `Report.source`."""
    kept, written = trace.entries or (0, 0)
    return {
        "file": trace.file,
        "lines": trace.lines,
        "page_size": trace.page_size,
        "windows": [_window(start, end) for start, end in trace.windows],
        "overwritten": written - kept,
        "lost": trace.lost,
        "lost_lines": list(trace.lost_lines),
        "foreign": dict(trace.foreign),
    }


def describe_layout(kernel: Kernel) -> dict[str, Any]:
    """Return `Report.layout`."""
    layout, modules = kernel.layout, kernel.layout.modules
    return {
        "vmalloc": _window(layout.vmalloc_start, layout.vmalloc_end),
        "modules": None if modules is None else _window(modules.start, modules.end),
        "ram": sum(bank.size for bank in layout.banks),
        "page_size": kernel.arch.page_size,
        "notes": [note.strip() for note in layout.notes],
    }


def _window(start: int, end: int) -> dict[str, Any]:
    return {"start": hex(start), "end": hex(end), "size": end - start}
