"""The report of a replay, for people: plain text that fits 80 columns, coloured on a terminal."""

from __future__ import annotations

import re
import textwrap
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from attrs import evolve

from vmcore.cli import COMMANDS
from vmcore.views.coherence import told_report
from vmcore.errors import LayoutError
from vmcore.replay.result import REASONS, SKIPPED, Report, Space
from vmcore.units import format_size
from vmcore.wording import counted

if TYPE_CHECKING:
    from vmcore.cli.console import Console
    from vmcore.kernel import Kernel
    from vmcore.linking.selection import Selection

Line = tuple[str, str]  # style, text
_WIDTH = 79
_GRAPH_WIDTH, _GRAPH_HEIGHT = 60, 6
_GRAPH_LEFT = 16  # columns of the scale at its left
_BLOCKS, _ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " ....####"
_SHOWN = 5  # failures listed in full
_STEP, _LARGEST = 16 << 20, 4 << 30  # sizes of vmalloc= that the hint tries


def print_report(console: Console, report: Report, notes: list[str], kernel: Kernel, selection: Selection) -> None:
    """Print a report.

    Args:
        console: where to.
        report: what to print.
        notes: what the trace has lost and what was left out of it.
        kernel: the machine after the replay, for the hints.
        selection: what it was built from.
    """
    blocks = _ASCII_BLOCKS if console.options.ascii_only else _BLOCKS
    parts = (
        [_headline(report)],
        _input(report, notes),
        _graph(report, blocks, max(min(_GRAPH_WIDTH, console.width - _GRAPH_LEFT - 1), 1)),
        _table(report),
        _cost(report),
        _failures(report),
        _coherence(report),
        _hints(report, kernel, selection),
        _assumed(report),
    )
    for number, part in enumerate(filter(None, map(list, parts))):
        console.say(([("", "")] if number else []) + part)


def _row(key: str, *values: str) -> Iterator[Line]:
    """Give a key and its values, one below the other, long ones wrapped."""
    lines = [line for value in values for line in textwrap.wrap(value, _WIDTH - 16, break_on_hyphens=False)]
    for number, line in enumerate(lines):
        yield "", f"{'' if number else key:<16}{line}"


# ---- what went in


def _headline(report: Report) -> Line:
    what, failed = f"{report.source['file']} on {report.arch}", len(report.failures)
    if failed:
        first = report.failures[0]
        count = f"{failed:,} of {counted(report.events.alloc, 'allocation')} failed"
        return "bold red", f"{what}: {count}, the first at line {first.line:,}"
    fit = f"{what}: all {counted(report.events.alloc, 'allocation')} fit"
    if report.coherence is not None and report.coherence.reports:
        return "bold red", f"{fit}; {counted(len(report.coherence.reports), 'report')} of the coherence checker"
    return "bold green", fit


def _input(report: Report, notes: list[str]) -> Iterator[Line]:
    events, source, layout = report.events, report.source, report.layout
    yield from _row("read", f"{counted(source['lines'], 'line')}, {counted(events.read, 'vmalloc event')}, "
                    f"{format_size(source['page_size'])} pages")  # fmt: skip
    widest, *modules = source["windows"]
    yield from _row("from", _range(widest), *(f"{_range(window)}, modules" for window in modules))
    purges = f"; {counted(events.purge, 'purge')}, nothing to do here" if events.purge else ""
    yield from _row("replayed", f"{counted(events.alloc, 'allocation')}, {counted(events.free, 'free')}{purges}")
    skipped = [counted(n, *SKIPPED[key]) for key, n in sorted(events.skipped.items(), key=lambda item: -item[1])]
    skipped += [f"{counted(n, 'line')} of event {name}" for name, n in sorted(source["foreign"].items())]
    yield from _row("skipped", *(skipped or ["nothing"]))
    for style, line in _row("warning", *_losses(report, notes)):
        yield style or "yellow", line
    to = [_range(layout["vmalloc"])]
    to += [f"{_range(layout['modules'])}, modules"] if layout["modules"] else []
    yield from _row("on", f"{format_size(layout['ram'])} of RAM, {format_size(layout['page_size'])} pages")
    yield from _row("to", *to)
    yield from _row("", *(re.sub("^<[0-7]>", "", note) for note in layout["notes"]))


