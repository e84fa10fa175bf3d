"""``vmcore samples``: the traces and RAM dumps that ship with the package.

``--json`` writes one object: schema (1); samples, one for each trace: name, description, kernel, architecture
(words), events (a number) and source; dumps, one for each RAM dump: name, description, kernel, record (the
architecture it is read by), pages and areas (numbers) and source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from attrs import asdict

from vmcore import samples
from vmcore.cli.console import write_json
from vmcore.cli.output import echo
from vmcore.wording import counted

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
        write_json({"schema": 1, **lists})
        return
    _print(
        "traces, for vmcore replay",
        [(t.name, f"{counted(t.events, 'event'):>13}", t.kernel, t.description) for t in traces],
    )
    echo()
    _print(
        "RAM dumps, for vmcore walk and vmcore audit",
        [
            (d.name, f"{counted(d.areas, 'area'):>12}", f"{d.kernel}, read by {d.record}", d.description)
            for d in dumps
        ],
    )


def _print(title: str, rows: Sequence[tuple[str, str, str, str]]) -> None:
    echo(title)
    width = max((len(name) for name, *_ in rows), default=0)
    for name, size, kernel, description in rows:
        echo(f"{name:<{width}}  {size}  {kernel}")
        echo(f"    {description}")
