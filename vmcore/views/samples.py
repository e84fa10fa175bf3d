"""Show the samples as two lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vmcore.samples import SampleList
from vmcore.views.lines import Line
from vmcore.wording import counted


def lines(samples: SampleList) -> Iterator[Line]:
    """Yield the traces, and below them the RAM dumps."""
    yield from _list(
        "traces, for vmcore replay",
        [(t.name, f"{counted(t.events, 'event'):>13}", t.kernel, t.description) for t in samples.traces],
    )
    yield "", ""
    yield from _list(
        "RAM dumps, for vmcore walk and vmcore audit",
        [
            (d.name, f"{counted(d.areas, 'area'):>12}", f"{d.kernel}, read by {d.record}", d.description)
            for d in samples.dumps
        ],
    )


def _list(title: str, rows: Sequence[tuple[str, str, str, str]]) -> Iterator[Line]:
    yield "", title
    width = max((len(name) for name, *_ in rows), default=0)
    for name, size, kernel, description in rows:
        yield "", f"{name:<{width}}  {size}  {kernel}"
        yield "", f"    {description}"
