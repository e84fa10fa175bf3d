"""Show the result of a replay: plain text that fits 80 columns, coloured on a terminal."""

from __future__ import annotations

import re
import textwrap
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from vmcore.replay.result import REASONS, SKIPPED, ReplayResult, Space
from vmcore.replay.window import LargerWindow
from vmcore.units import format_size
from vmcore.views.coherence import report_lines
from vmcore.views.lines import Line
from vmcore.wording import counted

_WIDTH = 79
_GRAPH_WIDTH, _GRAPH_HEIGHT = 60, 6
_GRAPH_LEFT = 16  # columns of the scale at its left
_BLOCKS, _ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " ....####"
_SHOWN = 5  # failures listed in full


def lines(
    result: ReplayResult, notes: Sequence[str] = (), *, width: int = 80, ascii_only: bool = False
) -> Iterator[Line]:
    """Yield the lines of a result.

    Args:
        result: The result.
        notes: Sentences about lost events, see `vmcore.texts.trace.Trace.notes`.
        width: Columns of the terminal; only the graph depends on it.
        ascii_only: Whether the terminal shows ASCII only.
    """
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    parts = (
        [_headline(result)],
        _input(result, notes),
        _graph(result, blocks, max(min(_GRAPH_WIDTH, width - _GRAPH_LEFT - 1), 1)),
        _table(result),
        _cost(result),
        _failures(result),
        _coherence(result),
        _hints(result),
        _assumed(result),
    )
    for number, part in enumerate(filter(None, map(list, parts))):
        if number:
            yield "", ""
        yield from part


def _row(key: str, *values: str) -> Iterator[Line]:
    """Yield a key and its values, one below the other, long ones wrapped."""
    lines = [line for value in values for line in textwrap.wrap(value, _WIDTH - 16, break_on_hyphens=False)]
    for number, line in enumerate(lines):
        yield "", f"{'' if number else key:<16}{line}"


# ---- the input


def _headline(result: ReplayResult) -> Line:
    subject, failed = f"{result.source['file']} on {result.arch}", len(result.failures)
    if failed:
        first = result.failures[0]
        count = f"{failed:,} of {counted(result.events.alloc, 'allocation')} failed"
        return "bold red", f"{subject}: {count}, the first at line {first.line:,}"
    fit = f"{subject}: all {counted(result.events.alloc, 'allocation')} fit"
    if result.coherence is not None and result.coherence.reports:
        return "bold red", f"{fit}; {counted(len(result.coherence.reports), 'report')} of the coherence checker"
    return "bold green", fit


def _input(result: ReplayResult, notes: Sequence[str]) -> Iterator[Line]:
    events, source, layout = result.events, result.source, result.layout
    yield from _row("read", f"{counted(source['lines'], 'line')}, {counted(events.read, 'vmalloc event')}, "
                    f"{format_size(source['page_size'])} pages")  # fmt: skip
    widest, *modules = source["windows"]
    yield from _row("from", _range(widest), *(f"{_range(window)}, modules" for window in modules))
    purges = f"; {counted(events.purge, 'purge')}, nothing to do here" if events.purge else ""
    yield from _row("replayed", f"{counted(events.alloc, 'allocation')}, {counted(events.free, 'free')}{purges}")
    skipped = [counted(n, *SKIPPED[key]) for key, n in sorted(events.skipped.items(), key=lambda item: -item[1])]
    skipped += [f"{counted(n, 'line')} of event {name}" for name, n in sorted(source["foreign"].items())]
    yield from _row("skipped", *(skipped or ["nothing"]))
    for style, line in _row("warning", *_losses(result, notes)):
        yield style or "yellow", line
    to = [_range(layout["vmalloc"])]
    to += [f"{_range(layout['modules'])}, modules"] if layout["modules"] else []
    yield from _row("on", f"{format_size(layout['ram'])} of RAM, {format_size(layout['page_size'])} pages")
    yield from _row("to", *to)
    yield from _row("", *(re.sub("^<[0-7]>", "", note) for note in layout["notes"]))


def _losses(result: ReplayResult, notes: Sequence[str]) -> Iterator[str]:
    """Yield the notes about lost events, but not those about skipped ones, which are listed already."""
    for note in notes:
        text = note.removeprefix(f"{result.source['file']}: ")
        if "lost" in text or "overwritten" in text or "the header counts" in text:
            yield text


