"""``vmcore arches``: list the installed architectures, or describe some."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vmcore.cli.console import Console, write_json
from vmcore.cli.options import machine_options
from vmcore.linking.installed import describe_installed
from vmcore.linking.registry import load
from vmcore.views.arches import details, table

if TYPE_CHECKING:
    from vmcore.linking.selection import Selection


@click.command(epilog="Keys of --json: docs/json.md.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@machine_options("ram", "vmalloc", "platform", "block")
def command(names: tuple[str, ...], as_json: bool, selection: Selection) -> None:
    """List the installed architectures, or describe some.

    The layout is that of --ram, --vmalloc and --platform; without them, of VMCORE_RAM and the like or of
    vmcore.toml, else of each architecture's defaults.
    """
    installed = describe_installed(load(selection.block), selection, names)
    if as_json:
        write_json(installed.facts())
        return
    console = Console(highlight=False)
    width = console.width if console.is_terminal else None
    console.say(details(installed, width) if names else table(installed, width))
