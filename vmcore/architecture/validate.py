"""Check a record and its layout. Each error names the record, the field, the finding and the expectation."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from vmcore.architecture.layout import Layout
from vmcore.architecture.levels import Level
from vmcore.architecture.parameters import Parameters
from vmcore.errors import ArchitectureError, LayoutError, choices
from vmcore.units import format_size
from vmcore.wording import counted


def check_numbers(arch: Parameters, layout: Layout) -> None:
    """Check each number of a layout on its own."""
    for name in ("phys_offset", "page_offset", "kernel_end", "swapper_pg_dir", "vmalloc_start"):
        value = getattr(layout, name)
        if value < 0 or value % arch.page_size:
            raise LayoutError(
                f"{arch.name}: {name} is {value:#x}, expected a multiple of {arch.page_size:#x}, not negative"
            )
    last = arch.levels[0].entries - 1
    if not 0 <= layout.first_kernel_pgd <= last:
        raise LayoutError(
            f"{arch.name}: first_kernel_pgd is {layout.first_kernel_pgd}, "
            f"expected 0 to {last}, an entry of the root"
        )


def check_layout(arch: Parameters, layout: Layout) -> None:
    """Check that the windows of a layout agree with each other."""

    def fail(subject: str, found: str, expected: str) -> None:
        raise LayoutError(f"{arch.name}: {subject} is {found}, expected {expected}")

    usable = sum(b.size for b in layout.banks)
    need = layout.kernel_end - layout.phys_offset
    if usable <= need:
        fail("RAM", format_size(usable), f"more than the {format_size(need)} the kernel itself takes")
    if layout.vmalloc_end > arch.word_mask or layout.vmalloc_start >= layout.vmalloc_end:
        window = f"{layout.vmalloc_start:#x}..{layout.vmalloc_end:#x}"
        fail("the vmalloc window", window, f"a window that is not empty within {arch.word_bits} bits; "
             "give less RAM or another vmalloc=")  # fmt: skip
    if layout.vmalloc_start < layout.high_memory and layout.page_offset <= layout.vmalloc_start:
        fail("vmalloc_start", f"{layout.vmalloc_start:#x}", f"high_memory {layout.high_memory:#x} or above")
    if layout.lowmem_end <= layout.kernel_end:
        fail("the end of lowmem", f"{layout.lowmem_end:#x}", f"one above {layout.kernel_end:#x}, where the kernel "
             "ends; give more RAM or a smaller vmalloc=")  # fmt: skip
    root, end = layout.swapper_pg_dir, layout.swapper_pg_dir + arch.root_bytes
    if not any(bank.start <= root and end <= bank.end for bank in layout.banks):
        fail("swapper_pg_dir", f"{root:#x}..{end:#x}", "a place inside one bank of RAM")
    if layout.kernel_end < end:
        fail("kernel_end", f"{layout.kernel_end:#x}", f"{end:#x} or above, where the root table ends")


def check_banks(arch: Parameters, layout: Layout) -> None:
    """Check that banks are in order, made of whole pages, and within the reach of page-table entries."""

    def fail(subject: str, found: str, expected: str) -> None:
        raise LayoutError(f"{arch.name}: {subject} is {found}, expected {expected}")

    for bank, above in pairwise(layout.banks):
        if above.start < bank.end:
            fail(f"RAM bank {above}", "out of order", f"one that starts at {bank.end:#x} or above, after {bank}")
    for bank in layout.banks:
        if bank.start % arch.page_size or bank.end % arch.page_size:
            fail(f"RAM bank {bank}", "not page aligned", f"bounds that are multiples of {arch.page_size:#x}")
    end, last = layout.banks[-1].end, arch.levels[-1]
    if end > last.physical_end:
        fail("the end of RAM", f"{end:#x}", f"at most {last.physical_end:#x}, where the frames of a {last.name} "
             "entry end; give less RAM, or cut it in the layout function (cut_banks)")  # fmt: skip
    table = min(arch.levels[:-1], key=lambda level: level.physical_end)
    if layout.lowmem_end > table.physical_end:
        fail("the end of lowmem", f"{layout.lowmem_end:#x}", f"at most {table.physical_end:#x}, where the tables "
             f"of a {table.name} entry end; give less RAM")  # fmt: skip


_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
_ZONE_ORDER = ("DMA", "DMA32", "NORMAL", "HIGHMEM")


def validate(arch: Parameters) -> None:
    """Check a record.

    Raises:
        ArchitectureError: a field contradicts another, or does not fit the machine.
    """

    def need(ok: bool, name: str, found: object, expected: str) -> None:
        if not ok:
            raise ArchitectureError(arch.name or "architecture", name, found, expected)

    need(bool(_NAME.fullmatch(arch.name)), "name", repr(arch.name), "lower case words joined by - or _")
    others = [alias for alias in arch.aliases if not _NAME.fullmatch(alias) or alias == arch.name]
    need(not others and len(set(arch.aliases)) == len(arch.aliases), "aliases", arch.aliases,
         "other names than the record's own, each once, of lower case words joined by - or _")  # fmt: skip
    need(arch.word_bits in (32, 64), "word_bits", arch.word_bits, "32 or 64")
    need(10 <= arch.page_shift <= 24, "page_shift", arch.page_shift, "10 to 24")
    need(2 <= len(arch.levels) <= 5, "levels", counted(len(arch.levels), "level"), "2 to 5 real levels")
    need(arch.max_cpus >= 1, "max_cpus", arch.max_cpus, "at least 1")
    need(arch.default_ram > 0, "default_ram", arch.default_ram, "a positive number of bytes")
    need(arch.page_shift <= arch.ioremap_max_order < arch.word_bits, "ioremap_max_order",
         arch.ioremap_max_order, f"{arch.page_shift} to {arch.word_bits - 1}")  # fmt: skip
    known = [name for name in _ZONE_ORDER if name in arch.zone_names]
    need(list(arch.zone_names) == known and "NORMAL" in known, "zones", arch.zone_names,
         f"NORMAL and any of the others once each, in the order {', '.join(_ZONE_ORDER)}")  # fmt: skip
    _validate_levels(arch, arch.levels, "levels")
    _validate_levels(arch, arch.hardware_levels, "hardware.levels")
    _validate_tables(arch)
    _validate_protections(arch)
    _validate_mirror(arch)
    _validate_hardware(arch)
    canonical = arch.hardware.canonical_bits
    need(canonical == 0 or arch.levels[0].shift < canonical <= arch.word_bits, "hardware.canonical_bits",
         canonical, f"0, or {arch.levels[0].shift + 1} to {arch.word_bits}")  # fmt: skip


def _validate_protections(arch: Parameters) -> None:
    """Check that protections fit the last level's entries, and that PAGE_KERNEL makes one present."""

    def need(ok: bool, name: str, found: str, expected: str) -> None:
        if not ok:
            raise ArchitectureError(arch.name, name, found, expected)

    last = arch.levels[-1]
    limit = (1 << 8 * last.word_bytes) - 1
    for name, value in (("page_kernel", arch.page_kernel), ("page_kernel_exec", arch.page_kernel_exec),
                        ("smp_flags", arch.smp_flags), *arch.protections):  # fmt: skip
        need(value is None or (0 <= value <= limit and not value & last.frame_mask), name,
             f"{value:#x}" if value is not None else "", "bits of the last level outside the frame")  # fmt: skip
    need(bool(arch.page_kernel & last.present_mask), "page_kernel", f"{arch.page_kernel:#x}",
         f"a bit of present_mask {last.present_mask:#x}")  # fmt: skip
    present = arch.page_kernel & last.present_mask
    need(not present & ~arch.supported_pte_mask, "supported_pte_mask", f"{arch.supported_pte_mask:#x}",
         f"one that keeps {present:#x}, the present bits of page_kernel")  # fmt: skip


