"""Show a report of the coherence checker."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmcore.views.lines import Line

if TYPE_CHECKING:
    from vmcore.coherence.report import Report


def report_lines(report: Report, width: int) -> Iterator[Line]:
    """Yield the lines of a report: the finding, the missing symbol, and the events before it.

    Args:
        report: The report.
        width: Columns of a line.
    """
    yield "red", f"   - {report.kind}, CPU {report.cpu}, {report.address:#x}"
    for line in textwrap.wrap(report.text, width - 7, break_on_hyphens=False):
        yield "", f"       {line}"
    if report.missing:
        yield "", f"       missing: {report.missing} for {report.start:#x}..{report.end:#x}"
    if report.history:
        yield "dim", "       what happened there:"
    for event in report.history:
        for n, line in enumerate(textwrap.wrap(event.strip(), width - 11, break_on_hyphens=False)):
            yield "dim", f"         {'  ' if n else ''}{line}"
