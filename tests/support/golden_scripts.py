"""The scripts of the bundles beside this file, as lines to cut and to damage."""

import copy
import functools
import json
import lzma
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "golden"
BUNDLES = sorted(FOLDER.glob("*.jsonl.xz"))


@functools.cache
def scripts():
    """Return every script: its header followed by its ops, parsed."""
    out: list = []
    for path in BUNDLES:
        with lzma.open(path, "rt") as lines:
            for line in lines:
                parsed = json.loads(line)
                if "hdr" in parsed:
                    out.append([])
                out[-1].append(parsed)
    return out


def first(wanted):
    """Return the shortest beginning of a script whose last op passes a test, as a copy to damage."""
    best = None
    for script in scripts():
        for n, op in enumerate(script[1:best], 1):
            if wanted(op):
                best, found = n + 1, script[: n + 1]
                break
        if best == 2:
            break
    assert best is not None, "no script has such an op"
    return copy.deepcopy(found)


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def other(value):
    """Return another value of the same kind."""
    if value is None:
        return 0
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return f"{int(value, 16) ^ 0x1000:#x}" if value.startswith("0x") else value + "0"
    raise TypeError(value)


def places(value, here=()):
    """Yield the path to every number, text and null inside a value, the first and last of each list of numbers."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*here, key))
    elif isinstance(value, list):
        plain = all(not isinstance(inner, (list, dict)) for inner in value)
        short = plain and len(value) > 8
        for n in sorted({0, len(value) - 1}) if short else range(len(value)):
            yield from places(value[n], (*here, n))
    else:
        yield here


def damage(value, path):
    """Replace what is at a path inside a value by another of its kind."""
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = other(value[path[-1]])
