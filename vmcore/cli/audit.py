"""``vmcore audit``: check the areas of /proc/vmallocinfo against the page tables in a RAM dump.

``--json`` writes one object: schema (1), dump, arch, root (address, how), problems (of file and root), partial
(why not all was checked), windows (start, last, how: where mappings without an area were looked for), outside (a
sentence: what was not looked at), areas (their number), and findings: start, last, caller and kinds (of the area;
null: there is none), problem ("pages", "guard", "count", "physical", "overlap", "stray" or "not in the dump"),
found, and why (null: it is odd).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vmcore import samples
from vmcore.cli.console import Console, write_json
from vmcore.cli.dump_options import Source, dump_options, parse_range, tell
from vmcore.cli.inputs import open_input
from vmcore.cli.options import files
from vmcore.dump.audit import audit
from vmcore.texts.vmallocinfo import read_vmallocinfo
from vmcore.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator


#: What no audit can tell: only in a window must every mapping have an area.
_OUTSIDE = "mappings outside the windows were not looked at; --range START-END looks there instead"

#: What to do where there is no memory for it.
ADVICE = "ask for less: --range limits where mappings without an area are looked for"


@click.command(epilog="Keys of --json: python -m pydoc vmcore.cli.audit.")
@files("dump_file", "vmcoreinfo", "vmallocinfo")
@dump_options
@click.option("--vmallocinfo", metavar="FILE", required=True, help="/proc/vmallocinfo of the machine; - is stdin.")
@click.option("--range", "bounds", metavar="START-END", help="Look here for mappings that no area owns.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def command(vmallocinfo: str, bounds: str | None, as_json: bool, source: Source) -> None:
    """Check /proc/vmallocinfo against a RAM dump.

    Each area must have its pages mapped, its guard page not, and at the addresses it says. Irregular areas that
    the kernel means so are explained; whatever else is found is odd.

    Exit status: 0 nothing is odd, 1 something is, 2 bad input.
    """
    given = None if bounds is None else parse_range(bounds, source.arch)
    with open_input(vmallocinfo, samples.open_vmallocinfo) as file:
        entries = read_vmallocinfo(file, None if vmallocinfo == "-" else vmallocinfo)
    info = source.info
    known = (None, None) if info is None else (info.number("VMALLOC_START"), info.number("VMALLOC_END"))
    report = audit.audit(source.mmu, entries, bounds=given, vmalloc=known)
    if as_json:
        write_json(source.facts() | _facts(report))
    else:
        console = Console(highlight=False)
        console.say(_lines(source, report))
    tell(report.partial, source)
    click.get_current_context().exit(int(bool(report.odd)))


def _facts(report: audit.Audit) -> dict[str, Any]:
    windows = [{"start": hex(w.start), "last": hex(w.last), "how": w.how} for w in report.windows]
    findings = [
        {
            "start": hex(f.start),
            "last": hex(f.last),
            "caller": f.area.caller if f.area else None,
            "kinds": sorted(f.area.kinds) if f.area else None,
            "problem": f.problem,
            "found": f.found,
            "why": f.why,
        }
        for f in report.findings
    ]
    return {
        "partial": list(report.partial),
        "windows": windows,
        "outside": _OUTSIDE,
        "areas": report.areas,
        "findings": findings,
    }


def _lines(source: Source, report: audit.Audit) -> Iterator[tuple[str, str]]:
    yield "", source.head
    for window in report.windows:
        yield "", f"window {window.start:#x}-{window.last:#x}: {window.how}"
    yield "", _OUTSIDE
    odd, explained = report.odd, report.explained
    irregular = len({(f.start, f.last) for f in report.findings if f.area is not None})
    verdict = f"{counted(len(odd), 'finding is', 'findings are')} odd"
    yield "", f"{counted(report.areas, 'area')}, {irregular:,} of them not regular; {verdict}"
    for title, style, findings in (("odd", "red", odd), ("irregular, as it should be", "", explained)):
        if findings:
            yield "", ""
            yield "bold", title
        for finding in findings:
            yield from _finding(finding, style)


def _finding(finding: audit.Finding, style: str) -> Iterator[tuple[str, str]]:
    area = finding.area
    who = "no area" if area is None else " ".join([area.caller or "no caller", *sorted(area.kinds)])
    yield style, f"{finding.start:#x}-{finding.last:#x}  {who}"
    yield "", f"    {finding.problem}: {finding.found}"
    if finding.why is not None:
        yield "", f"    {finding.why}"
