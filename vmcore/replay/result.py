"""The result of a replay, and the keys of its JSON object."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, field, frozen

from vmcore.coherence import report as coherence
from vmcore.coherence.facts import REPORT
from vmcore.facts import RANGE, Facts, Key, Schema, Shape, range_facts
from vmcore.replay.window import LARGER_WINDOW, LargerWindow

if TYPE_CHECKING:
    from vmcore.kernel import Kernel
    from vmcore.texts.trace import Trace

#: Reasons of a `Failure`, each with the words for people.
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
#: Keys of `EventCounts.skipped`, each with the words for one such event and for several.
SKIPPED: Final = {
    "failed_on_source": (
        "allocation that failed on the traced kernel",
        "allocations that failed on the traced kernel",
    ),
    "failed_here": ("free of an allocation that failed here", "frees of allocations that failed here"),
    "unknown_address": ("free of an address without an area", "frees of addresses without an area"),
    "not_reached": ("event after the end of the replay", "events after the end of the replay"),
}

# ---- the keys

_SOURCE = Shape(
    "trace",
    (
        Key("file", "string", "Name of the trace."),
        Key("lines", "number", "Lines of the text."),
        Key("page_size", "number", "Page of the traced kernel.", "bytes"),
        Key("windows", "list of object", "Windows searched there: vmalloc's first, then those of modules.",
            shape=RANGE),
        Key("overwritten", "number", "Events that the header counts as overwritten in the ring buffer.", "events"),
        Key("lost", "number", "Events lost while tracing, by the lines `LOST n EVENTS`.", "events"),
        Key("lost_lines", "list of number", "These lines.", "line"),
        Key("foreign", "map of number", "Lines of other events, by name of the event.", "lines"),
    ),
)  # fmt: skip
_LAYOUT = Shape(
    "layout of a replay",
    (
        Key("vmalloc", "object", "The vmalloc window.", shape=RANGE),
        Key("modules", "object or null", "The window of modules; null: there is none.", shape=RANGE),
        Key("ram", "number", "RAM in use.", "bytes"),
        Key("page_size", "number", "Page of the machine.", "bytes"),
        Key("notes", "list of string", "Lines of the log about RAM that is not used."),
    ),
)
_EVENTS = Shape(
    "counts of events",
    (
        Key("read", "number", "Vmalloc events in the trace: the sum of the other counts."),
        Key("alloc", "number", "Allocations replayed, those that failed here included."),
        Key("free", "number", "Frees replayed."),
        Key("purge", "number", "Purges."),
        Key("skipped", "map of number", "Events not replayed: `failed_on_source` (allocations that the traced "
            "kernel refused), `failed_here` (frees of allocations that failed here), `unknown_address` (frees of "
            "addresses without an area: percpu chunks, areas older than the trace, double frees), `not_reached` "
            "(events after the end of the replay)."),
    ),
)  # fmt: skip
_SPACE_KEYS = (
    Key("line", "number", "Line of the event in the trace.", "line"),
    Key("areas", "number", "Live areas in all windows, without one that failed."),
    Key("bytes", "number", "Their sizes on this machine, guard pages included.", "bytes"),
    Key("free", "number", "Bytes without an area in the vmalloc window (for a failure: in the window searched).",
        "bytes"),
    Key("largest_hole", "number", "Longest run of it.", "bytes"),
    Key("fragmentation", "number", "1 - largest_hole / free; 0 where nothing is free.", "0 to 1"),
)  # fmt: skip
_SPACE = Shape("state of the space", _SPACE_KEYS)
_FAILURE = Shape(
    "failed allocation",
    (
        *_SPACE_KEYS,
        Key("window", "string", 'Window searched: "vmalloc" or "modules".'),
        Key("size", "number", "Size asked for, guard page included.", "bytes"),
        Key("align", "number", "Alignment, as in the trace.", "bytes"),
        Key("reason", "string", f"{', '.join(f'`{reason}`' for reason in REASONS)}; see docs/replay.md."),
        Key("message", "string", "Message of the kernel, for people."),
    ),
)
_COHERENCE = Shape(
    "findings of --check",
    (
        Key("touched", "number", "Areas whose first and last page were loaded from and stored to."),
        Key("reports", "list of object", "The reports, oldest first.", shape=REPORT),
        Key("repeated", "number", "Further reports of the same kind, CPU, page and missing symbol."),
    ),
)
_LINE = Key("line", "number", "Line of the event in the trace.", "line")
_BACKING = Shape(
    "areas by backing",
    (
        Key("frames", "number", "Areas made with page frames of their own."),
        Key("ioremap", "number", "Areas of ioremap, with their physical addresses."),
        Key("stand_in", "number", "Areas of ioremap with a stand-in frame: the physical address does not fit this "
            "machine, or is not given."),
        Key("vmap", "number", "Areas made with pages that are not vmalloc's."),
    ),
)  # fmt: skip
SCHEMA: Final = Schema(
    "vmcore.replay/1",
    "vmcore replay",
    "A trace replayed on another machine. Lines are those of the decompressed trace, from 1.",
    (
        Key("source", "object", "The trace.", shape=_SOURCE),
        Key("arch", "string", "Architecture replayed on."),
        Key("layout", "object", "Windows and RAM of this machine.", shape=_LAYOUT),
        Key("events", "object", "Counts of events.", shape=_EVENTS),
        Key("peak", "object", "The space where the bytes of live areas were highest first.", shape=_SPACE),
        Key("end", "object", "The space after the last event.", shape=_SPACE),
        Key("most_areas", "object", "Where live areas were most first.", shape=Shape(
            "most areas", (_LINE, Key("areas", "number", "Live areas there.")))),
        Key("demand", "object", "Where the traced kernel held the most bytes.", shape=Shape(
            "demand", (_LINE, Key("bytes", "number", "Sizes on this machine, failures included.", "bytes")))),
        Key("samples", "list of list of number", "`[line, areas, bytes]` where the bytes were highest in each of "
            "up to 200 equal stretches of events."),
        Key("tables", "map of number", "Page-table pages made, by level.", "pages"),
        Key("flushes", "map of object", "Calls of flush symbols, by symbol.", shape=Shape(
            "calls of a flush symbol",
            (Key("calls", "number", "Calls."), Key("pages", "number", "Pages in their ranges.", "pages")))),
        Key("nodes_visited", "number", "List nodes that the C code would have looked at."),
        Key("capped_alignments", "number", "Allocations whose alignment was cut to 1 << IOREMAP_MAX_ORDER."),
        Key("backing", "object", "Areas made, by the pages behind them.", shape=_BACKING),
        Key("assumptions", "list of string", "Assumptions where the trace does not say, for people."),
        Key("failures", "list of object", "All allocations that failed, in order.", shape=_FAILURE),
        Key("stopped", "string or null", "Why the replay ended early; null: it did not."),
        Key("larger_window", "object or null", "A larger `vmalloc=`, where areas did not fit into the vmalloc "
            "window; null: all did, or it was not looked for.", shape=LARGER_WINDOW),
        Key("seconds", "number", "Time the replay itself took.", "seconds"),
        Key("coherence", "object or null", "Findings of `--check`; null without it.", shape=_COHERENCE),
        Key("rate", "number", "Allocations and frees replayed per second.", "per second"),
    ),
)  # fmt: skip

# ---- the result


@frozen(kw_only=True)
class Space:
    """State of the space after one event.

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
    """An allocation that failed, and the state of the space at that moment, without its area.

    Attributes:
        free: Of the window searched, as are the two below.
        largest_hole: Of the window searched.
        fragmentation: Of the window searched.
        window: The window searched: "vmalloc" or "modules".
        size: Bytes asked for, guard page included.
        align: Bytes, as the trace has it.
        reason: One of `REASONS`.
        message: Message of the kernel.
    """

    window: str
    size: int
    align: int
    reason: str
    message: str


