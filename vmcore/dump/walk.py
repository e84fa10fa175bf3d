"""Translate addresses by the page tables in a dump, or list all that they map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from attrs import asdict, frozen

from vmcore.dump.rooted import DUMP_KEYS, RootedDump
from vmcore.dump.run_table import RunTable, tabulate
from vmcore.errors import ArgumentError
from vmcore.facts import Facts, Key, Schema, Shape
from vmcore.paging.mappings import LIMIT, Mappings, find_mappings
from vmcore.paging.mmu import End, Mmu, Walk, Walks
from vmcore.paging.runs import MappingRuns, merge
from vmcore.wording import counted

_BLOCK = 1 << 14  # rows of arrays that become Python's numbers at a time

# ---- the keys

_STEP = Shape(
    "step of a walk",
    (
        Key("level", "string", "Name of the level."),
        Key("index", "number", "Index of the entry in its table."),
        Key("address", "string", "Physical address of the entry.", "address"),
        Key("word", "string or null", "The entry; null: it is not in the dump.", "hex"),
        Key("flags", "list of string", "Names of the bits that are set in it."),
        Key("page", "string", "Name of the page that the entry maps; absent where it maps none, or its level has "
            "one kind of page.", optional=True),
    ),
)  # fmt: skip
WALK_SCHEMA: Final = Schema(
    "vmcore.walk/1",
    "vmcore walk DUMP ADDR...",
    "Addresses, translated by the page tables in a dump.",
    (
        *DUMP_KEYS,
        Key("addresses", "list of object", "The walk of each address, in the order given.", shape=Shape(
            "walk",
            (
                Key("virtual", "string", "The address.", "address"),
                Key("physical", "string or null", "Where it leads to; null: nowhere.", "address"),
                Key("end", "string", 'How the walk ended: "mapped", "not present", "no table" (an entry is '
                    'neither a table nor a page), "not in memory" (the dump lacks a table) or "not canonical" '
                    "(the address is not sign-extended)."),
                Key("steps", "list of object", "The entries read, root first.", shape=_STEP),
            ),
        )),
    ),
)  # fmt: skip
RUN: Final = Shape(
    "run of mappings",
    (
        Key("virtual", "string", "First address.", "address"),
        Key("last", "string", "Last address.", "address"),
        Key("physical", "string", "Physical address of the first.", "address"),
        Key("size", "number", "Size of the run.", "bytes"),
        Key("mappings", "number", "Mappings in it."),
        Key("page_size", "number", "Size of each mapping.", "bytes"),
        Key("level", "string", "Level of their entries."),
        Key("page", "string or null", "Name of the kind of page; null: the level has one kind."),
        Key("flags", "string", "Their entries without the address.", "hex"),
        Key("names", "list of string", "Names of the bits that are set in these."),
        Key("tables", "list of string", "Entries of the tables above, root first, without addresses.", "hex"),
    ),
)
MAPPINGS_SCHEMA: Final = Schema(
    "vmcore.mappings/1",
    "vmcore walk DUMP",
    "All that the page tables in a dump map, as runs of equal bits and consecutive addresses.",
    (
        *DUMP_KEYS,
        Key("range", "object", "Addresses looked at.", shape=Shape(
            "addresses looked at",
            (
                Key("start", "string", "First address.", "address"),
                Key("last", "string", "Last address.", "address"),
            ),
        )),
        Key("mappings", "number", "Mappings in all runs."),
        Key("missing", "list of object", "Page tables that are not in the dump.", shape=Shape(
            "missing table",
            (
                Key("physical", "string", "Physical address of the table.", "address"),
                Key("level", "string", "Level of its entries."),
                Key("start", "string", "First address that it serves.", "address"),
                Key("last", "string", "Last address that it serves.", "address"),
            ),
        )),
        Key("runs", "list of object", "The runs, in order of address.", shape=RUN),
    ),
)  # fmt: skip

# ---- addresses


@frozen(eq=False)
class Translation:
    """Addresses, translated by a dump.

    Attributes:
        source: The dump and its root.
        addresses: The addresses, uint64, shape ``(n,)``.
        walks: The walk of each, as arrays.
        detailed: The walk of the first addresses step by step, for as many as were asked for.
    """

    source: RootedDump
    addresses: np.ndarray
    walks: Walks
    detailed: tuple[Walk, ...]

    @property
    def complete(self) -> bool:
        """Whether every address is mapped."""
        return not (self.walks.end != int(End.MAPPED)).any()

    @property
    def partial(self) -> tuple[str, ...]:
        """Why the result is not complete."""
        lost = int((self.walks.end == int(End.NOT_IN_MEMORY)).sum())
        leads = counted(lost, "address leads", "addresses lead")
        return (f"{leads} to what is not in the dump, of {len(self.walks.end):,}",) if lost else ()

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the last entry of each walk: physical addresses, int64, and words, uint64, shape ``(n,)``."""
        where = np.arange(len(self.addresses))
        return self.walks.entries[self.walks.depth, where], self.walks.words[self.walks.depth, where]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, for ``--npz``."""
        return {"virtual": self.addresses, **_arrays(self.walks)}

    def facts(self) -> Facts:
        """Return the object that `WALK_SCHEMA` describes.

        Raises:
            ArgumentError: Not all walks are detailed.
        """
        if len(self.detailed) != len(self.addresses):
            raise ArgumentError(
                f"translation: found {len(self.detailed)} detailed walks, expected {len(self.addresses)}, one for "
                "each address; leave out detailed= of translate()"
            )
        walks = zip(self.addresses.tolist(), self.detailed, strict=True)
        return WALK_SCHEMA.facts(
            **self.source.facts(self.partial), addresses=[_walk(address, walk) for address, walk in walks]
        )


def translate(source: RootedDump, addresses: Sequence[int], *, detailed: int | None = None) -> Translation:
    """Translate addresses.

    Args:
        source: The dump and its root.
        addresses: Virtual addresses.
        detailed: Walk this many of the first addresses step by step too; None: all.
    """
    mmu, virtual = source.mmu, np.array(addresses, np.uint64)
    steps = tuple(mmu.walk(address) for address in addresses[:detailed])
    return Translation(source, virtual, mmu.walk_many(virtual), steps)


def end_name(end: int) -> str:
    """Return the name of an `End`, for example "not present"."""
    return End(end).name.lower().replace("_", " ")


def _walk(address: int, walk: Walk) -> Facts:
    steps = [
        {
            "level": step.level.name,
            "index": address >> step.level.shift & step.level.entries - 1,
            "address": hex(step.entry_address),
            "word": None if step.word is None else hex(step.word),
            "flags": step.level.names(step.word or 0),
            **({"page": step.leaf.name} if step.leaf is not None else {}),
        }
        for step in walk.steps
    ]
    physical = None if walk.physical is None else hex(walk.physical)
    return {"virtual": hex(address), "physical": physical, "end": end_name(walk.end), "steps": steps}


# ---- all mappings


@frozen(eq=False)
class MappingList:
    """All that the tables of a dump map in a range.

    Attributes:
        source: The dump and its root.
        start: First address looked at, bytes.
        end: One past the last, bytes.
        found: The mappings, as arrays.
    """

    source: RootedDump
    start: int
    end: int
    found: Mappings

    @property
    def complete(self) -> bool:
        """Whether these are all mappings of the range."""
        return not self.partial

    @property
    def partial(self) -> tuple[str, ...]:
        """Why the result is not complete."""
        partial = self.found.partial
        if self.found.stopped is None:
            return partial
        rest = f"give --range {self.found.stopped:#x}- for it, or a larger --limit"
        return (*partial[:-1], f"{partial[-1]}; {rest}")

    def runs(self) -> MappingRuns:
        """Merge the mappings into runs."""
        return merge(self.source.mmu, self.found)

    def table(self) -> RunTable:
        """Merge the mappings into runs, and repeated runs into series."""
        mmu = self.source.mmu
        return tabulate(mmu, merge(mmu, self.found))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, for ``--npz``."""
        missing = {f"missing_{name}": array for name, array in _arrays(self.found.missing).items()}
        paths = np.zeros((len(self.found.paths), len(self.source.mmu.levels)), np.uint64)
        for number, path in enumerate(self.found.paths):
            paths[number, : len(path)] = path
        return {**_arrays(self.found), **missing, "paths": paths}

    def outline(self) -> Facts:
        """Return the object that `MAPPINGS_SCHEMA` describes, without ``runs``, which may be millions."""
        missing, levels = self.found.missing, self.source.mmu.levels
        columns = (missing.physical, missing.depth, missing.start, missing.last)
        return MAPPINGS_SCHEMA.facts(
            **self.source.facts(self.partial),
            range={"start": hex(self.start), "last": hex(self.end - 1)},
            mappings=len(self.found),
            missing=[
                {"physical": hex(at), "level": levels[depth].name, "start": hex(first), "last": hex(last)}
                for at, depth, first, last in rows(*columns)
            ],
        )

    def facts(self) -> Facts:
        """Return the object that `MAPPINGS_SCHEMA` describes."""
        mmu, runs = self.source.mmu, self.runs()
        return self.outline() | {
            "runs": [
                {
                    "virtual": hex(virtual),
                    "last": hex(virtual + size - 1),
                    "physical": hex(physical),
                    "size": size,
                    "mappings": count,
                    **run_kind(mmu, runs, kind),
                }
                for virtual, physical, size, count, *kind in run_rows(runs)
            ]
        }


