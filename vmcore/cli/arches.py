"""``vmcore arches``: what is installed, and everything about one of them.

With ``--json``, one object:

- ``schema``: 1.
- ``architectures``: a list, in order of name, of objects with ``name``, ``plugin``, ``description``,
  ``era``, ``word_bits``, ``page_size``, ``ioremap_max_order``, ``default_ram``, ``max_cpus``,
  ``platforms``, ``zones`` (name to first byte beyond, or null), ``protections`` (name to bits),
  ``levels`` and ``hardware.levels`` (root first), ``hardware.canonical_bits``, ``hardware.mirror``
  (offset or null), ``hardware.cache`` (kind or null), and either ``layout`` or ``refused``, the reason.
- ``layout``: ``vmalloc``, ``modules`` (or null) and ``regions`` as ``start``, ``end``, ``size``, the end as
  the kernel has it (some kernels give the last byte); ``page_offset``, ``phys_offset``, ``high_memory``,
  ``swapper_pg_dir``, ``kernel_end``, ``first_kernel_pgd``, ``banks``, ``lowmem``, ``highmem``, ``notes``.
- ``broken``: ``plugin``, ``distribution``, ``module`` and ``cause`` of each plugin that cannot be used.
- ``blocked``: plugins left out on request.

Sizes are numbers of bytes; addresses, masks and bits are strings ("0xc0000000"), because many JSON readers
cannot hold 64 bits.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from vmcore.architecture import Architecture, Layout, LayoutRequest, Level, Window
from vmcore.cli.options import machine_options
from vmcore.errors import VmcoreError
from vmcore.registry import Registry, load
from vmcore.units import format_size

if TYPE_CHECKING:
    from vmcore.selection import Selection

Facts = dict[str, Any]

# ---- facts, for programs and people alike


def _window(window: Window) -> Facts:
    return {"start": hex(window.start), "end": hex(window.end), "size": window.size}


def _level(level: Level) -> Facts:
    masks = ("none_mask", "present_mask", "missing_mask", "bad_mask", "good_value", "table_flags")
    return {
        "name": level.name,
        "shift": level.shift,
        "entries": level.entries,
        "entry_bytes": level.entry_bytes,
        "offset": level.offset,
        "frame_mask": hex(level.frame_mask),
        **{name: hex(getattr(level, name)) for name in masks},
        "repeat": [hex(word) for word in level.repeat],
        "prebuilt": level.prebuilt,
        "leaves": {leaf.name: {"mask": hex(leaf.mask), "value": hex(leaf.value), "size": 1 << leaf.shift}
                   for leaf in level.leaves},
        "flags": {name: hex(mask) for name, mask in level.flag_names},
    }  # fmt: skip


def _layout(layout: Layout) -> Facts:
    total = sum(bank.size for bank in layout.banks)
    low = sum(max(0, min(bank.end, layout.lowmem_end) - bank.start) for bank in layout.banks)
    addresses = ("page_offset", "phys_offset", "high_memory", "swapper_pg_dir", "kernel_end")
    return {
        "vmalloc": _window(layout.vmalloc),
        "modules": _window(layout.modules) if layout.modules else None,
        "regions": {name: _window(window) for name, window in layout.regions},
        **{name: hex(getattr(layout, name)) for name in addresses},
        "first_kernel_pgd": layout.first_kernel_pgd,
        "banks": [str(bank) for bank in layout.banks],
        "lowmem": low,
        "highmem": total - low,
        "notes": [note.strip() for note in layout.notes],
    }


def describe(arch: Architecture, plugin: str, request: LayoutRequest) -> Facts:
    """Return everything about one architecture, in the keys this module's page documents."""
    protections = {"PAGE_KERNEL": arch.page_kernel, "PAGE_KERNEL_EXEC": arch.page_kernel_exec}
    protections |= dict(arch.protections)
    hardware = arch.hardware
    return {
        "name": arch.name,
        "plugin": plugin,
        "description": arch.description,
        "era": arch.era,
        "word_bits": arch.word_bits,
        "page_size": arch.page_size,
        "ioremap_max_order": arch.ioremap_max_order,
        "default_ram": arch.default_ram,
        "max_cpus": arch.max_cpus,
        "platforms": list(arch.platforms),
        "zones": {zone.name: None if zone.below is None else hex(zone.below) for zone in arch.zones},
        "protections": {name: hex(bits) for name, bits in protections.items() if bits is not None},
        "levels": [_level(level) for level in arch.levels],
        "hardware": {
            "canonical_bits": hardware.canonical_bits,
            "cache": hardware.cache.kind if hardware.cache else None,
            "mirror": hardware.mirror.offset if hardware.mirror else None,
            "levels": [_level(level) for level in arch.hardware_levels],
        },
        **_try_layout(arch, request),
    }


