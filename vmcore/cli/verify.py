"""``vmcore verify``: predict every address of a trace on the traced kernel's own window."""

from __future__ import annotations

import click

from vmcore import samples
from vmcore.cli.console import Console, write_json
from vmcore.cli.inputs import open_input
from vmcore.cli.options import files
from vmcore.errors import ConfigurationError
from vmcore.linking.registry import load
from vmcore.study.verify import AUTO, verify
from vmcore.texts.trace import read_trace
from vmcore.texts.vmallocinfo import read_vmallocinfo
from vmcore.units import parse_size
from vmcore.views import verify as view


@click.command(epilog="The rules of each kernel: docs/kernels.md; the keys of --json: docs/json.md.")
@files("file", "vmallocinfo")
@click.argument("file", metavar="TRACE")
@click.argument("vmallocinfo", required=False, metavar="[VMALLOCINFO]")
@click.option("--kernel", default=AUTO, show_default=True, help="Version of the traced kernel, for example 6.12.")
@click.option("--cpus", type=click.IntRange(1, 8192), help="Possible CPUs of the traced kernel; else found.")
@click.option("--source-page", metavar="SIZE", help="Page size of the traced kernel; else found from the trace.")
@click.option("--block", multiple=True, help="Leave a plugin out.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def command(
    file: str,
    vmallocinfo: str | None,
    kernel: str,
    cpus: int | None,
    source_page: str | None,
    block: tuple[str, ...],
    as_json: bool,
) -> None:
    """Predict every address of a trace on the traced kernel's own window.

    The trace begins at boot, by trace_event=vmalloc:* on the kernel's command line. VMALLOCINFO is
    /proc/vmallocinfo after it. It tells areas that no event tells: those from before the trace, and percpu chunks.
    The rules are those of --kernel; without it, those that predict the trace best. No architecture is needed.

    Files are plain, gzip or xz; - is stdin and sample:NAME one of `vmcore samples`.

    Exit status: 0 every address is predicted, 1 some are not, 2 bad input.
    """
    if file == vmallocinfo == "-":
        raise ConfigurationError("found - for both files, expected stdin for one of them at most")
    generations = load(block).placements.values()
    page = None if source_page is None else parse_size(source_page, "--source-page")
    with open_input(file, samples.open_sample) as source:
        trace = read_trace(source, None if file == "-" else file, source_page=page)
    entries = []
    if vmallocinfo is not None:
        with open_input(vmallocinfo, samples.open_vmallocinfo) as source:
            entries = read_vmallocinfo(source, None if vmallocinfo == "-" else vmallocinfo)
    verified = verify(trace, entries, kernel, generations, cpus)
    if as_json:
        write_json(verified.facts())
    else:
        Console(highlight=False).say(view.lines(verified))
    click.get_current_context().exit(0 if verified.right else 1)
