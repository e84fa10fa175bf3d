"""The options that say which machine, shared by every command that needs one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

Function = Callable[..., Any]

_OPTIONS: dict[str, Callable[[Function], Function]] = {
    "arch": click.option("--arch", metavar="NAME", help="Architecture; `vmcore arches` lists them."),
    "ram": click.option("--ram", metavar="SIZE", help="RAM: 512M, 4G, or banks such as 0-3G,4G-5G."),
    "vmalloc": click.option("--vmalloc", metavar="SIZE", help="Size of the window, as the kernel's vmalloc=."),
    "platform": click.option("--platform", metavar="NAME", help="Board, where the architecture has several."),
    "cpus": click.option("--cpus", metavar="N", help="Number of CPUs."),
    "nodes": click.option("--nodes", metavar="N", help="Number of memory nodes."),
    "block": click.option("--block", metavar="PLUGIN", multiple=True, help="Leave a plugin out (repeatable)."),
}


def machine_options(*names: str, need_arch: bool = True) -> Callable[[Function], Function]:
    """Decorate a command with the options *names* (default: all); it is called with ``selection=``.

    What an option does not give comes from the environment or the file, see `vmcore.selection`. Without
    "arch" among *names*, or ``need_arch``, no architecture needs to be chosen.
    """
    chosen = names or tuple(_OPTIONS)

    def decorate(function: Function) -> Function:
        @wraps(function)
        def command(*args: Any, **kwargs: Any) -> Any:
            from vmcore.selection import select  # noqa: PLC0415  # keeps attrs and cattrs out of --help

            given = {name: kwargs.pop(name) for name in chosen}
            if "block" in given:
                given["block"] = ",".join(given["block"]) or None
            selection = select(need_arch=need_arch and "arch" in chosen, named="--{}", **given)
            for warning in selection.warnings:
                click.echo(f"vmcore: warning: {warning}", err=True)
            return function(*args, selection=selection, **kwargs)

        decorated: Function = command
        for name in reversed(chosen):
            decorated = _OPTIONS[name](decorated)
        return decorated

    return decorate
