"""What `vmcore walk` writes: walks step by step, runs of mappings as a table, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from attrs import asdict

from vmcore.architecture import Level
from vmcore.cli.console import Console
from vmcore.cli.dump_options import Source
from vmcore.cli.output import echo, echo_lines
from vmcore.paging.mappings import Mappings
from vmcore.paging.mmu import End, Mmu, Walk, Walks
from vmcore.paging.runs import MappingRuns, merge, repeats
from vmcore.units import format_size
from vmcore.wording import counted

_BLOCK = 1 << 14  # rows of arrays that become Python's numbers at a time
_NOTHING = "nothing is mapped here; if that cannot be, the root or the architecture is not the right one"

_WHY = {
    End.MAPPED: "mapped",
    End.NOT_PRESENT: "not mapped: the {level} entry is not present",
    End.NO_TABLE: "not mapped: the {level} entry is neither a table nor a page",
    End.NOT_IN_MEMORY: "not in the dump: the {level} entry cannot be read",
    End.NOT_CANONICAL: "not mapped: the address is not sign-extended",
}


def arrays(record: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a record by name."""
    return {name: value for name, value in asdict(record, recurse=False).items() if isinstance(value, np.ndarray)}


def _ending(end: int) -> str:
    return End(end).name.lower().replace("_", " ")


# ---- walks


def _index(level: Level, address: int) -> int:
    return address >> level.shift & level.entries - 1


def _step_line(walk: Walk, number: int, address: int) -> str:
    step = walk.steps[number]
    level = step.level
    head = f"  {level.name}[{_index(level, address)}] at {step.entry_address:#x}"
    if step.word is None:
        return f"{head}: not in the dump"
    bits = "|".join(level.names(step.word)) or "no flags"
    return f"{head}: {step.word:0{2 * level.word_bytes}x}  {_what(walk, number)}{bits}"


def _what(walk: Walk, number: int) -> str:
    """Say what an entry is: the table it points to, the page it maps, or nothing."""
    step = walk.steps[number]
    if number + 1 < len(walk.steps):
        return f"table {step.level.decode(step.word or 0):#x} "
    if walk.end is not End.MAPPED:
        return ""
    return f"{step.leaf.name} " if step.leaf is not None else f"{format_size(1 << step.level.shift)} page "


def walk_block(source: Source, address: int) -> Iterator[str]:
    """Yield the lines for one address: each entry, and the result or where and why it ends."""
    walk = source.mmu.walk(address)
    yield f"{address:#0{source.arch.word_bits // 4 + 2}x}"
    for number in range(len(walk.steps)):
        yield _step_line(walk, number, address)
    if walk.physical is not None:
        yield f"  physical address {walk.physical:#x}"
    else:
        yield "  " + _WHY[walk.end].format(level=walk.steps[-1].level.name if walk.steps else "")


def print_walks(source: Source, single: list[int], many: list[int], walks: Walks) -> None:
    """Print the steps of single addresses, and a line for each of many."""
    echo(source.head)
    for address in single:
        echo_lines(walk_block(source, address))
    wide, first = source.arch.word_bits // 4 + 2, len(single)
    rest = zip(many, *(x[first:].tolist() for x in (walks.physical, walks.end, walks.depth)), strict=True)
    names = [level.name for level in source.mmu.levels]
    echo_lines(
        f"{address:#0{wide}x}  "
        + (f"{physical:#x}" if physical >= 0 else _WHY[End(end)].format(level=names[depth]))
        for address, physical, end, depth in rest
    )


def walk_facts(source: Source, addresses: list[int]) -> list[dict[str, Any]]:
    """Return the walk of each address as JSON has it."""
    mmu = source.mmu
    return [_walk_fact(address, mmu.walk(address)) for address in addresses]