def _losses(report: Report, notes: list[str]) -> Iterator[str]:
    """Give the notes about what is missing; what was skipped is listed already."""
    for note in notes:
        text = note.removeprefix(f"{report.source['file']}: ")
        if "lost" in text or "overwritten" in text or "the header counts" in text:
            yield text


def _range(window: dict[str, Any]) -> str:
    return f"{window['start']}-{window['end']} ({format_size(window['size'])})"


# ---- live areas over time


def _graph(report: Report, blocks: str, most: int) -> Iterator[Line]:
    """Draw the bytes of live areas over the trace, in ``most`` columns; each is the highest of its stretch."""
    cuts, top = _cuts(len(report.samples), most), report.peak.bytes
    heights = [max(size for _, _, size in report.samples[a:b]) for a, b in pairwise(cuts)]
    if not top:
        return
    label = format_size(top)
    yield "", "live areas, bytes with guard pages, over the events of the trace"
    for row in reversed(range(_GRAPH_HEIGHT)):
        eighths = (max(0, min(8, round(8 * (_GRAPH_HEIGHT * height / top - row)))) for height in heights)
        name = label if row == _GRAPH_HEIGHT - 1 else ""
        yield "cyan", f"{name:>14} |{''.join(blocks[n] for n in eighths)}".rstrip()
    yield "", f"{'0':>14} +{'-' * len(heights)}"
    if report.failures:
        before = bisect_left([line for line, _, _ in report.samples], report.failures[0].line)
        column = min(bisect_right(cuts, before), len(heights)) - 1
        text = "^ first failure" if column < len(heights) // 2 else "first failure ^"
        yield "red", " " * (_GRAPH_LEFT + column - text.index("^")) + text
    first, last = f"line {report.samples[0][0]:,}", f"{report.samples[-1][0]:,}"
    until = "" if len(report.samples) == 1 else f"{last:>{max(len(heights) - len(first), len(last) + 1)}}"
    yield "", f"{'':{_GRAPH_LEFT}}{first}{until}"


