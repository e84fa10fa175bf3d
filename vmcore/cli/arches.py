"""``vmcore arches``: what is installed, and everything about one of them.

With ``--json``, one object:

- ``schema``: 1.
- ``architectures``: a list, in order of name, of objects with ``name``, ``plugin``, ``aliases``, ``description``,
  ``era``, ``word_bits``, ``page_size``, ``ioremap_max_order``, ``default_ram``, ``max_cpus``,
  ``platforms``, ``zones`` (name to first byte beyond, or null), ``protections`` (name to bits),
  ``levels`` (root first), ``hardware.levels`` (null: the MMU reads the same), ``hardware.canonical_bits``,
  ``hardware.mirror`` (offset or null), ``hardware.cache`` (kind or null), and either ``layout`` or
  ``refused``, the reason.
- a level: ``name``, ``shift``, ``entries``, ``entry_bytes``, ``offset``, ``frame`` (lists of entry bit,
  width, address bit), the masks of `vmcore.architecture.Level` by name, ``repeat``, ``prebuilt``,
  ``leaves`` (name to ``mask``, ``value``, ``size``) and ``flags`` (name to bits).
- ``layout``: ``vmalloc``, ``modules`` (or null) and ``regions`` as ``start``, ``end``, ``size``, the end as
  the kernel has it (some kernels give the last byte); ``page_offset``, ``phys_offset``, ``high_memory``,
  ``swapper_pg_dir``, ``kernel_end``, ``first_kernel_pgd``, ``banks``, ``lowmem``, ``highmem``, ``notes``.
- ``broken``: ``plugin``, ``distribution``, ``module`` and ``cause`` of each plugin that cannot be used.
- ``blocked``: plugins left out on request.

Sizes are numbers of bytes; addresses, masks and bits are strings ("0xc0000000"), because many JSON readers
cannot hold 64 bits.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from vmcore.architecture import Architecture, Layout, LayoutRequest, Level, Window
from vmcore.cli.console import Console, write_json
from vmcore.cli.options import machine_options
from vmcore.errors import VmcoreError
from vmcore.linking.registry import Registry, load
from vmcore.units import format_size
from vmcore.wording import counted

if TYPE_CHECKING:
    from vmcore.linking.selection import Selection

Facts = dict[str, Any]
Line = tuple[str, str, str]  # style, indent, text

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
        "frame": [[segment.entry_bit, segment.width, segment.address_bit] for segment in level.frame],
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
        "aliases": list(arch.aliases),
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
            "levels": None if hardware.levels is None else [_level(level) for level in hardware.levels],
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


def _table(facts: list[Facts]) -> Iterator[Line]:
    """Yield what one compares in columns that fit 80, the rest in words below."""
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


_SIZES = ("page_size", "default_ram", "lowmem", "highmem")


def _level_lines(level: Facts) -> Iterator[str]:
    """Yield what one level is in a few lines, each of words that may part at a space."""
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


def _levels(levels: list[Facts], indent: str) -> Iterator[Line]:
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


def _everything(facts: Mapping[str, Any], indent: str = "") -> Iterator[Line]:
    """Yield all the facts, one key a line, objects indented below their key."""
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


def _wrap(line: str, indent: str, width: int) -> list[str]:
    wrapper = textwrap.TextWrapper(width, initial_indent=indent, subsequent_indent=indent + "  ",
                                   break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return wrapper.wrap(line)


def _print(console: Console, lines: Iterator[Line]) -> None:
    """Print lines; on a terminal, a long one goes on below at a space, never inside a value."""
    for style, indent, line in lines:
        parts = _wrap(line, indent, console.width) if console.is_terminal else [indent + line]
        console.say((style, part) for part in parts)


def _outsiders(answer: Facts, registry: Registry) -> Iterator[Line]:
    if not answer["architectures"]:
        yield "", "", "none: install the package (pip install .)"
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
        write_json(answer)
        return
    console = Console(highlight=False)
    if names:
        for facts in answer["architectures"]:
            _print(console, _everything(facts))
        return
    _print(console, _table(answer["architectures"]))
    _print(console, _outsiders(answer, registry))
