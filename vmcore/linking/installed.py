"""Describe the installed architectures and the plugins that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from vmcore.architecture import Architecture, Layout, LayoutRequest, Level
from vmcore.errors import PluginError, VmcoreError
from vmcore.facts import RANGE, Facts, Key, Schema, Shape, range_facts

if TYPE_CHECKING:
    from vmcore.linking.registry import Registry
    from vmcore.linking.selection import Selection

_MASKS = ("none_mask", "present_mask", "missing_mask", "bad_mask", "good_value", "table_flags")
_ADDRESSES = ("page_offset", "phys_offset", "high_memory", "swapper_pg_dir", "kernel_end")

# ---- the keys

_LEAF = Shape(
    "page an entry can map",
    (
        Key("mask", "string", "Bits of an entry that tell whether it maps such a page.", "hex"),
        Key("value", "string", "Value of these bits if it does.", "hex"),
        Key("size", "number", "Size of the page.", "bytes"),
    ),
)
LEVEL: Final = Shape(
    "level of page tables",
    (
        Key("name", "string", "Name of the level."),
        Key("shift", "number", "Lowest bit of an address that the index is taken from.", "bit"),
        Key("entries", "number", "Entries of a table."),
        Key("entry_bytes", "number", "Size of an entry.", "bytes"),
        Key("offset", "number", "Offset of the first entry in a table.", "bytes"),
        Key("frame", "list of list of number", "Where an entry holds an address: lists of the entry's bit, the "
            "width in bits, and the address bit."),
        Key("none_mask", "string", "An entry is empty if these bits are 0.", "hex"),
        Key("present_mask", "string", "An entry is present if one of these bits is set.", "hex"),
        Key("missing_mask", "string", "A table is made for an entry if these bits are 0.", "hex"),
        Key("bad_mask", "string", "Bits that must be `good_value` in the entry of a table.", "hex"),
        Key("good_value", "string", "Value of the bits `bad_mask` in the entry of a table.", "hex"),
        Key("table_flags", "string", "Bits that an entry of a table has beside the address.", "hex"),
        Key("repeat", "list of string", "An entry of several words: each further word minus the first.", "hex"),
        Key("prebuilt", "boolean", "Whether all tables below this level exist since boot."),
        Key("leaves", "map of object", "Pages that an entry can map, by name.", shape=_LEAF),
        Key("flags", "map of string", "Bits of an entry, by name.", "hex"),
    ),
)  # fmt: skip
_LAYOUT = Shape(
    "layout",
    (
        Key("vmalloc", "object", "The vmalloc window.", shape=RANGE),
        Key("modules", "object or null", "The window of modules; null: it is vmalloc's.", shape=RANGE),
        Key("regions", "map of object", "Further ranges of the kernel's address space, by name.", shape=RANGE),
        Key("page_offset", "string", "Virtual address where the linear map begins.", "address"),
        Key("phys_offset", "string", "Physical address where RAM begins.", "address"),
        Key("high_memory", "string", "Virtual address where the linear map ends.", "address"),
        Key("swapper_pg_dir", "string", "Physical address of the kernel's root table.", "address"),
        Key("kernel_end", "string", "Physical address where the kernel's image ends.", "address"),
        Key("first_kernel_pgd", "number", "Index of the first root entry that belongs to the kernel."),
        Key("banks", "list of string", "Banks of RAM."),
        Key("lowmem", "number", "RAM in the linear map.", "bytes"),
        Key("highmem", "number", "RAM outside the linear map.", "bytes"),
        Key("notes", "list of string", "Lines that the kernel logs about the layout."),
    ),
)
_HARDWARE = Shape(
    "hardware",
    (
        Key("canonical_bits", "number", "Bits of an address that are not copies of the highest; 0: all.", "bits"),
        Key("cache", "string or null", 'Kind of the data cache, for example "vivt"; null: not modelled.'),
        Key("mirror", "number or null", "Offset of the hardware's copy of a table in its page.", "bytes"),
        Key("levels", "list of object or null", "Levels as the MMU reads them; null: as Linux does.", shape=LEVEL),
    ),
)
ARCHITECTURE: Final = Shape(
    "architecture",
    (
        Key("name", "string", "Name of the architecture."),
        Key("plugin", "string", "Plugin that brought it."),
        Key("aliases", "list of string", "Other names of it."),
        Key("description", "string", "One line about it."),
        Key("era", "string", "Kernels it is the record of."),
        Key("word_bits", "number", "Width of an unsigned long.", "bits"),
        Key("page_size", "number", "PAGE_SIZE.", "bytes"),
        Key("ioremap_max_order", "number", "log2 of the largest alignment of an area.", "bit"),
        Key("default_ram", "number", "RAM where none is chosen.", "bytes"),
        Key("max_cpus", "number", "CPUs it can have."),
        Key("platforms", "list of string", "Boards, where it has several."),
        Key("zones", "map of string or null", "Zones of RAM, by name: the first address beyond; null: no end.",
            "address"),
        Key("protections", "map of string", "Bits of a mapping's entries, by the kernel's name.", "hex"),
        Key("levels", "list of object", "Levels as Linux reads them, root first.", shape=LEVEL),
        Key("hardware", "object", "Differences between the hardware and Linux' view of it.", shape=_HARDWARE),
        Key("layout", "object", "Address space for the chosen RAM; absent where it is refused.", shape=_LAYOUT,
            optional=True),
        Key("refused", "string", "Why there is no layout; absent where there is one.", optional=True),
    ),
)  # fmt: skip
SCHEMA: Final = Schema(
    "vmcore.arches/1",
    "vmcore arches",
    "The installed architectures, in order of name, or those that were asked for.",
    (
        Key("architectures", "list of object", "The architectures.", shape=ARCHITECTURE),
        Key("broken", "list of object", "Plugins that cannot be used.", shape=Shape(
            "broken plugin",
            (
                Key("plugin", "string", "Name of the entry point."),
                Key("distribution", "string", "Package that installed it, with its version."),
                Key("module", "string", "Module that the entry point names."),
                Key("cause", "string", "Cause of the failure."),
            ),
        )),
        Key("blocked", "list of string", "Plugins that were left out on request."),
    ),
)  # fmt: skip

# ---- the result


@frozen
class Described:
    """One architecture, and its layout for the chosen RAM.

    Attributes:
        record: The architecture.
        plugin: Name of the plugin that brought it.
        layout: Facts of its layout; None if there is no layout.
        refused: The reason why there is no layout; "" if there is one.
    """

    record: Architecture
    plugin: str
    layout: Facts | None = field(repr=False)
    refused: str = ""

    def facts(self) -> Facts:
        """Return the object that `ARCHITECTURE` describes."""
        arch = self.record
        protections = {"PAGE_KERNEL": arch.page_kernel, "PAGE_KERNEL_EXEC": arch.page_kernel_exec}
        protections |= dict(arch.protections)
        hardware = arch.hardware
        return {
            "name": arch.name,
            "plugin": self.plugin,
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
            **({"refused": self.refused} if self.layout is None else {"layout": self.layout}),
        }


@frozen
class Installed:
    """The installed architectures.

    Attributes:
        architectures: In the order of their names, or in the requested order.
        broken: Plugins that cannot be used.
        blocked: Plugins that were left out on request.
    """

    architectures: tuple[Described, ...]
    broken: tuple[PluginError, ...]
    blocked: tuple[str, ...]

    def facts(self) -> Facts:
        """Return the object that `SCHEMA` describes."""
        return SCHEMA.facts(
            architectures=[described.facts() for described in self.architectures],
            broken=[
                {"plugin": e.plugin, "distribution": e.distribution, "module": e.module, "cause": e.cause}
                for e in self.broken
            ],
            blocked=list(self.blocked),
        )


def _level(level: Level) -> Facts:
    return {
        "name": level.name,
        "shift": level.shift,
        "entries": level.entries,
        "entry_bytes": level.entry_bytes,
        "offset": level.offset,
        "frame": [[segment.entry_bit, segment.width, segment.address_bit] for segment in level.frame],
        **{name: hex(getattr(level, name)) for name in _MASKS},
        "repeat": [hex(word) for word in level.repeat],
        "prebuilt": level.prebuilt,
        "leaves": {leaf.name: {"mask": hex(leaf.mask), "value": hex(leaf.value), "size": 1 << leaf.shift}
                   for leaf in level.leaves},
        "flags": {name: hex(mask) for name, mask in level.flag_names},
    }  # fmt: skip


def _layout(layout: Layout) -> Facts:
    total = sum(bank.size for bank in layout.banks)
    low = sum(max(0, min(bank.end, layout.lowmem_end) - bank.start) for bank in layout.banks)
    vmalloc, modules = layout.vmalloc, layout.modules
    return {
        "vmalloc": range_facts(vmalloc.start, vmalloc.end),
        "modules": range_facts(modules.start, modules.end) if modules else None,
        "regions": {name: range_facts(window.start, window.end) for name, window in layout.regions},
        **{name: hex(getattr(layout, name)) for name in _ADDRESSES},
        "first_kernel_pgd": layout.first_kernel_pgd,
        "banks": [str(bank) for bank in layout.banks],
        "lowmem": low,
        "highmem": total - low,
        "notes": [note.strip() for note in layout.notes],
    }


# ---- the job


def describe(record: Architecture, plugin: str, request: LayoutRequest) -> Described:
    """Describe one architecture and its layout for *request*.

    If the layout function fails, the result has the reason. The other architectures can then still be described.
    """
    try:
        return Described(record, plugin, _layout(record.lay_out(request)))
    except VmcoreError as error:
        return Described(record, plugin, None, str(error))
    except Exception as error:  # code of a plugin ran, and it may raise anything
        refused = f"its layout function failed, {type(error).__name__}: {error}"
        return Described(record, plugin, None, refused)


def describe_installed(registry: Registry, selection: Selection, names: Sequence[str] = ()) -> Installed:
    """Describe the architectures called *names*, or all of them, and the plugins that cannot be used.

    Args:
        registry: The plugins.
        selection: RAM, vmalloc= and platform for the layouts.
        names: Names or aliases; empty: all architectures.

    Raises:
        UnknownArchitecture: No plugin brings one of these names.
    """
    records = [registry.get(name) for name in names] or list(registry.architectures.values())
    return Installed(
        tuple(describe(record, registry.origin[record.name], selection.request(record)) for record in records),
        tuple(registry.broken.values()),
        tuple(sorted(registry.blocked)),
    )