def _cuts(count: int, most: int) -> list[int]:
    """Return where the stretches of ``count`` samples begin, at most ``most`` of them, and where the last ends."""
    width = min(most, count)
    return [n * count // width for n in range(width + 1)] if width else []


# ---- figures


def _table(report: Report) -> Iterator[Line]:
    columns: list[tuple[str, Space]] = [("peak", report.peak)]
    if report.failures:
        columns.append(("first failure", report.failures[0]))
    columns.append(("end", report.end))
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
    if report.failures and report.failures[0].window != "vmalloc":
        yield "dim", f"(free, hole and fragmentation at the failure: of the window {report.failures[0].window})"
    yield from _row("most areas", f"{report.most_areas['areas']:,} at line {report.most_areas['line']:,}")
    demand = report.demand
    yield from _row("asked for", f"up to {format_size(demand['bytes'])} at once, at line {demand['line']:,}, "
                    "guard pages and failures included")  # fmt: skip


def _cost(report: Report) -> Iterator[Line]:
    page = report.layout["page_size"]
    tables = ", ".join(f"{n:,} {level}" for level, n in report.tables.items()) or "none"
    total = sum(report.tables.values())
    yield from _row("page tables", f"{counted(total, 'page')} made ({tables}), {format_size(total * page)}")
    calls = (
        f"{name}: {counted(of['calls'], 'call')}, {counted(of['pages'], 'page')}"
        for name, of in report.flushes.items()
    )
    yield from _row("flushes", *calls)
    yield from _row("list nodes", f"{report.nodes_visited:,} that the C code would have looked at")
    if report.capped_alignments:
        yield from _row("alignment", f"{counted(report.capped_alignments, 'allocation')} cut to the largest, "
                        "1 << IOREMAP_MAX_ORDER")  # fmt: skip
    kinds = ", ".join(counted(n, *_BACKED[kind]) for kind, n in report.backing.items() if n)
    yield from _row("areas", kinds or "none")
    yield from _row("speed", f"{report.rate:,.0f} allocations and frees per second, {report.seconds:.1f} s")


_BACKED = {
    "frames": ("with page frames of its own", "with page frames of their own"),
    "ioremap": ("ioremap, given a physical address", "ioremap, given physical addresses"),
    "stand_in": (
        "ioremap, a stand-in frame for a physical address",
        "ioremap, a stand-in frame for physical addresses",
    ),
    "vmap": ("vmap, pages not vmalloc's",) * 2,
}


# ---- what failed, and what to try


def _failures(report: Report) -> Iterator[Line]:
    if not report.failures:
        return
    counts = report.failures_by_reason()
    for style, line in _row("failed", *(f"{n:,}: {REASONS[reason]} ({reason})" for reason, n in counts.items())):
        yield style or "bold red", line
    yield "", f"  {'line':>9}  {'window':<8}{'size':>11}{'align':>11}{'largest hole':>14}  reason"
    for failure in report.failures[:_SHOWN]:
        sizes = (format_size(size) for size in (failure.size, failure.align))
        where = f"  {failure.line:>9,}  {failure.window:<8}" + "".join(f"{size:>11}" for size in sizes)
        yield "", f"{where}{format_size(failure.largest_hole):>14}  {failure.reason}"
    if (more := len(report.failures) - _SHOWN) > 0:
        yield "dim", f"  ... and {more:,} more; --json has them all"
    if report.stopped:
        yield "", f"stopped at {report.stopped}; what the rest of the trace asks for is not known"


def _coherence(report: Report) -> Iterator[Line]:
    found = report.coherence
    if found is None:
        return
    again = f", and {found.repeated:,} more of the same" if found.repeated else ""
    said = f"{counted(len(found.reports), 'report')}{again}" if found.reports else "nothing to report"
    for style, line in _row("coherence", f"{counted(found.touched, 'area')} touched: {said}"):
        yield style or ("bold red" if found.reports else ""), line
    for one in found.reports[:_SHOWN]:
        yield from told_report(one, _WIDTH)
    if (more := len(found.reports) - _SHOWN) > 0:
        yield "dim", f"  ... and {more:,} more; --json has them all"


def _hints(report: Report, kernel: Kernel, selection: Selection) -> Iterator[Line]:
    reasons = {(failure.reason, failure.window) for failure in report.failures}
    hints: list[str] = []
    if ("space", "vmalloc") in reasons or ("end", "vmalloc") in reasons:
        hints.append(_larger_window(report, kernel, selection))
    if ("space", "modules") in reasons or ("end", "modules") in reasons:
        hints.append("the window of modules is fixed: load fewer modules, or build them into the kernel")
    if {reason for reason, _ in reasons} & {"page", "table", "num_physpages"}:
        hints.append("give more --ram")
        if not sum(n for kind, n in report.backing.items() if kind != "frames"):
            hints.append("give --vmallocinfo: areas of ioremap and vmap then need no page frames")
    if any(failure.reason == "size" for failure in report.failures):
        page = format_size(report.source["page_size"])
        hints.append(f"--source-page, if the pages of the traced kernel are not {page}: some sizes are impossible")
    for hint in hints:
        yield from _row("try", hint)


def _larger_window(report: Report, kernel: Kernel, selection: Selection) -> str:
    """Name the smallest vmalloc= whose window is larger and holds what was asked for, or say why none does."""
    arch, demand = kernel.arch, report.demand["bytes"]
    need, found = max(demand, kernel.layout.vmalloc.size + 1), ""
    for size in range(need // _STEP * _STEP, _LARGEST + 1, _STEP):
        try:
            window = arch.lay_out(evolve(selection.request(arch), vmalloc=size)).vmalloc.size
        except LayoutError as error:
            found = found or f": {error}"
            continue
        if window >= need:
            holes = ", or more: holes cost space too" if demand > kernel.layout.vmalloc.size else ""
            find = "; vmcore fit finds the smallest that does" if "fit" in COMMANDS else ""
            return f"--vmalloc {size >> 20}M, a window of {format_size(window)}{holes}{find}"
    return f"another --arch: no vmalloc= gives this one a window of {format_size(need)}{found}"


def _assumed(report: Report) -> Iterator[Line]:
    yield "dim", "assumed"
    for sentence in report.assumptions:
        for number, line in enumerate(textwrap.wrap(sentence, _WIDTH - 4)):
            yield "dim", f"{'    ' if number else '  - '}{line}"
