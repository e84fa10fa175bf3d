"""Show walks step by step, and runs of mappings as a table, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator

from vmcore.dump.run_table import RunTable
from vmcore.dump.walk import RUN, MappingList, Translation, end_name, rows, run_kind, run_rows
from vmcore.facts import Facts
from vmcore.paging.mmu import End, Walk
from vmcore.units import format_size
from vmcore.views.dump import headline
from vmcore.views.lines import Line
from vmcore.wording import counted

_NOTHING = "nothing is mapped here; if that cannot be, the root or the architecture is not the right one"
_WHY = {
    End.MAPPED: "mapped",
    End.NOT_PRESENT: "not mapped: the {level} entry is not present",
    End.NO_TABLE: "not mapped: the {level} entry is neither a table nor a page",
    End.NOT_IN_MEMORY: "not in the dump: the {level} entry cannot be read",
    End.NOT_CANONICAL: "not mapped: the address is not sign-extended",
}
WALK_COLUMNS = ("virtual", "physical", "end", "level", "address", "word")
RUN_COLUMNS = tuple(key.name for key in RUN.keys)

# ---- walks


def walk_lines(result: Translation) -> Iterator[Line]:
    """Yield the steps of the detailed addresses, and one line for each other address."""
    yield "", headline(result.source)
    first = len(result.detailed)
    addresses, walks = result.addresses.tolist(), result.walks
    for address, walk in zip(addresses, result.detailed, strict=False):
        for line in _steps(result, address, walk):
            yield "", line
    wide = result.source.arch.word_bits // 4 + 2
    names = [level.name for level in result.source.mmu.levels]
    rest = zip(
        addresses[first:], *(x[first:].tolist() for x in (walks.physical, walks.end, walks.depth)), strict=True
    )
    for address, physical, end, depth in rest:
        found = f"{physical:#x}" if physical >= 0 else _WHY[End(end)].format(level=names[depth])
        yield "", f"{address:#0{wide}x}  {found}"


def _steps(result: Translation, address: int, walk: Walk) -> Iterator[str]:
    """Yield the address, each entry, and the result or the reason why there is none."""
    yield f"{address:#0{result.source.arch.word_bits // 4 + 2}x}"
    for number in range(len(walk.steps)):
        yield _step(walk, number, address)
    if walk.physical is not None:
        yield f"  physical address {walk.physical:#x}"
    else:
        yield "  " + _WHY[walk.end].format(level=walk.steps[-1].level.name if walk.steps else "")


def _step(walk: Walk, number: int, address: int) -> str:
    step = walk.steps[number]
    level = step.level
    head = f"  {level.name}[{address >> level.shift & level.entries - 1}] at {step.entry_address:#x}"
    if step.word is None:
        return f"{head}: not in the dump"
    bits = "|".join(level.names(step.word)) or "no flags"
    return f"{head}: {step.word:0{2 * level.word_bytes}x}  {_target(walk, number)}{bits}"


def _target(walk: Walk, number: int) -> str:
    """Return the table an entry points to, the page it maps, or "" if it does neither."""
    step = walk.steps[number]
    if number + 1 < len(walk.steps):
        return f"table {step.level.decode(step.word or 0):#x} "
    if walk.end is not End.MAPPED:
        return ""
    return f"{step.leaf.name} " if step.leaf is not None else f"{format_size(1 << step.level.shift)} page "


def walk_csv(result: Translation) -> Iterator[str]:
    """Yield a header, and for each address a line of CSV with the entry its walk ended at."""
    yield _csv_line(WALK_COLUMNS)
    names, walks = [level.name for level in result.source.mmu.levels], result.walks
    lists = (
        column.tolist() for column in (result.addresses, walks.physical, walks.end, walks.depth, *result.ends())
    )
    for address, physical, end, depth, at, bits in zip(*lists, strict=True):
        begun = (names[depth], hex(at), hex(bits)) if depth >= 0 else ("", "", "")
        yield _csv_line((hex(address), hex(physical) if physical >= 0 else "", end_name(end), *begun))


# ---- runs


def _run_texts(result: MappingList, row: str, end: Callable[[Facts], str]) -> Iterator[str]:
    """Yield a line for each run: five numbers in the format ``row``, and the text ``end`` makes of its kind."""
    mmu, runs = result.source.mmu, result.runs()
    known: dict[tuple[int, ...], str] = {}
    for virtual, physical, size, count, *rest in run_rows(runs):
        kind = tuple(rest)
        if kind not in known:
            known[kind] = end(run_kind(mmu, runs, kind))
        yield row % (virtual, virtual + size - 1, physical, size, count) + known[kind]


def _json_end(kind: Facts) -> str:
    return json.dumps(kind)[1:]


def run_json(result: MappingList) -> Iterator[str]:
    """Yield each run as JSON on one line: ``result.facts()["runs"]``, several times as fast."""
    row = '{"virtual": "%#x", "last": "%#x", "physical": "%#x", "size": %d, "mappings": %d, '
    return _run_texts(result, row, _json_end)


def _csv_line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _csv_end(kind: Facts) -> str:
    return _csv_line(" ".join(v) if isinstance(v, list) else "" if v is None else v for v in kind.values())


def run_csv(result: MappingList) -> Iterator[str]:
    """Yield a header and a line of CSV for each run, with spaces between the items of a list."""
    yield _csv_line(RUN_COLUMNS)
    yield from _run_texts(result, "%#x,%#x,%#x,%d,%d,", _csv_end)


def run_lines(result: MappingList) -> Iterator[Line]:
    """Yield a table of runs, a series of equal runs as one line, and below it the meaning of their bits."""
    table = result.table()
    runs, first = table.runs, table.first
    counts = f"{counted(len(result.found), 'mapping')} in {counted(len(runs), 'run')}"
    yield "", headline(result.source)
    yield "", counts if len(first) == len(runs) else f"{counts}, {counted(len(first), 'line')}"
    if not len(runs):
        yield "", _NOTHING
        return
    wide = result.source.arch.word_bits // 4
    yield "", ""
    yield "bold", f"{'virtual':<{2 * wide + 5}}  {'physical':>13}  {'size':>10}  {'pages of':>8}  bits"
    columns = (
        runs.virtual[first],
        runs.physical[first],
        runs.size[first],
        runs.shift[first],
        table.numbers[first],
    )
    for virtual, physical, size, shift, kind, n, step in rows(*columns, table.times, table.distance):
        yield (
            "",
            (
                f"{virtual:#0{wide + 2}x}-{virtual + size - 1:#0{wide + 2}x}  {physical:#13x}  "
                f"{format_size(size):>10}  {format_size(1 << shift):>8}  {kind:>4}"
                + (f"  {n:,} times, every {format_size(step)}" if n > 1 else "")
            ),
        )
    yield from _legend(table)


def _legend(table: RunTable) -> Iterator[Line]:
    """Yield a line for each kind: its level, its bits, and the entries of the tables above."""
    yield "", ""
    yield "", "bits, without the address"
    for number, kind in enumerate(table.kinds, 1):
        above = " ".join(f"{level.name} {word:#x}" for level, word in kind.above) or "none"
        names = "|".join(kind.level.names(kind.flags)) or "no flags"
        yield "", f"{number:>4}  {kind.level.name} {kind.flags:#x} {names}, tables above: {above}"
