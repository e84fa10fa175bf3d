"""``vmcore demo``: short scenes that show the harm of a missing flush, sync or handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vmcore.cli.console import Console, write_json
from vmcore.cli.options import machine_options
from vmcore.scenes.catalogue import list_scenes, perform
from vmcore.views import demo as view

if TYPE_CHECKING:
    from vmcore.linking.selection import Selection


@click.command(epilog="The model, and how to read a report: docs/coherence.md; keys of --json: docs/json.md.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@machine_options(need_arch=False)
def command(name: str | None, as_json: bool, selection: Selection) -> None:
    """Show what breaks without a flush or a sync, step by step.

    Without NAME the scenes are listed. Each is played twice, without the symbol it is about and with it, on two
    CPUs where the architecture may have them and nobody says otherwise.
    """
    if name is None:
        scenes = list_scenes()
        if as_json:
            write_json(scenes.facts())
        else:
            Console(highlight=False).say(view.titles(scenes))
        return
    performance = perform(
        name,
        selection.arch or None,
        cpus=selection.cpus if "cpus" in selection.sources else None,
        block=selection.block,
        ram=selection.ram,
        vmalloc=selection.vmalloc,
        platform=selection.platform,
        nodes=selection.nodes,
    )
    if as_json:
        write_json(performance.facts())
    else:
        Console(highlight=False).say(view.lines(performance))
