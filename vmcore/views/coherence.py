"""A report of the coherence checker, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmcore.coherence.checker import Report

Line = tuple[str, str]  # style, text


def told_report(report: Report, width: int) -> Iterator[Line]:
    """Give the lines of a report: what was found, what is missing, and what happened before."""
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