def _range(window: dict[str, Any]) -> str:
    return f"{window['start']}-{window['end']} ({format_size(window['size'])})"


# ---- live areas over time


def _graph(result: ReplayResult, blocks: str, most: int) -> Iterator[Line]:
    """Draw the bytes of live areas over the trace, the highest of each stretch, in up to ``most`` columns."""
    cuts, top = _cuts(len(result.samples), most), result.peak.bytes
    heights = [max(size for _, _, size in result.samples[a:b]) for a, b in pairwise(cuts)]
    if not top:
        return
    label = format_size(top)
    yield "", "live areas, bytes with guard pages, over the events of the trace"
    for row in reversed(range(_GRAPH_HEIGHT)):
        eighths = (max(0, min(8, round(8 * (_GRAPH_HEIGHT * height / top - row)))) for height in heights)
        name = label if row == _GRAPH_HEIGHT - 1 else ""
        yield "cyan", f"{name:>14} |{''.join(blocks[n] for n in eighths)}".rstrip()
    yield "", f"{'0':>14} +{'-' * len(heights)}"
    if result.failures:
        before = bisect_left([line for line, _, _ in result.samples], result.failures[0].line)
        column = min(bisect_right(cuts, before), len(heights)) - 1
        text = "^ first failure" if column < len(heights) // 2 else "first failure ^"
        yield "red", " " * (_GRAPH_LEFT + column - text.index("^")) + text
    first, last = f"line {result.samples[0][0]:,}", f"{result.samples[-1][0]:,}"
    until = "" if len(result.samples) == 1 else f"{last:>{max(len(heights) - len(first), len(last) + 1)}}"
    yield "", f"{'':{_GRAPH_LEFT}}{first}{until}"


