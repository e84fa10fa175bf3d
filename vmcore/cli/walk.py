"""``vmcore walk``: translate addresses through the page tables in a RAM dump, or list all that they map.

``--json`` writes one object: schema (1), dump, arch, root (address, how), problems (of file and root), partial
(why the result is not complete) and either

- addresses: virtual, physical (null: none), end ("mapped", "not present", "no table", "not in memory" or "not
  canonical") and steps: level, index, address and word (null: not in the dump) of the entry, flags, and page,
  where the step ends at one: its name; or
- range (start, last), mappings (their number), runs and missing. A run has virtual, last, physical, size,
  mappings, page_size, level, page (its name, null: the level has one kind), flags (the entry without the address),
  names and tables (the entries above it, root first, without addresses); a missing table: physical, level, start
  and last.

``--csv`` has the same columns. ``--npz`` has the arrays of `vmcore.paging.mappings.Mappings`, or of
`vmcore.paging.mmu.Walks`, missing tables as ``missing_*``, and a row of ``paths`` for each set of tables above, 0
where there are no more.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
import numpy as np

from vmcore.cli.console import Console, write_json
from vmcore.cli.dump_options import Source, dump_options, parse_address, parse_range, tell
from vmcore.cli.options import files, one_of
from vmcore.errors import ConfigurationError
from vmcore.paging.mappings import LIMIT, find_mappings
from vmcore.paging.mmu import End
from vmcore.system.output import Output
from vmcore.texts.lines import read_lines
from vmcore.views import walk as walk_text
from vmcore.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator


#: What to do where there is no memory for it.
ADVICE = "ask for less: --range, a smaller --limit, or --npz, which takes least"


@click.command(epilog="Keys of --json and --npz: python -m pydoc vmcore.cli.walk.")
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
    as_csv: bool, npz: Output | None, source: Source,
) -> None:  # fmt: skip
    """Translate addresses by a RAM dump, or list all it maps.

    DUMP is an ELF core, a LiME file or (with --base or --bank) a raw image, plain, gzip or xz. An ADDR is
    hexadecimal. Without one, all mappings are listed as runs of equal bits and consecutive addresses.

    Exit status: 0 done, 1 an address is not mapped or the result is partial, 2 bad input.
    """
    form = "json" if as_json else "csv" if as_csv else None
    if addresses or file is not None:
        if bounds is not None or limit is not None:
            raise ConfigurationError("--range and --limit are for the list of mappings: leave the addresses out")
        status = _translate(source, addresses, file, form, npz)
    else:
        status = _enumerate(source, bounds, limit, form, npz)
    click.get_current_context().exit(status)


def _translate(
    source: Source, texts: tuple[str, ...], file: str | None, form: str | None, npz: Output | None
) -> int:
    most = source.arch.word_mask
    single = [parse_address(text, "ADDR", most) for text in texts]
    many = [] if file is None else list(_read_addresses(file, most))
    walks = source.mmu.walk_many(np.array(single + many, np.uint64))
    lost = int((walks.end == End.NOT_IN_MEMORY).sum())
    leads = counted(lost, "address leads", "addresses lead")
    partial = [f"{leads} to what is not in the dump, of {len(walks.end):,}"] if lost else []
    if npz is not None:
        _save(npz, virtual=np.array(single + many, np.uint64), **walk_text.arrays(walks))
    elif form == "json":
        facts = walk_text.walk_facts(source, single + many)
        write_json(source.facts() | {"partial": partial, "addresses": facts})
    elif form == "csv":
        walk_text.print_csv(walk_text.WALK_COLUMNS, walk_text.walk_lines(source, single + many, walks))
    else:
        walk_text.print_walks(source, single, many, walks)
    tell(partial, source)
    return int((walks.end != End.MAPPED).any())


def _read_addresses(file: str, most: int) -> Iterator[int]:
    """Read addresses, one a line; what follows a # is a comment."""
    shown = "<stdin>" if file == "-" else file
    for number, line in enumerate(read_lines(file, shown), 1):
        text = line.decode("ascii", "replace").partition("#")[0].strip()
        if text:
            yield parse_address(text, f"{shown}:{number}", most)


def _enumerate(source: Source, bounds: str | None, limit: str | None, form: str | None, npz: Output | None) -> int:
    start, end = (0, source.arch.word_mask + 1) if bounds is None else parse_range(bounds, source.arch)
    most = LIMIT if limit is None else _count(limit)
    mmu = source.mmu
    found = find_mappings(mmu, start, end, most)
    partial = found.partial
    if found.stopped is not None:
        partial = (*partial[:-1], f"{partial[-1]}; give --range {found.stopped:#x}- for it, or a larger --limit")
    if npz is not None:
        missing = {f"missing_{name}": array for name, array in walk_text.arrays(found.missing).items()}
        paths = np.zeros((len(found.paths), len(mmu.levels)), np.uint64)
        for number, path in enumerate(found.paths):
            paths[number, : len(path)] = path
        _save(npz, **walk_text.arrays(found), **missing, paths=paths)
    elif form == "json":
        facts = walk_text.mapping_facts(mmu, found, start, end)
        runs = walk_text.run_objects(mmu, found)
        write_json(source.facts() | {"partial": list(partial)} | facts, runs=runs)
    elif form == "csv":
        walk_text.print_run_csv(mmu, found)
    else:
        walk_text.print_runs(Console(highlight=False), source, found)
    tell(partial, source)
    return int(bool(partial))


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not int(text):
        raise ConfigurationError(f"--limit: found {text[:40]!r}, expected a whole number, 1 to 999999999")
    return int(text)


def _save(npz: Output, /, **arrays: np.ndarray) -> None:
    with npz.writing() as file:
        np.savez(file, allow_pickle=False, **arrays)
