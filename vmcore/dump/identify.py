"""The kernel of a dump: its ELF header and its VMCOREINFO, compared with records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from vmcore.architecture import Architecture, KernelImage
from vmcore.dump.store import Dump
from vmcore.errors import RootError
from vmcore.texts.vmcoreinfo import VmcoreInfo

GIVE = "give the root table's physical address (--root)"


class Root(NamedTuple):
    """A root table of a dump.

    Attributes:
        address: Physical address, bytes.
        how: Text that says how the root was found.
        doubts: Reasons why it may not be a root. Empty if there are none.
    """

    address: int
    how: str
    doubts: tuple[str, ...] = ()


def root_align(arch: Architecture) -> int:
    """Return the alignment of a root table, bytes."""
    if arch.image is not None:
        return arch.image.root_align
    return 1 << min(arch.page_shift, arch.hardware_levels[0].table_bytes.bit_length() - 1)


def is_there(dump: Dump, arch: Architecture, address: int) -> bool:
    """Tell whether any word of a root table is in the dump. A sparse dump may lack pages of the table."""
    level = arch.hardware_levels[0]
    step = min(level.table_bytes, 1 << 12)
    places = range(address, address + level.table_bytes, step)
    return 0 <= address < 1 << 62 and any(dump.word(at, level.word_bytes) is not None for at in places)


def fitting(dump: Dump, info: VmcoreInfo | None, records: Iterable[Architecture]) -> list[Architecture]:
    """Return the records whose kernels could have made a dump, by name."""
    fits = (a for a in records if a.image is not None and not misfits(dump, a, info))
    return sorted(fits, key=lambda a: a.name)


def advise(records: Iterable[Architecture]) -> str:
    """Return text that names the records that fit. If their entries differ, it says that the CPU decides."""
    fits = list(records)
    names = ", ".join(a.name for a in fits)
    if any(a.hardware_levels != fits[0].hardware_levels for a in fits):
        return f"records that fit: {names}, whose entries differ: take that of the machine's CPU"
    return f"records that fit: {names}" if names else "no installed record fits"


def misfits_machine(dump: Dump, arch: Architecture) -> list[str]:
    """Return the reasons why a dump's header contradicts an architecture's machine. Empty: it may fit."""
    image = arch.image
    if image is None or dump.machine in (0, image.machine):
        return []
    return [f"ELF e_machine is {dump.machine}, expected {image.machine}"]


def misfits(dump: Dump, arch: Architecture, info: VmcoreInfo | None) -> list[str]:
    """Return the reasons why a dump or its VMCOREINFO contradicts an architecture's kernel. Empty: it may fit.

    A line that a text lacks counts only if the text is whole enough to have the root's symbol.
    """
    reasons = misfits_machine(dump, arch)
    if info is None or arch.image is None:
        return reasons
    page, symbol = info.page_size(), root_symbol(info, arch.image)
    if page not in (None, arch.page_size):
        reasons.append(f"PAGESIZE is {page}, expected {arch.page_size}")
    for key, values in arch.image.lines:
        value = info.lines.get(key, "")
        if value not in values and (value or symbol is not None):
            expected = " or ".join(v or "no such line" for v in values)
            reasons.append(f"{key} is {value or 'not there'}, expected {expected}")
    if symbol is not None and symbol[1] > arch.word_mask:
        reasons.append(f"{symbol[0]} is {symbol[1]:#x}, expected an address of {arch.word_bits} bits")
    return reasons


def refuse(
    dump: Dump, arch: Architecture, reasons: list[str], records: Iterable[Architecture], info: VmcoreInfo | None
) -> RootError:
    """Return the error for a dump, or a VMCOREINFO, of another kind of machine."""
    advice = advise(fitting(dump, info, records))
    source = info.source if info is not None else dump.name
    return RootError(f"{source}: not a kernel of {arch.name!r}: {'; '.join(reasons)}; {advice}")


def root_symbol(info: VmcoreInfo, image: KernelImage) -> tuple[str, int] | None:
    """Return the root's symbol and its virtual address, or None if the text lacks it."""
    for name in image.roots:
        value = info.symbol(name)
        if value is not None:
            return name, value
    return None