def _walk_fact(address: int, walk: Walk) -> dict[str, Any]:
    steps = [
        {
            "level": step.level.name,
            "index": _index(step.level, address),
            "address": hex(step.entry_address),
            "word": None if step.word is None else hex(step.word),
            "flags": step.level.names(step.word or 0),
            **({"page": step.leaf.name} if step.leaf is not None else {}),
        }
        for step in walk.steps
    ]
    physical = None if walk.physical is None else hex(walk.physical)
    return {"virtual": hex(address), "physical": physical, "end": _ending(walk.end), "steps": steps}


WALK_COLUMNS = ("virtual", "physical", "end", "level", "address", "word")


def walk_lines(source: Source, addresses: list[int], walks: Walks) -> Iterator[tuple[object, ...]]:
    """Yield a line of CSV for each address, with the entry its walk ended at."""
    names = [level.name for level in source.mmu.levels]
    where = np.arange(len(addresses))
    entry, word = walks.entries[walks.depth, where], walks.words[walks.depth, where]
    columns = (walks.physical, walks.end, walks.depth, entry, word)
    lists: list[list[int]] = [column.tolist() for column in columns]
    for address, physical, end, depth, at, bits in zip(addresses, *lists, strict=True):
        there = physical >= 0
        begun = (names[depth], hex(at), hex(bits)) if depth >= 0 else ("", "", "")
        yield hex(address), hex(physical) if there else "", _ending(end), *begun


# ---- runs

RUN_COLUMNS = (
    "virtual", "last", "physical", "size", "mappings", "page_size", "level", "page", "flags", "names", "tables",
)  # fmt: skip