_CACHE_KINDS = ("vivt", "vipt aliasing", "vipt")


def _validate_hardware(arch: Parameters) -> None:
    """Check the linear map's leaf, and the geometry of TLB and cache."""

    def need(ok: bool, name: str, found: object, expected: str) -> None:
        if not ok:
            raise ArchitectureError(f"{arch.name}, hardware", name, found, expected)

    leaves = {leaf.name: level for level in arch.hardware_levels for leaf in level.leaves}
    if (linear := arch.linear_map) is not None:
        need(linear.leaf in leaves, "linear_map", repr(linear.leaf), choices(linear.leaf, leaves, "one of"))
        limit = (1 << 8 * leaves[linear.leaf].word_bytes) - 1
        for flags in (linear.flags, linear.kernel_flags or 0, linear.smp_flags):
            need(0 <= flags <= limit, "linear_map", f"{flags:#x}", f"flags of at most {limit:#x}")
    tlb, cache = arch.hardware.tlb, arch.hardware.cache
    need(tlb.entries > 1 and tlb.entries.bit_count() == 1, "tlb.entries", tlb.entries, "a power of two from 2 up")
    if cache is None:
        return
    need(cache.kind in _CACHE_KINDS, "cache.kind", repr(cache.kind), choices(cache.kind, _CACHE_KINDS, "one of"))
    need(cache.writes_back_by in ("virtual", "physical"), "cache.writes_back_by", repr(cache.writes_back_by),
         "virtual or physical")  # fmt: skip
    need(cache.line.bit_count() == 1 and 4 <= cache.line <= arch.page_size, "cache.line", cache.line,
         f"a power of two, 4 to {arch.page_size}")  # fmt: skip
    need(cache.ways > 0, "cache.ways", cache.ways, "at least 1")
    sets, rest = divmod(cache.size, cache.ways * cache.line)
    need(cache.size == 0 or (rest == 0 and sets.bit_count() == 1), "cache.size", f"{cache.size:#x}",
         f"0, or a power of two of sets of {counted(cache.ways, 'line')} of {cache.line} bytes")  # fmt: skip


