"""``vmcore samples``: the traces and RAM dumps that ship with the package.

``--json`` writes one object: schema (1); samples, one for each trace: name, description, kernel, architecture
(words), events (a number) and source; dumps, one for each RAM dump: name, description, kernel, record (the
architecture it is read by), pages and areas (numbers) and source.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from attrs import asdict

from vmcore import samples

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def command(as_json: bool) -> None:
    """List the traces and RAM dumps that ship with vmcore.

    Where a command takes a file, sample:NAME is one of these, and of a RAM dump its VMCOREINFO and vmallocinfo.
    """
    traces = [samples.describe(name) for name in samples.names()]
    dumps = [samples.describe_dump(name) for name in samples.dumps()]
    if as_json:
        lists = {"samples": [asdict(t) for t in traces], "dumps": [asdict(d) for d in dumps]}
        click.echo(json.dumps({"schema": 1, **lists}, indent=2))
        return
    _print(
        "traces, for vmcore replay",
        [(t.name, f"{t.events:>6} events", t.kernel, t.description) for t in traces],
    )
    click.echo()
    _print(
        "RAM dumps, for vmcore walk and vmcore audit",
        [(d.name, f"{d.areas:>6} areas", f"{d.kernel}, read by {d.record}", d.description) for d in dumps],
    )


def _print(title: str, rows: Sequence[tuple[str, str, str, str]]) -> None:
    click.echo(title)
    width = max((len(name) for name, *_ in rows), default=0)
    for name, size, kernel, description in rows:
        click.echo(f"{name:<{width}}  {size}  {kernel}")
        click.echo(f"    {description}")
