"""Replay golden bundles and placement scripts and compare: ``python -m vmcore.golden FILE...``.

A bundle is a file of JSON lines. Each script has one header, then one line for each op: its arguments, its result,
all events in order and the counters. The op ``dump`` also has the whole area list and all page-table entries. All
of these are compared. `vmcore.testing.placement` describes placement scripts.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import click
from attrs import define, field

from vmcore.errors import GoldenError, TraceError, VmcoreError, choices
from vmcore.linking import registry as plugins
from vmcore.linking.registry import Registry
from vmcore.placement.seam import Generation
from vmcore.testing import placement
from vmcore.testing.opscript import MAX_PAGES, Event, ScriptRun
from vmcore.texts.lines import read_lines
from vmcore.units import format_size
from vmcore.wording import counted, printable


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"0x[0-9a-f]{1,16}|[0-9]{1,20}", value) is not None


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _levels(value: object) -> bool:
    shape = (str, int, int)
    return isinstance(value, list) and all(
        isinstance(level, list) and len(level) == 3 and all(map(isinstance, level, shape)) for level in value
    )


#: Fields of a header: a test of the value, and the expectation that an error names.
_HEADER: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("bits", "page_shift", "ioremap_max_order", "sizeof_vm_struct", "num_physpages"),
                    (_natural, "a number")),
    "levels": (_levels, "a list of [name, shift, entries]"),
    "page_kernel": (lambda v: _natural(v) and v < 15, "a protection, 0 to 14"),
    "page_kernel_exec": (lambda v: v is None or (_natural(v) and v < 15), "a protection, 0 to 14, or null"),
    "zones": (_strings, "a list of names"),
    "vmalloc_start": (_number, "an address as text"),
    "vmalloc_end": (_number, "an address as text"),
    "physpages": (lambda v: _natural(v) and 0 < v <= MAX_PAGES, f"1 to {MAX_PAGES}"),
}  # fmt: skip
_PHYSPAGES = "8192"  # the value of a script whose argv does not give it
_OPTIONS = {"--physpages", "--num-physpages", "--vmalloc-start", "--vmalloc-end"}
#: kinds of scripts that the generator makes. Those that end in BUG or OOPS come last
_KINDS = [
    "mixed",
    "tight",
    "ioremap",
    "vpages",
    "faults",
    "sizes",
    "windows",
    "vrw",
    "remap",
    "wrap",
    "frag",
    "fixedmap",
    "irq",
    "free_twice_struct",
    "unmap0",
    "wrapped_remove",
    "oops_vread",
    "oops_vwrite",
    "oops_nested",
    "remap_null",
    "zero_array",
    "wrapped_alloc_vm_area",
    "alias_guard",
    "nested_freed",
]
_CONTEXT = 3  # ops shown before a mismatch
_LONGEST_LINE = 1 << 20  # bytes. Lines of dumps have 100 KiB
_SCRIPT_BYTES = 8 << 20  # bytes of one script, which is held in memory: its Python objects are 25 times as large


@define
class Script:
    """One script of a bundle.

    Attributes:
        file: Path of the bundle.
        line: Line number of the header, from 1.
        header: The header.
        ops: Tuples (line number, op line), in order.
    """

    file: str
    line: int
    header: dict[str, Any]
    ops: list[tuple[int, dict[str, Any]]] = field(factory=list)

    @property
    def name(self) -> str:
        """The name of the script, or its place in the bundle."""
        return str(self.header.get("script", f"script at line {self.line}"))


@define
class Tally:
    """The comparisons of one bundle, and the first mismatch."""

    file: str
    scripts: int = 0
    ops: int = 0
    events: int = 0
    mismatches: int = 0
    first: str = ""


def read_bundle(path: str) -> Iterator[Script]:
    """Read the scripts of a bundle (plain, gzip or xz), one at a time.

    Raises:
        GoldenError: The bundle cannot be read, a line is not JSON, a line or a script is too long, or an op
            stands before any header.
    """
    current: Script | None = None
    number = size = 0
    try:
        with closing(read_lines(path, path, _LONGEST_LINE)) as lines:
            for number, text in enumerate(lines, 1):
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise GoldenError(f"{path}:{number}: found {text[:40]!r}, expected a JSON object")
                size += len(text)
                if "hdr" in line:
                    if current:
                        yield current
                    current, size = Script(path, number, line), 0
                    _check_header(current)
                elif current is None:
                    raise GoldenError(f"{path}:{number}: an op before any header; is this a golden bundle?")
                elif size > _SCRIPT_BYTES:
                    raise GoldenError(
                        f"{path}:{number}: a script of more than {format_size(_SCRIPT_BYTES)}, expected a header "
                        "before; cut it into several"
                    )
                else:
                    current.ops.append((number, line))
    except TraceError as error:
        raise GoldenError(f"{path}:{number + 1}: {error.problem}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, VmcoreError):
            raise
        raise GoldenError(f"{path}:{number}: not JSON: {error}; is this a golden bundle?") from error
    if current is None:
        raise GoldenError(f"{path}: found no script, expected a golden bundle")
    yield current


def _check_header(script: Script) -> None:
    header, at = script.header, f"{script.file}:{script.line}"
    missing = [key for key in _HEADER if key not in header]
    if missing:
        raise GoldenError(f"{at}: the header lacks {', '.join(missing)}")
    for key, (fits, expected) in _HEADER.items():
        if not fits(header[key]):
            raise GoldenError(f"{at}: header field {key!r}: found {header[key]!r}, expected {expected}")
    name, config = header.get("script"), header.get("config")
    if name is not None and not str(name).startswith(f"{config}-"):
        raise GoldenError(f"{at}: header fields 'script' and 'config': found {name!r} and {config!r}, "
                          "expected a name that begins with the configuration")  # fmt: skip
    if header.get("kind", _KINDS[0]) not in _KINDS:
        valid = choices(str(header["kind"]), _KINDS, "one of")
        raise GoldenError(f"{at}: header field 'kind': found {header['kind']!r}: {valid}")
    if not _strings(header.get("argv", [])):
        raise GoldenError(f"{at}: header field 'argv': found {header['argv']!r}, expected a list of words")
    if bool(header.get("alias")) != ("--alias" in header.get("argv", [])):
        raise GoldenError(f"{at}: header field 'alias': found {header.get('alias')!r}, argv says otherwise")
    if header["hdr"] != 1:
        raise GoldenError(
            f"{at}: header field 'hdr': found {header['hdr']!r}, expected 1, the format that is known"
        )


def expand(events: list[list[Any]]) -> list[Event]:
    """Take apart an event with a list: one tuple a call, in order."""
    out: list[Event] = []
    for event in events:
        kind, ids = event[0], event[-1]
        if kind == "set_pte":
            start = int(event[1], 16)
            out += [(kind, start + 4096 * n, event[2], i) for n, i in enumerate(ids)]
        elif kind == "clear_pte":
            start = int(event[1], 16)
            out += [(kind, start + 4096 * n, i) for n, i in enumerate(ids)]
        elif isinstance(ids, list):
            head = tuple(event[:-1])
            out += [(*head, i) for i in ids]
        else:
            out.append(tuple(event))
    return out


def _expected(line: dict[str, Any]) -> dict[str, Any]:
    """Return an op's line with its lists of calls expanded.

    Raises:
        GoldenError: The line has no op, or a list has another shape than in bundles.
    """
    if not isinstance(line.get("op"), str) or not line["op"].strip():
        raise GoldenError(f"op: found {line.get('op')!r}, expected the text of an op")
    line = dict(line)
    try:
        line["ev"] = expand(line.get("ev", []))
        if "ptes" in line:
            line["ptes"] = [
                (int(va, 16) + 4096 * n, prot, i) for va, prot, ids in line["ptes"] for n, i in enumerate(ids)
            ]
    except (TypeError, ValueError, LookupError) as error:
        raise GoldenError(f"events or page-table entries are not shaped as in a bundle: {error}") from error
    return line


def _header_mismatch(run: ScriptRun, header: dict[str, Any]) -> str:
    """Compare the header's numbers with the machine, and its argv with itself."""
    argv = [word for word in header.get("argv", []) if word != "--alias"]
    options = dict(zip(argv[::2], argv[1::2], strict=False))
    if len(argv) % 2 or not options.keys() <= _OPTIONS or not all(map(_number, options.values())):
        return f"header field 'argv': expected pairs of {', '.join(sorted(_OPTIONS))} and a number, got {argv!r}"
    found: dict[str, Any] = {
        "sizeof_vm_struct": run.arch.sizeof_vm_struct,
        "zones": [*run.arch.zone_names, "MOVABLE"],
    }
    if "argv" in header:
        found["physpages"] = int(options.get("--physpages", _PHYSPAGES), 0)
        found["num_physpages"] = int(options.get("--num-physpages", f"{found['physpages']}"), 0)
    for key, option in (("vmalloc_start", "--vmalloc-start"), ("vmalloc_end", "--vmalloc-end")):
        if option in options and "--alias" not in header["argv"]:
            found[key] = f"{int(options[option], 0):#x}"
    for key, value in found.items():
        if header[key] != value:
            return f"header field {key!r}: expected {header[key]!r}, got {value!r}"
    return ""