def _validate_mirror(arch: Parameters) -> None:
    """Check that the hardware half lies beside the Linux half, and that a cleared entry is clear in both."""
    mirror, last = arch.hardware.mirror, arch.levels[-1]
    if mirror is None:
        return
    fits = 0 <= mirror.offset <= arch.page_size - last.table_bytes
    if not fits or abs(mirror.offset - last.offset) < last.table_bytes:
        raise ArchitectureError(f"{arch.name}, hardware.mirror", "offset", f"{mirror.offset:#x}",
                                "a place in the table page beside the level's own entries")  # fmt: skip
    cleared = mirror.encode(np.zeros(1, f"u{last.word_bytes}"))
    if cleared.any():
        raise ArchitectureError(f"{arch.name}, hardware.mirror", "encode(0)", f"{int(cleared[0]):#x}", "0")


def _validate_levels(arch: Parameters, levels: tuple[Level, ...], where: str) -> None:
    """Check Linux' levels or the MMU's: they must cover the address without gaps, and masks must fit the word."""
    below = arch.page_shift
    names = [level.name for level in levels]
    for level in reversed(levels):
        subject = f"{arch.name}, {where} {level.name!r}"

        def need(ok: bool, name: str, found: object, expected: str, subject: str = subject) -> None:
            if not ok:
                raise ArchitectureError(subject, name, found, expected)

        need(names.count(level.name) == 1, "name", repr(level.name), "a name no other level has")
        need(level.shift == below, "shift", level.shift, f"{below}, where the level below ends")
        need(level.bits >= 1, "bits", level.bits, "at least 1 (leave a folded level out)")
        below = level.shift + level.bits
        need(below <= arch.word_bits, "bits", level.bits, f"levels that end within {arch.word_bits} bits")
        need(level.entry_bytes in (4, 8) and level.word_bytes in (4, 8), "entry_bytes", level.entry_bytes,
             "4 or 8 bytes, in words of 4 or 8")  # fmt: skip
        limit = (1 << 8 * level.word_bytes) - 1
        for name in ("none_mask", "present_mask", "missing_mask", "bad_mask", "good_value", "table_flags"):
            value = getattr(level, name)
            need(0 <= value <= limit, name, f"{value:#x}", f"at most {limit:#x}, the entry's word")
        for name in ("none_mask", "missing_mask"):
            need(getattr(level, name) != 0, name, "0x0", "at least one bit, or every entry passes the test")
        need(level.offset >= 0, "offset", level.offset, "0 or more bytes")
        need(bool(level.frame), "frame", "empty", "at least one (entry bit, width, address bit)")
        used = 0
        for segment in level.frame:
            mask = segment.entry_mask
            need(segment.width > 0 and mask <= limit and not mask & used, "frame", segment,
                 "segments inside the word that do not overlap")  # fmt: skip
            used |= mask
        need(not level.good_value & ~level.bad_mask, "good_value", f"{level.good_value:#x}",
             f"bits of bad_mask {level.bad_mask:#x}")  # fmt: skip


def _validate_tables(arch: Parameters) -> None:
    """Check that a table entry as Linux writes it is neither missing, bad nor a leaf, and that tables fit."""
    for position, level in enumerate(arch.levels):

        def need(ok: bool, name: str, found: object, expected: str, level: Level = level) -> None:
            if not ok:
                raise ArchitectureError(f"{arch.name}, levels {level.name!r}", name, found, expected)

        room = arch.page_size if position else max(arch.page_size, level.table_bytes)
        # two tables may share a page if each lies at a multiple of its size
        below = arch.levels[position + 1 : position + 2]
        lowest = min([arch.page_shift, *(deeper.table_bytes.bit_length() - 1 for deeper in below)])
        for segment in level.frame:
            need(segment.address_bit >= lowest, "frame", segment,
                 f"address bits from {lowest} up, where a page or table begins")  # fmt: skip
        need(level.offset + level.table_bytes <= room, "bits", level.bits,
             f"a table that fits its page of {arch.page_size:#x} bytes")  # fmt: skip
        if level is arch.levels[-1]:
            need(not level.prebuilt, "prebuilt", level.prebuilt, "False, there are no tables below the last level")
            continue
        flags = level.table_flags
        need(not flags & level.frame_mask, "table_flags", f"{flags:#x}", "bits outside the frame")
        need(bool(flags & level.present_mask), "table_flags", f"{flags:#x}",
             f"a bit of present_mask {level.present_mask:#x}")  # fmt: skip
        need(flags & level.bad_mask == level.good_value, "table_flags", f"{flags:#x}",
             f"a value that is not bad: & {level.bad_mask:#x} == {level.good_value:#x}")  # fmt: skip
        for leaf in level.leaves:
            need(flags & leaf.mask != leaf.value, "leaves", leaf.name,
                 f"a test that the table entry {flags:#x} does not pass")  # fmt: skip