def list_mappings(source: RootedDump, start: int, end: int, limit: int = LIMIT) -> MappingList:
    """List the mappings in ``[start, end)``.

    Args:
        source: The dump and its root.
        start: First address, bytes.
        end: One past the last address, bytes.
        limit: Mappings to find at most.
    """
    return MappingList(source, start, end, find_mappings(source.mmu, start, end, limit))


def rows(*columns: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Yield the rows of arrays of equal length, a block at a time: as lists, numbers take much more memory."""
    for at in range(0, len(columns[0]), _BLOCK):
        yield from zip(*(column[at : at + _BLOCK].tolist() for column in columns), strict=True)


def run_rows(runs: MappingRuns) -> Iterator[tuple[int, ...]]:
    """Yield virtual and physical address, size and count of each run, and the numbers `run_kind` takes."""
    return rows(runs.virtual, runs.physical, runs.size, runs.count, runs.shift, runs.depth, runs.leaf, runs.flags,
                runs.path)  # fmt: skip


def run_kind(mmu: Mmu, runs: MappingRuns, kind: Sequence[int]) -> Facts:
    """Return the keys of `RUN` that many runs share.

    Args:
        mmu: The walk that found the runs.
        runs: The runs.
        kind: Shift, depth, leaf, flags and path of a run.
    """
    shift, depth, leaf, flags, path = kind
    level = mmu.levels[depth]
    return {
        "page_size": 1 << shift,
        "level": level.name,
        "page": level.leaves[leaf].name if leaf >= 0 else None,
        "flags": hex(flags),
        "names": level.names(flags),
        "tables": [hex(entry) for entry in runs.paths[path]],
    }


def _arrays(record: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a record by name."""
    return {name: value for name, value in asdict(record, recurse=False).items() if isinstance(value, np.ndarray)}
