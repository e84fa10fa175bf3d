"""Options that commands share: the machine, and the files that are read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import click

from vmcore.cli.inputs import sample_name
from vmcore.cli.output import echo
from vmcore.errors import ConfigurationError
from vmcore.system.output import Input, Output, refuse_redirected

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
    """Decorate a command with the options *names*, by default all. It is called with ``selection=``.

    Values without an option come from the environment or vmcore.toml, see `vmcore.linking.selection`. Without
    "arch" among *names*, or ``need_arch``, no architecture needs to be chosen.
    """
    chosen = names or tuple(_OPTIONS)

    def decorate(function: Function) -> Function:
        @wraps(function)
        def command(*args: Any, **kwargs: Any) -> Any:
            from vmcore.linking.selection import select  # noqa: PLC0415  # keeps attrs and cattrs out of --help

            given = {name: kwargs.pop(name) for name in chosen}
            if "block" in given:
                given["block"] = ",".join(given["block"]) or None
            selection = select(need_arch=need_arch and "arch" in chosen, named="--{}", **given)
            for warning in selection.warnings:
                echo(f"vmcore: warning: {warning}", err=True)
            return function(*args, selection=selection, **kwargs)

        decorated: Function = command
        for name in reversed(chosen):
            decorated = _OPTIONS[name](decorated)
        return decorated

    return decorate


def files(*inputs: str, output: str | None = None, stdout_is_free: bool = False) -> Callable[[Function], Function]:
    """Decorate a command so that it does not write over the files in its parameters *inputs*.

    It is called with an `Output` in place of the path in its parameter *output*, where ``-`` is stdout. This must
    stand above every decorator that opens a file, so that nothing is opened in vain.

    Raises:
        OutputError: *output* is one of the inputs or cannot be written, or stdout goes to an input.
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def command(*args: Any, **kwargs: Any) -> Any:
            read: list[Input] = list(_paths(kwargs[name] for name in inputs))
            refuse_redirected(read)
            if output is not None and kwargs[output] is not None:
                from vmcore.linking.selection import find_file  # noqa: PLC0415  # keeps attrs and cattrs out of --help

                path = "/dev/stdout" if kwargs[output] == "-" else kwargs[output]
                configuration = find_file()
                read += [] if configuration is None else [configuration]
                kwargs[output] = Output(path, read, stdout_is_free=stdout_is_free)
            return function(*args, **kwargs)

        return command

    return decorate


def _paths(given: Iterator[str | None]) -> Iterator[Input]:
    """Yield a path, or a descriptor, for each file that a command line names."""
    for file in given:
        sample = None if file is None else sample_name(file)
        if sample is not None:
            from vmcore.samples import paths  # noqa: PLC0415  # seldom needed

            yield from paths(sample)
        elif file is not None:
            yield 0 if file == "-" else file


def one_of(*names: str) -> Callable[[Function], Function]:
    """Decorate a command so that at most one of its options *names*, the forms of output, may be given.

    Raises:
        ConfigurationError: Two of them were given.
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def command(*args: Any, **kwargs: Any) -> Any:
            given = [f"--{name.removeprefix('as_')}" for name in names if kwargs[name] not in (None, False)]
            if len(given) > 1:
                raise ConfigurationError(f"{given[-1]}: found {given[0]} too, expected one of them")
            return function(*args, **kwargs)

        return command

    return decorate
