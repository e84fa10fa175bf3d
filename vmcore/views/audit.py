"""Show the result of an audit: the windows, and the findings, odd ones first."""

from __future__ import annotations

from collections.abc import Iterator

from vmcore.dump.audit.result import OUTSIDE, DumpAudit, Finding
from vmcore.views.dump import headline
from vmcore.views.lines import Line
from vmcore.wording import counted


def lines(result: DumpAudit) -> Iterator[Line]:
    """Yield the lines of a result."""
    audit = result.audit
    yield "", headline(result.source)
    for window in audit.windows:
        yield "", f"window {window.start:#x}-{window.last:#x}: {window.how}"
    yield "", OUTSIDE
    odd, explained = audit.odd, audit.explained
    irregular = len({(f.start, f.last) for f in audit.findings if f.area is not None})
    verdict = f"{counted(len(odd), 'finding is', 'findings are')} odd"
    yield "", f"{counted(audit.areas, 'area')}, {irregular:,} of them not regular; {verdict}"
    for title, style, findings in (("odd", "red", odd), ("irregular, as it should be", "", explained)):
        if findings:
            yield "", ""
            yield "bold", title
        for finding in findings:
            yield from _finding(finding, style)


def _finding(finding: Finding, style: str) -> Iterator[Line]:
    area = finding.area
    who = "no area" if area is None else " ".join([area.caller or "no caller", *sorted(area.kinds)])
    yield style, f"{finding.start:#x}-{finding.last:#x}  {who}"
    yield "", f"    {finding.problem}: {finding.found}"
    if finding.why is not None:
        yield "", f"    {finding.why}"