@frozen(kw_only=True)
class EventCounts:
    """Counts of events, where ``read`` is the sum of the others.

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
    """Findings of the coherence checker.

    Attributes:
        touched: Areas whose first and last page were loaded from and stored to.
        reports: Oldest first.
        repeated: Number of further reports of the same.
    """

    touched: int
    reports: tuple[coherence.Report, ...]
    repeated: int


@frozen(kw_only=True)
class ReplayResult:
    """The result of a replay. docs/replay.md explains each figure.

    Attributes:
        source: The trace.
        arch: Name of the architecture replayed on.
        layout: Its windows and RAM.
        events: Counts of events.
        peak: The space when the live areas were largest, in bytes, for the first time.
        end: The space after the last event.
        most_areas: ``line`` and ``areas`` when they were most, for the first time.
        demand: ``line`` and ``bytes`` when the traced kernel held most, failures here included.
        samples: (line, areas, bytes) where the bytes were highest in each of up to 200 stretches of the trace.
        tables: Page-table pages made, by level.
        flushes: Flush symbol to ``calls`` and ``pages`` in their ranges.
        nodes_visited: List nodes the C code would have looked at.
        capped_alignments: Allocations whose alignment was cut to 1 << IOREMAP_MAX_ORDER.
        backing: Areas made, by the pages behind them: "frames", "ioremap", "stand_in" or "vmap".
        assumptions: Assumptions where the trace does not say, one sentence each.
        failures: All allocations that failed, in order.
        stopped: Why the replay ended early; None: it did not.
        larger_window: A larger ``vmalloc=``, where areas did not fit; None: all fit, or none was looked for.
        seconds: Time it took.
        coherence: Findings of the checker; None: the kernel has no checker.
    """

    source: dict[str, Any]
    arch: str
    layout: dict[str, Any]
    events: EventCounts
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
    larger_window: LargerWindow | None
    seconds: float
    coherence: Coherence | None

    @property
    def rate(self) -> float:
        """Allocations and frees replayed per second."""
        return (self.events.alloc + self.events.free) / self.seconds if self.seconds else 0.0

    def failures_by_reason(self) -> dict[str, int]:
        """Return how many allocations failed for each reason, most first."""
        return dict(Counter(failure.reason for failure in self.failures).most_common())

    def facts(self) -> Facts:
        """Return the object that `SCHEMA` describes."""
        facts = asdict(self)
        facts["samples"] = [list(sample) for sample in self.samples]
        if self.coherence is not None:
            facts["coherence"]["reports"] = [report.to_dict() for report in self.coherence.reports]
        return SCHEMA.facts(**facts, rate=self.rate)


# ---- facts about the input


def flush_counts(kernel: Kernel) -> dict[str, dict[str, int]]:
    """Return calls of each flush symbol so far, and pages in their ranges."""
    return {name: {"calls": n.calls, "pages": n.pages} for name, n in kernel.flush_counts.items()}


def describe_source(trace: Trace) -> dict[str, Any]:
    """Return `ReplayResult.source`."""
    kept, written = trace.entries or (0, 0)
    return {
        "file": trace.file,
        "lines": trace.lines,
        "page_size": trace.page_size,
        "windows": [range_facts(start, end) for start, end in trace.windows],
        "overwritten": written - kept,
        "lost": trace.lost,
        "lost_lines": list(trace.lost_lines),
        "foreign": dict(trace.foreign),
    }


def describe_layout(kernel: Kernel) -> dict[str, Any]:
    """Return `ReplayResult.layout`."""
    layout, modules = kernel.layout, kernel.layout.modules
    return {
        "vmalloc": range_facts(layout.vmalloc_start, layout.vmalloc_end),
        "modules": None if modules is None else range_facts(modules.start, modules.end),
        "ram": sum(bank.size for bank in layout.banks),
        "page_size": kernel.arch.page_size,
        "notes": [note.strip() for note in layout.notes],
    }
