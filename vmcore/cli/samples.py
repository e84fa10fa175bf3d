"""``vmcore samples``: the traces that ship with the package.

With ``--json``, one object: ``schema``: 1, and ``samples``, a list of objects with ``name``,
``description``, ``kernel``, ``architecture`` (words), ``events`` (a number) and ``source``.
"""

from __future__ import annotations

import json

import click
from attrs import asdict

from vmcore import samples


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def command(as_json: bool) -> None:
    """List the traces that ship with vmcore."""
    records = [samples.describe(name) for name in samples.names()]
    if as_json:
        click.echo(json.dumps({"schema": 1, "samples": [asdict(record) for record in records]}, indent=2))
        return
    width = max((len(record.name) for record in records), default=0)
    for record in records:
        click.echo(f"{record.name:<{width}}  {record.events:>6} events  {record.kernel}")
        click.echo(f"    {record.description}")