def _rows(*columns: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Yield the rows of arrays of equal length, a block at a time: numbers take much more room in lists."""
    for at in range(0, len(columns[0]), _BLOCK):
        yield from zip(*(column[at : at + _BLOCK].tolist() for column in columns), strict=True)


def _kind(mmu: Mmu, runs: MappingRuns, key: tuple[int, ...]) -> dict[str, Any]:
    """Return what many runs share, by names of `RUN_COLUMNS`."""
    shift, depth, leaf, flags, path = key
    level = mmu.levels[depth]
    return {
        "page_size": 1 << shift,
        "level": level.name,
        "page": level.leaves[leaf].name if leaf >= 0 else None,
        "flags": hex(flags),
        "names": level.names(flags),
        "tables": [hex(entry) for entry in runs.paths[path]],
    }


def _run_texts(mmu: Mmu, runs: MappingRuns, row: str, end: Callable[[dict[str, Any]], str]) -> Iterator[str]:
    """Yield a line for each run: five numbers in the format ``row``, and what ``end`` makes of its kind."""
    known: dict[tuple[int, ...], str] = {}
    columns = (runs.virtual, runs.physical, runs.size, runs.count, runs.shift, runs.depth, runs.leaf, runs.flags,
               runs.path)  # fmt: skip
    for virtual, physical, size, count, *rest in _rows(*columns):
        key = tuple(rest)
        if key not in known:
            known[key] = end(_kind(mmu, runs, key))
        yield row % (virtual, virtual + size - 1, physical, size, count) + known[key]


def _json_end(kind: dict[str, Any]) -> str:
    return json.dumps(kind)[1:]


def run_objects(mmu: Mmu, found: Mappings) -> Iterator[str]:
    """Yield each run as an object of JSON on one line."""
    row = '{"virtual": "%#x", "last": "%#x", "physical": "%#x", "size": %d, "mappings": %d, '
    return _run_texts(mmu, merge(mmu, found), row, _json_end)


def mapping_facts(mmu: Mmu, found: Mappings, start: int, end: int) -> dict[str, Any]:
    """Return the list of mappings as JSON has it, without the runs."""
    missing = found.missing
    columns = (missing.physical, missing.depth, missing.start, missing.last)
    lost = [
        {"physical": hex(at), "level": mmu.levels[depth].name, "start": hex(first), "last": hex(last)}
        for at, depth, first, last in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return {
        "range": {"start": hex(start), "last": hex(end - 1)},
        "mappings": len(found),
        "missing": lost,
    }


def _csv_line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _csv_end(kind: dict[str, Any]) -> str:
    return _csv_line(" ".join(v) if isinstance(v, list) else "" if v is None else v for v in kind.values())


def print_run_csv(mmu: Mmu, found: Mappings) -> None:
    """Write a line of CSV for each run, with a header; lists are parted by spaces."""
    echo(_csv_line(RUN_COLUMNS))
    echo_lines(_run_texts(mmu, merge(mmu, found), "%#x,%#x,%#x,%d,%d,", _csv_end))


def print_csv(columns: tuple[str, ...], lines: Iterable[tuple[object, ...]]) -> None:
    """Write CSV with a header."""
    echo_lines(_csv_line(line) for line in (columns, *lines))


def print_runs(console: Console, source: Source, found: Mappings) -> None:
    """Print runs as a table, a series of equal ones as one line, and the meaning of their bits below."""
    mmu, runs = source.mmu, merge(source.mmu, found)
    first, times, distance = repeats(runs)
    wide, kinds = source.arch.word_bits // 4, _Kinds(mmu, runs)
    counts = f"{counted(len(found), 'mapping')} in {counted(len(runs), 'run')}"
    lines = counts if len(first) == len(runs) else f"{counts}, {counted(len(first), 'line')}"
    console.say([("", source.head), ("", lines)])
    if not len(runs):
        console.say([("", _NOTHING)])
        return
    title = f"{'virtual':<{2 * wide + 5}}  {'physical':>13}  {'size':>10}  {'pages of':>8}  bits"
    console.say([("", ""), ("bold", title)])
    names = ("virtual", "physical", "size", "shift")
    columns = [getattr(runs, name)[first] for name in names]
    echo_lines(
        f"{virtual:#0{wide + 2}x}-{virtual + size - 1:#0{wide + 2}x}  {physical:#13x}  {format_size(size):>10}  "
        f"{format_size(1 << shift):>8}  {kind:>4}" + (f"  {n:,} times, every {format_size(step)}" if n > 1 else "")
        for virtual, physical, size, shift, kind, n, step in _rows(*columns, kinds.numbers[first], times, distance)
    )
    console.say(("", line) for line in kinds.legend())


class _Kinds:
    """The different bits that runs have, numbered in order of their first use."""

    def __init__(self, mmu: Mmu, runs: MappingRuns) -> None:
        self._levels, self._paths = mmu.levels, runs.paths
        _, code = np.unique(runs.flags, return_inverse=True)  # one number a run: rows take much more memory
        leaf = runs.leaf.view(np.uint8)
        for column, size in ((runs.depth, len(mmu.levels)), (leaf, 256), (runs.path, len(runs.paths))):
            code *= size
            code += column
        _, first, which = np.unique(code, return_index=True, return_inverse=True)
        self._depth, self._flags, self._path = (x[first] for x in (runs.depth, runs.flags, runs.path))
        self._order = np.argsort(first)
        rank = np.empty(len(first), np.int64)
        rank[self._order] = np.arange(1, len(first) + 1)
        #: of each run, from 1 up
        self.numbers = rank[which.reshape(-1)]

    def legend(self) -> Iterator[str]:
        """Yield a line for each: the level, the entry without the address, and those of the tables above."""
        if len(self._order):
            yield ""
            yield "bits, without the address"
        for number, kind in enumerate(self._order.tolist(), 1):
            depth, flags, path = (int(x[kind]) for x in (self._depth, self._flags, self._path))
            level = self._levels[depth]
            upper = zip(self._levels, self._paths[path], strict=False)
            above = " ".join(f"{up.name} {word:#x}" for up, word in upper) or "none"
            names = "|".join(level.names(flags)) or "no flags"
            yield f"{number:>4}  {level.name} {flags:#x} {names}, tables above: {above}"