def _difference(want: dict[str, Any], got: dict[str, Any]) -> str:
    """Return the first difference of two lines, or "" if they are equal."""
    for key in [*want, *(k for k in got if k not in want)]:
        a, b = (line.get(key, "nothing") for line in (want, got))
        if a == b:
            continue
        if isinstance(a, list) and isinstance(b, list):
            n = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            return (
                f"{key}[{n}] of {len(a)}: expected {a[n] if n < len(a) else 'nothing'}, "
                f"got {b[n] if n < len(b) else 'nothing'}"
            )
        return f"{key}: expected {a!r}, got {b!r}"
    return ""


def replay(script: Script, registry: Registry, tally: Tally) -> None:
    """Run one script and add to the tally. The run stops at the first mismatch.

    Raises:
        GoldenError: The script cannot be run. The error names file and line.
    """
    tally.scripts += 1
    try:
        run = ScriptRun(registry, script.header)
    except GoldenError as error:
        raise GoldenError(f"{script.file}:{script.line}: {error}") from None
    problem = _header_mismatch(run, script.header)
    if problem:
        _mismatch(tally, script, problem, script.line, [])
        return
    for n, (number, line) in enumerate(script.ops):
        try:
            want = _expected(line)
            got = run.run(want["op"])
        except GoldenError as error:
            problem = str(error)
        else:
            tally.events += len(got["ev"])
            problem = _difference(want, got)
        tally.ops += 1
        if problem:
            _mismatch(tally, script, problem, number, [str(o.get("op")) for _, o in script.ops[: n + 1]])
            return


