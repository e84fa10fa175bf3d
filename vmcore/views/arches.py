"""Show the installed architectures: a table of all, or everything about some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vmcore.facts import Facts
from vmcore.linking.installed import Installed
from vmcore.units import format_size
from vmcore.views.lines import Line, wrap
from vmcore.wording import counted

_Indented = tuple[str, str, str]  # style, indent, text
_SIZES = ("page_size", "default_ram", "lowmem", "highmem")


def table(installed: Installed, width: int | None) -> Iterator[Line]:
    """Yield a table of all architectures, and below it the plugins that cannot be used.

    Args:
        installed: The result.
        width: Columns of the terminal; None: lines are not wrapped.
    """
    yield from _fit(_table([described.facts() for described in installed.architectures]), width)
    yield from _fit(_outsiders(installed), width)


def details(installed: Installed, width: int | None) -> Iterator[Line]:
    """Yield everything about each architecture, wrapped as in `table`."""
    for described in installed.architectures:
        yield from _fit(_everything(described.facts()), width)


def _fit(lines: Iterator[_Indented], width: int | None) -> Iterator[Line]:
    """Wrap lines to the terminal, but never inside a value."""
    for style, indent, line in lines:
        if width is None:
            yield style, indent + line
        else:
            yield from wrap(line, width, indent=indent, hang=indent + "  ", style=style)


def _table(facts: list[Facts]) -> Iterator[_Indented]:
    """Yield columns that fit 80, and below each row the other facts in words."""
    width = max([len(f["name"]) for f in facts] + [12])
    yield "bold", "", f"{'architecture':<{width}}  bits levels        size  vmalloc window"
    for f in facts:
        size = window = "-"
        about = [f"{format_size(f['page_size'])} pages", f"IOREMAP_MAX_ORDER {f['ioremap_max_order']}"]
        if "layout" in f:
            vmalloc, layout = f["layout"]["vmalloc"], f["layout"]
            size, window = format_size(vmalloc["size"]), f"{vmalloc['start']}-{vmalloc['end']}"
            about += [f"lowmem {format_size(layout['lowmem'])}", f"highmem {format_size(layout['highmem'])}"]
        yield "", "", f"{f['name']:<{width}}  {f['word_bits']:>4} {len(f['levels']):>6}  {size:>10}  {window}"
        yield "dim", "    ", f"{f['description'].rstrip('.')}; from plugin {f['plugin']!r}"
        yield "dim", "    ", ", ".join(about)
        if "refused" in f:
            yield "red", "    ", f"no layout: {f['refused']}"


def _level_lines(level: Facts) -> Iterator[str]:
    """Yield the lines about one level."""
    extra = [f"entries start at byte {level['offset']}"] if level["offset"] else []
    extra += [f"further words are the first + {', '.join(level['repeat'])}"] if level["repeat"] else []
    extra += ["tables below exist since boot"] if level["prebuilt"] else []
    yield ", ".join(
        [
            f"shift {level['shift']}",
            f"{counted(level['entries'], 'entry', 'entries')} of {counted(level['entry_bytes'], 'byte')}",
            *extra,
        ]
    )
    for bit, width, address in level["frame"]:
        yield f"bits {bit + width - 1}:{bit} are address bits {address + width - 1}:{address}"
    yield f"none: & {level['none_mask']} == 0; present: & {level['present_mask']} != 0"
    yield f"missing (a table is made): & {level['missing_mask']} == 0"
    if level["bad_mask"] != "0x0":
        yield f"bad: & {level['bad_mask']} != {level['good_value']}"
    if level["table_flags"] != "0x0":
        yield f"entry of a table: address | {level['table_flags']}"
    for name, leaf in level["leaves"].items():
        yield f"leaf {name}: & {leaf['mask']} == {leaf['value']}, maps {format_size(leaf['size'])}"
    if level["flags"]:
        yield "flags: " + " ".join(f"{name}={mask}" for name, mask in level["flags"].items())


def _levels(levels: list[Facts], indent: str) -> Iterator[_Indented]:
    for level in levels:
        first, *others = _level_lines(level)
        yield "", indent, f"{level['name']:<6} {first}"
        for line in others:
            yield "dim", indent + " " * 7, line


def _value(key: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return f"{value['start']}-{value['end']} ({format_size(value['size'])})"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return format_size(value) if key in _SIZES else str(value)


def _everything(facts: Mapping[str, Any], indent: str = "") -> Iterator[_Indented]:
    """Yield one key a line, and the keys of an object indented below its own."""
    for key, value in facts.items():
        if key == "levels":
            yield "bold", indent, key if value else f"{key:<22} as above"
            yield from _levels(value or [], indent + "  ")
        elif key == "zones":
            below = [f"{name} below {end}" if end else f"{name} the rest" for name, end in value.items()]
            yield "", indent, f"{key:<22} {', '.join(below)}"
        elif isinstance(value, dict) and "start" not in value:
            yield "bold", indent, key if value else f"{key:<22} none"
            yield from _everything(value, indent + "  ")
        else:
            yield "bold" if key == "name" else "", indent, f"{key:<22} {_value(key, value)}"


def _outsiders(installed: Installed) -> Iterator[_Indented]:
    if not installed.architectures:
        yield "", "", "none: install the package (pip install .)"
    for error in installed.broken:
        yield "red", "", f"cannot be used: {error}"
    for name in installed.blocked:
        yield "", "", f"blocked: {name}"