def _cuts(count: int, most: int) -> list[int]:
    """Return where the stretches of ``count`` samples begin, at most ``most`` of them, and where the last ends."""
    width = min(most, count)
    return [n * count // width for n in range(width + 1)] if width else []


# ---- figures


def _table(result: ReplayResult) -> Iterator[Line]:
    columns: list[tuple[str, Space]] = [("peak", result.peak)]
    if result.failures:
        columns.append(("first failure", result.failures[0]))
    columns.append(("end", result.end))
    yield "bold", f"{'the space at':<16}" + "".join(f"{name:>16}" for name, _ in columns)
    rows: tuple[tuple[str, Callable[[Space], str]], ...] = (
        ("line", lambda s: f"{s.line:,}"),
        ("live areas", lambda s: f"{s.areas:,}"),
        ("their bytes", lambda s: format_size(s.bytes)),
        ("free", lambda s: format_size(s.free)),
        ("largest hole", lambda s: format_size(s.largest_hole)),
        ("fragmentation", lambda s: f"{100 * s.fragmentation:.1f} %"),
    )
    for name, value in rows:
        yield "", f"{name:<16}" + "".join(f"{value(space):>16}" for _, space in columns)
    if result.failures and result.failures[0].window != "vmalloc":
        yield "dim", f"(free, hole and fragmentation at the failure: of the window {result.failures[0].window})"
    yield from _row("most areas", f"{result.most_areas['areas']:,} at line {result.most_areas['line']:,}")
    demand = result.demand
    yield from _row("asked for", f"up to {format_size(demand['bytes'])} at once, at line {demand['line']:,}, "
                    "guard pages and failures included")  # fmt: skip


def _cost(result: ReplayResult) -> Iterator[Line]:
    page = result.layout["page_size"]
    tables = ", ".join(f"{n:,} {level}" for level, n in result.tables.items()) or "none"
    total = sum(result.tables.values())
    yield from _row("page tables", f"{counted(total, 'page')} made ({tables}), {format_size(total * page)}")
    calls = (
        f"{name}: {counted(of['calls'], 'call')}, {counted(of['pages'], 'page')}"
        for name, of in result.flushes.items()
    )
    yield from _row("flushes", *calls)
    yield from _row("list nodes", f"{result.nodes_visited:,} that the C code would have looked at")
    if result.capped_alignments:
        yield from _row("alignment", f"{counted(result.capped_alignments, 'allocation')} cut to the largest, "
                        "1 << IOREMAP_MAX_ORDER")  # fmt: skip
    kinds = ", ".join(counted(n, *_BACKED[kind]) for kind, n in result.backing.items() if n)
    yield from _row("areas", kinds or "none")
    yield from _row("speed", f"{result.rate:,.0f} allocations and frees per second, {result.seconds:.1f} s")


_BACKED = {
    "frames": ("with page frames of its own", "with page frames of their own"),
    "ioremap": ("ioremap, given a physical address", "ioremap, given physical addresses"),
    "stand_in": (
        "ioremap, a stand-in frame for a physical address",
        "ioremap, a stand-in frame for physical addresses",
    ),
    "vmap": ("vmap, pages not vmalloc's",) * 2,
}


# ---- failures, and hints


def _failures(result: ReplayResult) -> Iterator[Line]:
    if not result.failures:
        return
    counts = result.failures_by_reason()
    for style, line in _row("failed", *(f"{n:,}: {REASONS[reason]} ({reason})" for reason, n in counts.items())):
        yield style or "bold red", line
    yield "", f"  {'line':>9}  {'window':<8}{'size':>11}{'align':>11}{'largest hole':>14}  reason"
    for failure in result.failures[:_SHOWN]:
        sizes = (format_size(size) for size in (failure.size, failure.align))
        where = f"  {failure.line:>9,}  {failure.window:<8}" + "".join(f"{size:>11}" for size in sizes)
        yield "", f"{where}{format_size(failure.largest_hole):>14}  {failure.reason}"
    if (more := len(result.failures) - _SHOWN) > 0:
        yield "dim", f"  ... and {more:,} more; --json has them all"
    if result.stopped:
        yield "", f"stopped at {result.stopped}; what the rest of the trace asks for is not known"


def _coherence(result: ReplayResult) -> Iterator[Line]:
    found = result.coherence
    if found is None:
        return
    again = f", and {found.repeated:,} more of the same" if found.repeated else ""
    said = f"{counted(len(found.reports), 'report')}{again}" if found.reports else "nothing to report"
    for style, line in _row("coherence", f"{counted(found.touched, 'area')} touched: {said}"):
        yield style or ("bold red" if found.reports else ""), line
    for one in found.reports[:_SHOWN]:
        yield from report_lines(one, _WIDTH)
    if (more := len(found.reports) - _SHOWN) > 0:
        yield "dim", f"  ... and {more:,} more; --json has them all"


def _hints(result: ReplayResult) -> Iterator[Line]:
    reasons = {(failure.reason, failure.window) for failure in result.failures}
    hints: list[str] = []
    if ("space", "vmalloc") in reasons or ("end", "vmalloc") in reasons:
        hints += [] if result.larger_window is None else [_larger_window(result.larger_window, result)]
    if ("space", "modules") in reasons or ("end", "modules") in reasons:
        hints.append("the window of modules is fixed: load fewer modules, or build them into the kernel")
    if {reason for reason, _ in reasons} & {"page", "table", "num_physpages"}:
        hints.append("give more --ram")
        if not sum(n for kind, n in result.backing.items() if kind != "frames"):
            hints.append("give --vmallocinfo: areas of ioremap and vmap then need no page frames")
    if any(failure.reason == "size" for failure in result.failures):
        page = format_size(result.source["page_size"])
        hints.append(f"--source-page, if the pages of the traced kernel are not {page}: some sizes are impossible")
    for hint in hints:
        yield from _row("try", hint)


def _larger_window(found: LargerWindow, result: ReplayResult) -> str:
    if found.vmalloc is None or found.window is None:
        why = f": {found.refused}" if found.refused else ""
        return f"another --arch: no vmalloc= gives this one a window of {format_size(found.need)}{why}"
    holes = ", or more: holes cost space too" if found.need == result.demand["bytes"] else ""
    return f"--vmalloc {found.vmalloc >> 20}M, a window of {format_size(found.window)}{holes}"


def _assumed(result: ReplayResult) -> Iterator[Line]:
    yield "dim", "assumed"
    for sentence in result.assumptions:
        for number, line in enumerate(textwrap.wrap(sentence, _WIDTH - 4)):
            yield "dim", f"{'    ' if number else '  - '}{line}"