def _mismatch(tally: Tally, script: Script, problem: str, line: int, ops: list[str]) -> None:
    tally.mismatches += 1
    if not tally.first:
        lines = [f"{script.file}:{line}: {script.name}: {problem}"]
        lines += [f"    {op}" for op in ops[-_CONTEXT - 1 : -1]]
        lines += [f"  > {op}" for op in ops[-1:]]
        tally.first = "\n".join(map(printable, lines))


def replay_file(path: str, registry: Registry) -> Tally:
    """Replay a whole bundle."""
    tally = Tally(path)
    for script in read_bundle(path):
        replay(script, registry, tally)
    return tally


def _is_placement_script(path: str) -> bool:
    """Tell whether a file is a placement script. A file that cannot be read is none: its reader will say so."""
    try:
        with closing(read_lines(path, path, _LONGEST_LINE)) as lines:
            return placement.is_script(json.loads(next(lines, b"null")))
    except (TraceError, ValueError, RecursionError):
        return False


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--block", multiple=True, help="Leave a plugin out.")
@click.option("--generation", metavar="NAME", help="Replay placement scripts by these rules, not by their own.")
def main(files: tuple[str, ...], block: tuple[str, ...], generation: str | None) -> None:
    """Replay golden bundles and placement scripts, and compare every result, event, counter and dump.

    Exit status: 0 all agree, 1 a mismatch, 2 a file cannot be read or run.
    """
    try:
        registry = plugins.load(block)
        chosen = None if generation is None else registry.placement(generation)
        mismatches = 0
        scripts = [path for path in files if _is_placement_script(path)]
        for path in files:
            if path not in scripts:
                began = time.perf_counter()
                tally = replay_file(path, registry)
                mismatches += tally.mismatches
                print(printable(_line(tally, time.perf_counter() - began)))
                if tally.first:
                    print(f"first mismatch: {tally.first}")
        if scripts:
            mismatches += _replay_placements(scripts, registry, chosen)
    except VmcoreError as error:
        print(f"vmcore.golden: error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if mismatches else 0)


def _replay_placements(paths: list[str], registry: Registry, chosen: Generation | None) -> int:
    """Replay placement scripts, print each first mismatch and a line for all, and return the mismatches."""
    began = time.perf_counter()
    operations = mismatches = 0
    for path in paths:
        tally = placement.replay_script(path, lambda name: chosen or registry.placement(name))
        operations += tally.operations
        mismatches += tally.mismatches
        if tally.first:
            print(f"first mismatch: {tally.first}")
    counts = (
        counted(len(paths), "script", form="d"),
        counted(operations, "operation", form="d"),
        counted(mismatches, "mismatch", "mismatches", form="d"),
    )
    print(f"{', '.join(counts)}, {time.perf_counter() - began:.1f} s")
    return mismatches


def _line(tally: Tally, seconds: float) -> str:
    return (
        f"{tally.file}: {counted(tally.scripts, 'script')}, {counted(tally.ops, 'op')}, "
        f"{counted(tally.events, 'event')} compared, {counted(tally.mismatches, 'mismatch', 'mismatches')}, "
        f"{seconds:.1f} s"
    )
