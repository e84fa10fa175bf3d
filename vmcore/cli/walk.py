"""``vmcore walk``: translate addresses by the page tables in a RAM dump, or list all that they map.

docs/json.md has the keys of ``--json``; ``--csv`` has the same columns. docs/dumps.md has the arrays of ``--npz``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
import numpy as np

from vmcore.cli.console import Console, write_json
from vmcore.cli.dump_options import dump_options, parse_address, parse_range, warn
from vmcore.cli.options import files, one_of
from vmcore.cli.output import echo_lines
from vmcore.dump.rooted import RootedDump
from vmcore.dump.walk import MappingList, Translation, list_mappings, translate
from vmcore.errors import ConfigurationError
from vmcore.paging.mappings import LIMIT
from vmcore.system.output import Output
from vmcore.texts.lines import read_lines
from vmcore.views import walk as view

if TYPE_CHECKING:
    from collections.abc import Iterator


#: Advice that is printed if there is too little memory.
ADVICE = "ask for less: --range, a smaller --limit, or --npz, which takes least"


@click.command(epilog="Keys of --json: docs/json.md; arrays of --npz: docs/dumps.md.")
@one_of("as_json", "as_csv", "npz")
@files("dump_file", "vmcoreinfo", "file", output="npz", stdout_is_free=True)
@dump_options
@click.argument("addresses", nargs=-1, metavar="[ADDR]...")
@click.option("--addresses", "file", metavar="FILE", help="Translate the addresses in FILE too, one a line.")
@click.option("--range", "bounds", metavar="START-END", help="Without ADDR: list only what is mapped there.")
@click.option("--limit", metavar="N", help=f"Without ADDR: find N mappings at most [default: {LIMIT}].")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.option("--csv", "as_csv", is_flag=True, help="Write comma-separated values.")
@click.option("--npz", metavar="FILE", help="Write arrays to FILE, which numpy.load reads; - is stdout.")
def command(
    addresses: tuple[str, ...], file: str | None, bounds: str | None, limit: str | None, as_json: bool,
    as_csv: bool, npz: Output | None, source: RootedDump,
) -> None:  # fmt: skip
    """Translate addresses by a RAM dump, or list all it maps.

    DUMP is an ELF core, a LiME file or (with --base or --bank) a raw image, plain, gzip or xz. An ADDR is
    hexadecimal. Without one, all mappings are listed as runs of equal bits and consecutive addresses.

    Exit status: 0 done, 1 an address is not mapped or the result is partial, 2 bad input.
    """
    form = "npz" if npz is not None else "json" if as_json else "csv" if as_csv else "text"
    result: Translation | MappingList
    if addresses or file is not None:
        if bounds is not None or limit is not None:
            raise ConfigurationError("--range and --limit are for the list of mappings: leave the addresses out")
        result = _translate(source, addresses, file, form)
    else:
        start, end = (0, source.arch.word_mask + 1) if bounds is None else parse_range(bounds, source.arch)
        result = list_mappings(source, start, end, LIMIT if limit is None else _count(limit))
    if npz is not None:
        with npz.writing() as stream:
            np.savez(stream, allow_pickle=False, **result.arrays())
    elif isinstance(result, Translation):
        _write_walks(result, form)
    else:
        _write_runs(result, form)
    warn(source, result.partial)
    click.get_current_context().exit(int(not result.complete))


def _translate(source: RootedDump, texts: tuple[str, ...], file: str | None, form: str) -> Translation:
    """Translate the addresses of the command line, step by step where that is shown, and those in a file."""
    most = source.arch.word_mask
    single = [parse_address(text, "ADDR", most) for text in texts]
    many = [] if file is None else list(_read_addresses(file, most))
    detailed = {"text": len(single), "json": None}.get(form, 0)
    return translate(source, single + many, detailed=detailed)


def _write_walks(result: Translation, form: str) -> None:
    if form == "json":
        write_json(result.facts())
    elif form == "csv":
        echo_lines(view.walk_csv(result))
    else:
        Console(highlight=False).say(view.walk_lines(result))


def _write_runs(result: MappingList, form: str) -> None:
    if form == "json":
        write_json(result.outline(), runs=view.run_json(result))
    elif form == "csv":
        echo_lines(view.run_csv(result))
    else:
        Console(highlight=False).say(view.run_lines(result))


def _read_addresses(file: str, most: int) -> Iterator[int]:
    """Read addresses, one a line, without comments, which begin with a #."""
    shown = "<stdin>" if file == "-" else file
    for number, line in enumerate(read_lines(file, shown), 1):
        text = line.decode("ascii", "replace").partition("#")[0].strip()
        if text:
            yield parse_address(text, f"{shown}:{number}", most)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not int(text):
        raise ConfigurationError(f"--limit: found {text[:40]!r}, expected a whole number, 1 to 999999999")
    return int(text)
