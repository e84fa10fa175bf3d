"""``vmcore audit``: check the areas of /proc/vmallocinfo against the page tables in a RAM dump."""

from __future__ import annotations

import click

from vmcore import samples
from vmcore.cli.console import Console, write_json
from vmcore.cli.dump_options import dump_options, parse_range, warn
from vmcore.cli.inputs import open_input
from vmcore.cli.options import files
from vmcore.dump.audit.audit import audit_dump
from vmcore.dump.rooted import RootedDump
from vmcore.texts.vmallocinfo import read_vmallocinfo
from vmcore.views import audit as view

#: Advice that is printed if there is too little memory.
ADVICE = "ask for less: --range limits where mappings without an area are looked for"


@click.command(epilog="Keys of --json: docs/json.md.")
@files("dump_file", "vmcoreinfo", "vmallocinfo")
@dump_options
@click.option("--vmallocinfo", metavar="FILE", required=True, help="/proc/vmallocinfo of the machine; - is stdin.")
@click.option("--range", "bounds", metavar="START-END", help="Look here for mappings that no area owns.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def command(vmallocinfo: str, bounds: str | None, as_json: bool, source: RootedDump) -> None:
    """Check /proc/vmallocinfo against a RAM dump.

    Each area must have its pages mapped, its guard page not, and at the addresses it says. Irregular areas that
    the kernel means so are explained; whatever else is found is odd.

    Exit status: 0 nothing is odd, 1 something is, 2 bad input.
    """
    given = None if bounds is None else parse_range(bounds, source.arch)
    with open_input(vmallocinfo, samples.open_vmallocinfo) as file:
        entries = read_vmallocinfo(file, None if vmallocinfo == "-" else vmallocinfo)
    result = audit_dump(source, entries, bounds=given)
    if as_json:
        write_json(result.facts())
    else:
        Console(highlight=False).say(view.lines(result))
    warn(source, result.audit.partial)
    click.get_current_context().exit(int(bool(result.audit.odd)))
