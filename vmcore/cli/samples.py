"""``vmcore samples``: list the traces and RAM dumps that ship with the package."""

from __future__ import annotations

import click

from vmcore.cli.console import Console, write_json
from vmcore.samples import list_samples
from vmcore.views import samples as view


@click.command(epilog="Keys of --json: docs/json.md.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def command(as_json: bool) -> None:
    """List the traces and RAM dumps that ship with vmcore.

    Where a command takes a file, sample:NAME is one of these, and of a RAM dump its VMCOREINFO and vmallocinfo.
    """
    samples = list_samples()
    if as_json:
        write_json(samples.facts())
    else:
        Console(highlight=False).say(view.lines(samples))
