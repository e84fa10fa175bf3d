"""Replay scripts of placement answers and compare, see `vmcore.testing.golden`.

A script is a file of JSON lines. The header describes a machine and names the generation whose kernel answered.
Each further line is an operation with its answer, and ends with the number of lazily freed pages after it:

| line | operation |
|---|---|
| ``["a", cpu, size, align, start, end, address, lazy]`` | a request; null: it failed, also after a purge |
| ``["f", cpu, address, lazy]`` | a free; a drain that it causes runs at once |
| ``["p", cpu, number, lazy]`` | a purge; ``number`` is null if the kernel does not tell it |
| ``["P", cpu, number, lazy]`` | a purge of everything |
| ``["c", cpu, align, [[offset, size], ...], base, lazy]`` | a percpu chunk |
| ``["end", [[start, end], ...]]`` | the last line, from 5.2 on: the free blocks |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any

from attrs import define, field

from vmcore.errors import ConfigurationError, GoldenError, TraceError, VmcoreError
from vmcore.placement.freeblocks import FreeBlocks
from vmcore.placement.seam import Generation, Placement, Space
from vmcore.texts.lines import read_lines
from vmcore.wording import counted, printable

_LONGEST_LINE = 1 << 22  # bytes. The last line has all free blocks
_PAGES = (4096, 8192, 16384, 32768, 65536)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def _pairs(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_whole, pair)) for pair in value
    )


def _answer(value: object) -> bool:
    return value is None or _whole(value)


def _power_of_two(value: object) -> bool:
    return isinstance(value, int) and _whole(value) and value.bit_count() == 1


#: Fields of a header: a test of the value, and the expectation that an error names.
_HEADER: dict[str, tuple[Callable[[Any], bool], str]] = {
    "generation": (lambda v: isinstance(v, str), "the name of a placement generation"),
    "word_bits": (lambda v: v in (32, 64), "32 or 64"),
    "page": (lambda v: v in _PAGES, f"one of {', '.join(map(str, _PAGES))}"),
    "start": (_whole, "an address, a number below 2^64"),
    "end": (_whole, "an address, a number below 2^64"),
    "cpus": (lambda v: _whole(v) and 0 < v <= 8192, "1 to 8192"),
    "early": (_pairs, "a list of [start, end]"),
}
#: Fields of each operation: its tests, in order, and its form.
_OPS: dict[str, tuple[tuple[Callable[[Any], bool], ...], str]] = {
    "a": ((_whole, _whole, _power_of_two, _whole, _whole, _answer, _whole),
          '["a", cpu, size, align, start, end, address, lazy]'),
    "f": ((_whole, _whole, _whole), '["f", cpu, address, lazy]'),
    "p": ((_whole, _answer, _whole), '["p", cpu, number, lazy]'),
    "P": ((_whole, _answer, _whole), '["P", cpu, number, lazy]'),
    "c": ((_whole, _power_of_two, lambda v: _pairs(v) and v != [], _answer, _whole),
          '["c", cpu, align, [[offset, size], ...], base, lazy]'),
    "end": ((_pairs,), '["end", [[start, end], ...]]'),
}  # fmt: skip


@define
class PlacementTally:
    """The comparisons of one script, and the first mismatch."""

    file: str
    operations: int = 0
    mismatches: int = 0
    first: str = ""


@define
class _Run:
    """A placement, and the sizes of its areas by address."""

    placement: Placement
    sizes: dict[int, int] = field(factory=dict)

    def twice(self, attempt: Callable[[], int | None]) -> int | None:
        """Try, purge everything after a failure, and try once more."""
        found = attempt()
        if found is None:
            self.placement.purge(everything=True)
            found = attempt()
        return found

    def run(self, op: Sequence[Any]) -> tuple[Any, Any]:
        """Run one operation. Return the script's answer and the placement's."""
        kind, cpu = op[0], op[1]
        if kind == "a":
            size, align, start, end = op[2:6]
            found = self.twice(lambda: self.placement.attempt(size, align, start, end, cpu))
            if found is not None:
                self.sizes[found] = size
            return op[6], found
        if kind == "f":
            if self.placement.release(op[2], self.sizes.pop(op[2]), cpu):
                self.placement.purge()
            return None, None
        if kind == "c":
            offsets, sizes = zip(*op[3], strict=True)
            found = self.twice(lambda: self.placement.percpu(offsets, sizes, op[2]))
            if found is not None:
                self.sizes.update({found + offset: size for offset, size in op[3]})
            return op[4], found
        number = self.placement.purge(everything=kind == "P").number
        return op[2], None if op[2] is None else number


def is_script(header: object) -> bool:
    """Tell whether the first line of a file is the header of a placement script."""
    return isinstance(header, dict) and "generation" in header and "hdr" not in header


def read_script(path: str) -> Generator[tuple[int, Any], None, None]:
    """Yield the lines of a script (plain, gzip or xz), the header first, each with its number from 1.

    Raises:
        GoldenError: The file cannot be read, or a line does not have the form of a script's.
    """
    number, ended, header = 0, False, {}
    try:
        with closing(read_lines(path, path, _LONGEST_LINE)) as lines:
            for number, text in enumerate(lines, 1):
                line = json.loads(text)
                at = f"{path}:{number}"
                if ended:
                    raise GoldenError(f"{at}: a line behind the end, expected none")
                if number == 1:
                    _check_header(line, at)
                    header = line
                else:
                    _check_op(line, at)
                    _check_numbers(line, header, at)
                    ended = line[0] == "end"
                yield number, line
    except TraceError as error:
        raise GoldenError(f"{path}:{number + 1}: {error.problem}") from error
    except (ValueError, RecursionError) as error:  # also of a number with too many digits
        if isinstance(error, VmcoreError):
            raise
        raise GoldenError(f"{path}:{number}: not JSON: {error}; is this a placement script?") from error
    if number < 2:
        found = counted(number, "line")
        raise GoldenError(f"{path}: found {found}, expected a header and operations")


def _check_header(header: Any, at: str) -> None:
    if not is_script(header):
        raise GoldenError(f"{at}: found no header of a placement script, expected an object with 'generation'")
    missing = [key for key in _HEADER if key not in header]
    if missing:
        raise GoldenError(f"{at}: the header lacks {', '.join(missing)}")
    for key, (fits, expected) in _HEADER.items():
        if not fits(header[key]):
            raise GoldenError(f"{at}: header field {key!r}: found {header[key]!r}, expected {expected}")
    start, end, bits, page = header["start"], header["end"], header["word_bits"], header["page"]
    early = sorted(header["early"])
    if any(a % page or b % page or not a < b < 1 << bits for a, b in early) or any(
        left[1] > right[0] for left, right in pairwise(early)
    ):
        raise GoldenError(f"{at}: header field 'early': expected areas of whole pages that do not overlap")
    if not start < end < 1 << bits:
        found = f"found {start:#x} and {end:#x}, expected start < end < 2^{bits}"
        raise GoldenError(f"{at}: header fields 'start' and 'end': {found}")


def _check_op(op: Any, at: str) -> None:
    form = _OPS.get(op[0]) if isinstance(op, list) and op and isinstance(op[0], str) else None
    if form is None:
        raise GoldenError(f"{at}: found {json.dumps(op)[:60]}, expected an operation: {', '.join(_OPS)}")
    tests, shape = form
    if len(op) != len(tests) + 1 or not all(fits(v) for fits, v in zip(tests, op[1:], strict=True)):
        raise GoldenError(f"{at}: found {json.dumps(op)[:120]}, expected {shape}")


def _check_numbers(op: Any, header: dict[str, Any], at: str) -> None:
    """Refuse an operation that no caller could ask for."""
    page, most = header["page"], 1 << header["word_bits"]
    if op[0] == "end":
        return
    if op[1] >= header["cpus"]:
        raise GoldenError(f"{at}: found CPU {op[1]}, expected less than {header['cpus']}, as in the header")
    sizes = [op[2]] if op[0] == "a" else [size for _, size in op[3]] if op[0] == "c" else []
    if any(not 0 < size < most or size % page for size in sizes):
        raise GoldenError(
            f"{at}: found an area of {min(sizes)} to {max(sizes)} bytes, expected whole pages, at least one"
        )
    if op[0] == "a" and not op[4] < op[5] < most:
        raise GoldenError(f"{at}: found the window {op[4]:#x} to {op[5]:#x}, expected start < end < {most:#x}")
    if op[0] == "a" and (op[3] >= most or op[4] % page):
        raise GoldenError(
            f"{at}: found alignment {op[3]:#x} from {op[4]:#x}, expected less than a word, from a page on"
        )
    if op[0] == "c" and (op[2] < page or any(offset % op[2] or size % op[2] for offset, size in op[3])):
        raise GoldenError(
            f"{at}: found offsets and sizes that are no multiples of {op[2]:#x}, or less than a page"
        )
    if op[0] == "c" and (max(o + s for o, s in op[3]) >= most or _overlap(op[3])):
        raise GoldenError(f"{at}: found areas of a percpu chunk that overlap or are too far apart")


def _overlap(areas: list[list[int]]) -> bool:
    return any(left[0] + left[1] > right[0] for left, right in pairwise(sorted(areas)))


def replay_script(path: str, choose: Callable[[str], Generation]) -> PlacementTally:
    """Replay one script, up to its first mismatch.

    Args:
        path: of the script.
        choose: from the generation that the header names to the one whose rules are to be compared.

    Raises:
        GoldenError: The script cannot be read, or frees an area that is not allocated.
    """
    tally = PlacementTally(path)
    lines = read_script(path)
    with closing(lines):
        _, header = next(lines)
        early = tuple((start, end) for start, end in header["early"])
        space = Space(header["word_bits"], header["page"], header["start"], header["end"], header["cpus"], early)
        try:
            generation = choose(header["generation"])
        except ConfigurationError as error:
            raise GoldenError(f"{path}:1: {error}") from None
        run = _Run(generation.make(space), {start: end - start for start, end in early})
        _replay(run, lines, tally)
    return tally


def _replay(run: _Run, lines: Iterable[tuple[int, Any]], tally: PlacementTally) -> None:
    for number, op in lines:
        if op[0] == "end":
            if isinstance(run.placement, FreeBlocks):
                found = [[block.start, block.end] for block in run.placement.blocks]
                if found != op[1]:
                    want, got = (set(map(tuple, blocks)) for blocks in (op[1], found))
                    first = min(want ^ got)
                    answer = "a free block" if first in want else "none"
                    _differ(tally, number, f"{answer} at {first[0]:#x} to {first[1]:#x}", "the other")
            continue  # to find a line behind the end
        if op[0] == "f" and op[2] not in run.sizes:
            raise GoldenError(f"{tally.file}:{number}: frees {op[2]:#x}, where no area is allocated")
        want, got = run.run(op)
        tally.operations += 1
        if want != got or run.placement.lazy_pages != op[-1]:
            wanted = f"{_shown(want)} and {op[-1]} lazy pages"
            _differ(tally, number, wanted, f"{_shown(got)} and {run.placement.lazy_pages}", op)
            return


def _shown(answer: int | None) -> str:
    return "nothing" if answer is None else f"{answer:#x}"


def _differ(tally: PlacementTally, number: int, want: str, got: str, op: Any = None) -> None:
    tally.mismatches += 1
    where = f"{tally.file}:{number}: "
    tally.first = printable(f"{where}expected {want}, got {got}") + (f"\n  > {json.dumps(op)[:200]}" if op else "")