def _try_layout(arch: Architecture, request: LayoutRequest) -> Facts:
    try:
        return {"layout": _layout(arch.lay_out(request))}
    except VmcoreError as error:
        return {"refused": str(error)}
    except Exception as error:  # a stranger's layout function ran: one that fails must not hide the others
        return {"refused": f"its layout function failed, {type(error).__name__}: {error}"}


def gather(registry: Registry, names: tuple[str, ...], selection: Selection) -> Facts:
    """Return the whole answer: the architectures of these names (none: all), and the plugins that do not work.

    Raises:
        UnknownArchitecture: a name nobody brings.
    """
    arches = [registry.get(name) for name in names] or list(registry.architectures.values())
    broken = [
        {"plugin": e.plugin, "distribution": e.distribution, "module": e.module, "cause": e.cause}
        for e in registry.broken.values()
    ]
    return {
        "schema": 1,
        "architectures": [describe(a, registry.origin[a.name], selection.request(a)) for a in arches],
        "broken": broken,
        "blocked": sorted(registry.blocked),
    }


# ---- for people


def _table(facts: list[Facts]) -> Iterator[tuple[str, str, str]]:
    """Yield (style, indent, line): what is compared in columns that fit 80, the rest in words below."""
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


_SIZES = ("page_size", "default_ram", "lowmem", "highmem", "size")


def _scalar(key: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_size(value) if key in _SIZES else str(value)


def _flat(facts: Mapping[str, Any]) -> str:
    """Write a small object as ``key=value`` words, empty ones left out."""
    parts = []
    for key, value in facts.items():
        if isinstance(value, dict):
            parts += [f"{key}.{inner}={_flat(v) if isinstance(v, dict) else v}" for inner, v in value.items()]
        elif isinstance(value, list):
            parts += [f"{key}={','.join(value)}"] if value else []
        elif key != "name":
            parts.append(f"{key}={_scalar(key, value).replace(' ', '')}")
    return " ".join(parts)


def _everything(facts: Mapping[str, Any], indent: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (style, indent, line) for all the facts, one key a line."""
    for key, value in facts.items():
        if value in ({}, []):
            yield "", indent, f"{key:<18} none"
        elif isinstance(value, list) and isinstance(value[0], dict):
            yield "bold", indent, key
            for item in value:
                yield "", indent + "  ", f"{item['name']}: {_flat(item)}"
        elif isinstance(value, dict) and "start" in value:
            yield "", indent, f"{key:<18} {value['start']}-{value['end']} ({format_size(value['size'])})"
        elif isinstance(value, dict):
            yield "bold", indent, key
            yield from _everything(value, indent + "  ")
        elif isinstance(value, list):
            yield "", indent, f"{key:<18} {', '.join(value)}"
        else:
            yield "bold" if key == "name" else "", indent, f"{key:<18} {_scalar(key, value)}"


def _wrap(line: str, indent: str, width: int) -> list[str]:
    wrapper = textwrap.TextWrapper(width, initial_indent=indent, subsequent_indent=indent + "  ",
                                   break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return wrapper.wrap(line)


def _print(console: Console, lines: Iterator[tuple[str, str, str]]) -> None:
    """Print lines; on a terminal, a long one goes on below at a space, never inside a value."""
    for style, indent, line in lines:
        parts = _wrap(line, indent, console.width) if console.is_terminal else [indent + line]
        for part in parts:
            console.print(Text(part, style), soft_wrap=True)


def _outsiders(answer: Facts, registry: Registry) -> Iterator[tuple[str, str, str]]:
    if not answer["architectures"]:
        yield "", "", "no architecture is installed; install the package (pip install .)"
    for error in registry.broken.values():
        yield "red", "", f"cannot be used: {error}"
    for name in answer["blocked"]:
        yield "", "", f"blocked: {name}"


@click.command(epilog="Keys of --json: see the text of vmcore.cli.arches (python -m pydoc vmcore.cli.arches).")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@machine_options("ram", "vmalloc", "platform", "block")
def command(names: tuple[str, ...], as_json: bool, selection: Selection) -> None:
    """List the installed architectures, or describe some.

    The layout is that of --ram, --vmalloc and --platform; without them, of what VMCORE_RAM and the like or
    vmcore.toml say, else of each architecture's defaults.
    """
    registry = load(selection.block)
    answer = gather(registry, names, selection)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    console = Console(highlight=False)
    if names:
        for facts in answer["architectures"]:
            _print(console, _everything(facts))
    elif answer["architectures"]:
        _print(console, _table(answer["architectures"]))
    _print(console, _outsiders(answer, registry))
