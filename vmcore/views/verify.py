"""Show how a placement generation predicts a trace."""

from __future__ import annotations

from collections.abc import Iterator

from vmcore.study.verify import Verified
from vmcore.views.lines import Line
from vmcore.wording import counted, printable


def lines(verified: Verified) -> Iterator[Line]:
    """Yield the headline, the facts behind it, and the first misses."""
    v = verified
    style = "bold green" if v.right else "bold"
    total = counted(v.allocations, "address", "addresses")
    yield style, f"{v.explained:,} of {total} as on the traced kernel, by the rules of {v.kernel} ({v.share:.1%})"
    if v.explained != v.exact:
        hidden = counted(v.explained - v.exact, "address", "addresses")
        yield "", f"  {v.exact:,} at the first look, {hidden} more with a purge moved before its line"
    if v.failed:
        yield "", f"  {v.failed_right:,} of {counted(v.failed, 'refused try', 'refused tries')} predicted"
    if v.alike:
        yield "", f"  as good by the rules of {', '.join(v.alike)}"
    start, end = v.window
    known = (
        f"{counted(v.early, 'area')} from before the trace",
        counted(v.percpu_chunks, "percpu chunk"),
        counted(v.cpus, "CPU"),
    )
    yield "dim", f"  window {start:#x}-{end:#x}, {', '.join(known)}"
    if v.unknown_frees:
        yield "", f"  {counted(v.unknown_frees, 'free')} of addresses that no event allocated"
    for miss in v.misses:
        predicted = "no space" if miss.predicted is None else f"{miss.predicted:#x}"
        yield "red", f"  line {miss.line:,}: {miss.address:#x}, predicted {predicted}"
    missing = v.allocations - v.explained - len(v.misses)
    if missing > 0:
        yield "red", f"  and {missing:,} more"
    for note in v.notes:
        yield "yellow", f"  {printable(note)}"
