"""Write docs/json.md from the schemas of the jobs: ``python -m tests.support.json_page``."""

from pathlib import Path
from typing import Any

from vmcore.dump.audit import result as audit
from vmcore.dump.walk import MAPPINGS_SCHEMA, WALK_SCHEMA
from vmcore.linking import installed
from vmcore.replay import result as replay
from vmcore.samples import SCHEMA as SAMPLES_SCHEMA
from vmcore.scenes import result as scenes
from vmcore.study import verify

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
#: Every object that a command writes, in the order of the page.
SCHEMAS = (
    installed.SCHEMA,
    SAMPLES_SCHEMA,
    replay.SCHEMA,
    verify.SCHEMA,
    WALK_SCHEMA,
    MAPPINGS_SCHEMA,
    audit.SCHEMA,
    scenes.SCHEMA,
    scenes.LIST_SCHEMA,
)
HEAD = """# JSON

Every command writes one JSON object with `--json`. In Python, `facts()` of a job's result returns the same object:

```python
from vmcore import Kernel
from vmcore.replay import replay
from vmcore.texts.trace import read_trace

replay(read_trace("trace.txt"), Kernel("i386-highmem")).facts()
```

All objects follow the same rules:

- The first key is `schema`, for example "vmcore.replay/1". Its number grows when a key is removed or
  changes its meaning. New keys may be added without that.
- Sizes are numbers of bytes. Addresses, words and masks are strings in hexadecimal ("0xc0000000"), because
  many JSON readers cannot hold 64 bits. Strings of hex digits ("616c") are bytes.
- "map of T" is an object whose keys are names, and whose values have the type T.
- Texts for people may change at any time.

This page is made from the code by `python -m tests.support.json_page`.
"""


def shapes(keys):
    """Yield the shapes below some keys, each once, in the order of their first use."""
    found: dict[str, Any] = {}

    def visit(keys):
        for key in keys:
            if key.shape is not None and found.setdefault(key.shape.name, key.shape) is not key.shape:
                raise AssertionError(f"{key.shape.name!r}: found two shapes of this name, expected one")
            if key.shape is not None:
                visit(key.shape.keys)

    visit(keys)
    return found.values()


def table(keys):
    """Yield the lines of a table of keys."""
    yield "| key | type | unit | meaning |"
    yield "|---|---|---|---|"
    for key in keys:
        kind = key.type
        if key.shape is not None:
            kind = kind.replace("object", f"[{key.shape.name}](#{key.shape.name.lower().replace(' ', '-')})")
        absent = " (may be absent)" if key.optional else ""
        cells = (f"`{key.name}`", kind + absent, key.unit, key.meaning)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace("|  |", "| |")


def page():
    """Return the text of the page."""
    lines = [HEAD, "| schema | command | object |", "|---|---|---|"]
    for schema in SCHEMAS:
        anchor = schema.name.replace(".", "").replace("/", "")
        lines.append(f"| [`{schema.name}`](#{anchor}) | `{schema.command}` | {schema.meaning} |")
    for schema in SCHEMAS:
        lines += ["", f"## {schema.name}", "", f"`{schema.command}`: {schema.meaning}", "", *table(schema.keys)]
    lines += ["", "## Parts", "", "Objects that are values of the keys above, in the order of their first use."]
    for shape in shapes(key for schema in SCHEMAS for key in schema.keys):
        lines += ["", f"### {shape.name}", "", *table(shape.keys)]
    return "\n".join(lines) + "\n"


def mismatches(schema, value, used):
    """Yield how an object differs from its schema, and add every key that it has to *used*."""
    if value.get("schema") != schema.name:
        yield f"schema: found {value.get('schema')!r}, expected {schema.name!r}"
    yield from _object(
        schema, {name: inner for name, inner in value.items() if name != "schema"}, schema.name, used
    )


def _object(shape, value, path, used):
    expected = [key.name for key in shape.keys if not key.optional or key.name in value]
    if list(value) != expected:
        yield f"{path}: found the keys {list(value)}, expected {expected}"
        return
    for key in shape.keys:
        if key.name in value:
            used.add((shape.name, key.name))
            yield from _value(key, key.type, value[key.name], f"{path}.{key.name}", used)


def _value(key, kind, value, path, used):
    plain: dict[str, Any] = {"string": str, "number": (int, float), "boolean": bool}
    inner = kind.removesuffix(" or null")
    many = inner.startswith(("list of ", "map of "))
    if value is None and kind != inner and not inner.startswith("map of "):
        return
    if many:
        if not isinstance(value, dict if inner.startswith("map of ") else list):
            yield f"{path}: found {value!r}, expected a {inner}"
            return
        of = kind.partition(" of ")[2] if inner.startswith("map of ") else inner.partition(" of ")[2]
        for n, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _value(key, of, item, f"{path}[{n}]", used)
    elif inner == "object":
        yield from _object(key.shape, value, path, used)
    elif not isinstance(value, plain[inner]) or (isinstance(value, bool) and inner != "boolean"):
        yield f"{path}: found {value!r}, expected a {inner}"
    elif key.unit in ("address", "hex") and value.startswith("0x") and hex(int(value, 16)) != value:
        yield f"{path}: found {value!r}, expected lower-case hexadecimal without leading zeros"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
