"""Where the root table of a dump is: given, said by VMCOREINFO, or in a CPU's saved register.

What a machine's kernels print is in its record (`vmcore.architecture.KernelImage`); a dump of another kind of
tables (PAE, LPAE, five levels) is refused by what its kernel says, with the names of the records that fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vmcore.architecture import Architecture, CpuNote, KernelImage
from vmcore.dump import Dump
from vmcore.errors import RootError
from vmcore.mmu import Mmu
from vmcore.vmcoreinfo import ROOT, VmcoreInfo

_KEY = b"SYMBOL(swapper_pg_dir)="
_START = b"OSRELEASE="
_TEXT_BYTES = 1 << 12  #: VMCOREINFO_BYTES of most kernels: a page
SCAN_MOST = 1 << 33  #: bytes of a dump that are searched for the text
_GIVE = "give the root table's physical address (--root)"


class Root(NamedTuple):
    """The physical address of a root table, bytes, and how it was found, for people."""

    address: int
    how: str


def read_vmcoreinfo(path: str) -> VmcoreInfo:
    """Read a VMCOREINFO that lies beside a dump.

    Raises:
        RootError: it cannot be read, or is something else.
    """
    try:
        with Path(path).open("rb") as file:
            info = VmcoreInfo.parse(file.read(1 << 20), path)
    except OSError as error:
        raise RootError(f"{path}: cannot be read: {error.strerror}, expected a VMCOREINFO text") from error
    if not info.lines:
        raise RootError(f"{path}: found no line KEY=value, expected a VMCOREINFO text such as OSRELEASE=...")
    return info


def find_vmcoreinfo(dump: Dump, scan: bool = True) -> VmcoreInfo | None:
    """Return the VMCOREINFO in a dump's notes, or else in its memory; None: there is none.

    Args:
        dump: to be searched.
        scan: search the memory, `SCAN_MOST` bytes of it at most.
    """
    for note in dump.notes:
        if note.name == "VMCOREINFO" or _KEY in note.desc:
            return VmcoreInfo.parse(note.desc, f"VMCOREINFO, ELF note {note.name!r} of {dump.name}")
    return next(_scan(dump), None) if scan else None


def _scan(dump: Dump) -> Iterator[VmcoreInfo]:
    """Search the memory for the text: a page that begins with the release and names the root's symbol."""
    for at in dump.find(_START, SCAN_MOST):
        text = dump.read_partial(at, _TEXT_BYTES)[0]
        if _KEY in text.split(b"\0", 1)[0]:
            yield VmcoreInfo.parse(text, f"VMCOREINFO text found in memory at physical {at:#x}")


def find_root(
    dump: Dump,
    arch: Architecture,
    *,
    root: int | None = None,
    vmcoreinfo: VmcoreInfo | None = None,
    records: Iterable[Architecture] = (),
) -> Root:
    """Find the root table of a dump.

    Tried in this order: ``root``; ``vmcoreinfo``; the dump's VMCOREINFO note; the registers in its CPU notes;
    a VMCOREINFO text somewhere in its memory. What VMCOREINFO leads to is checked: the tables below the root
    must not map its symbol elsewhere.

    Args:
        dump: the dump.
        arch: whose tables are in it.
        root: physical address, or the register that has it; bits below the root's alignment are left out.
        vmcoreinfo: of the same kernel, from `read_vmcoreinfo`.
        records: other architectures, to be named where ``arch`` does not fit.

    Raises:
        RootError: there is none, it is not in the dump, or the dump is of another kind of machine.
    """
    others = tuple(records)
    if root is not None:
        return _given(dump, arch, root)
    found = vmcoreinfo if vmcoreinfo is not None else find_vmcoreinfo(dump, scan=False)
    if found is not None:
        return _from_info(dump, arch, found, others)
    reasons = _misfits_machine(dump, arch)
    if reasons:
        raise _refuse(dump, arch, reasons, others, None)
    if arch.image is not None and arch.image.cpu is not None:
        by_cpu = _from_cpus(dump, arch, arch.image.cpu, others)
        if by_cpu is not None:
            return by_cpu
    found = find_vmcoreinfo(dump)
    if found is not None:
        return _from_info(dump, arch, found, others)
    raise RootError(
        f"{dump.name}: found neither a VMCOREINFO nor a CPU note with the root's register, expected one; "
        f"{_GIVE}, or a VMCOREINFO file beside the dump (--vmcoreinfo)"
    )


def root_align(arch: Architecture) -> int:
    """Return what a root table's address is a multiple of, bytes."""
    if arch.image is not None:
        return arch.image.root_align
    return 1 << min(arch.page_shift, arch.hardware_levels[0].table_bytes.bit_length() - 1)


def _given(dump: Dump, arch: Architecture, root: int) -> Root:
    address = root & -root_align(arch)
    _present(dump, arch, address, "the root that was given")
    return Root(address, "given" if address == root else f"given as {root:#x}, without its low bits")


def _present(dump: Dump, arch: Architecture, address: int, what: str) -> None:
    if not _is_there(dump, arch, address):
        raise RootError(f"{dump.name}: {what}, {address:#x}, is not in the dump; {_GIVE}, or take a whole dump")


def _is_there(dump: Dump, arch: Architecture, address: int) -> bool:
    """Tell whether any word of a root table is in the dump: a sparse one may lack pages of it."""
    level = arch.hardware_levels[0]
    step = min(level.table_bytes, 1 << 12)
    places = range(address, address + level.table_bytes, step)
    return 0 <= address < 1 << 62 and any(dump.word(at, level.word_bytes) is not None for at in places)


# ---- what the kernel says


def fitting(dump: Dump, info: VmcoreInfo | None, records: Iterable[Architecture]) -> list[str]:
    """Return the names of the records whose kernels would say what is in a dump, in order."""
    fits = (a for a in records if a.image is not None and not misfits(dump, a, info))
    return sorted(a.name for a in fits)


def _misfits_machine(dump: Dump, arch: Architecture) -> list[str]:
    image = arch.image
    if image is None or dump.machine in (0, image.machine):
        return []
    return [f"ELF e_machine is {dump.machine}, expected {image.machine}"]


def misfits(dump: Dump, arch: Architecture, info: VmcoreInfo | None) -> list[str]:
    """Return why a dump, or its kernel's VMCOREINFO, is not of an architecture's kernel; empty: it may be."""
    reasons = _misfits_machine(dump, arch)
    if info is None or arch.image is None:
        return reasons
    page = info.page_size()
    if page not in (None, arch.page_size):
        reasons.append(f"PAGESIZE is {page}, expected {arch.page_size}")
    for key, values in arch.image.lines:
        value = info.lines.get(key, "")
        if value not in values:
            expected = " or ".join(v or "no such line" for v in values)
            reasons.append(f"{key} is {value or 'not there'}, expected {expected}")
    symbol = _symbol(info, arch.image)
    if symbol is not None and symbol[1] > arch.word_mask:
        reasons.append(f"{symbol[0]} is {symbol[1]:#x}, expected an address of {arch.word_bits} bits")
    return reasons


def _refuse(
    dump: Dump, arch: Architecture, reasons: list[str], records: Iterable[Architecture], info: VmcoreInfo | None
) -> RootError:
    names = fitting(dump, info, records)
    advice = f"records that fit: {', '.join(names)}" if names else "no installed record fits"
    source = info.source if info is not None else dump.name
    return RootError(f"{source}: not a kernel of {arch.name!r}: {'; '.join(reasons)}; {advice}")


def _symbol(info: VmcoreInfo, image: KernelImage) -> tuple[str, int] | None:
    for name in image.roots:
        value = info.symbol(name)
        if value is not None:
            return name, value
    return None


def _from_info(dump: Dump, arch: Architecture, info: VmcoreInfo, records: Iterable[Architecture]) -> Root:
    if ROOT in info.lines:
        address = info.number("vmcore_root") or 0
        _present(dump, arch, address, f"the root by {ROOT}")
        return Root(address, f"{info.source}: {ROOT}")
    image = arch.image
    if image is None:
        raise RootError(f"{arch.name}: the record does not say what its kernels print in VMCOREINFO; {_GIVE}")
    reasons = misfits(dump, arch, info)
    if reasons:
        raise _refuse(dump, arch, reasons, records, info)
    symbol = _symbol(info, image)
    if symbol is None:
        names = " or ".join(f"SYMBOL({name})" for name in image.roots)
        raise RootError(f"{info.source}: found no {names}, expected one; {_GIVE}")
    return _by_symbol(dump, arch, image, info, symbol)


def _by_symbol(
    dump: Dump, arch: Architecture, image: KernelImage, info: VmcoreInfo, symbol: tuple[str, int]
) -> Root:
    """Return the place of the symbol that the tables there agree with, or else the only one there can be."""
    name, virtual = symbol
    tried: dict[int, str] = {}
    for base, physical, why in _mappings(dump, image, info):
        address = virtual - base + physical
        if virtual >= base and not address % image.root_align and address not in tried:
            tried[address] = f"{info.source}: SYMBOL({name}) {virtual:#x} - {base:#x} + {physical:#x} ({why})"
    present = [address for address in tried if _is_there(dump, arch, address)]
    maps = {address: Mmu(arch, dump, address).translate(virtual) for address in present}
    for address, mapped in maps.items():
        if mapped == address:
            return Root(address, f"{tried[address]}, which the tables map so")
    if len(tried) == 1 and maps and None in maps.values():
        return Root(present[0], f"{tried[present[0]]}, which the tables do not map")
    raise RootError(_why_not(dump, name, virtual, tried, maps))


def _why_not(dump: Dump, name: str, virtual: int, tried: dict[int, str], maps: dict[int, int | None]) -> str:
    places = []
    for address in tried:
        if address not in maps:
            found = "is not in the dump"
        else:
            mapped = maps[address]
            found = "has tables that do not map it" if mapped is None else f"has tables that map it to {mapped:#x}"
        places.append(f"{address:#x} {found}")
    tail = "; ".join(places[:8]) or "it is below every base, or not aligned"
    return f"{dump.name}: no root for SYMBOL({name}) {virtual:#x}: {tail}; {_GIVE}"


def _mappings(dump: Dump, image: KernelImage, info: VmcoreInfo) -> Iterator[tuple[int, int, str]]:
    """Yield (base, physical address mapped there, where that is from)."""
    said = info.number(image.base_number)
    for base in image.bases if said is None else (said,):
        offset = None if image.offset_number is None else info.number(image.offset_number)
        physical = info.number(image.physical_number)
        if offset is not None:
            yield base, base - offset, f"NUMBER({image.offset_number})"
        elif physical is not None:
            yield base, physical, f"NUMBER({image.physical_number})"
        elif image.physical is not None:
            yield base, image.physical, f"no NUMBER({image.physical_number})"
        else:
            yield from ((base, start, "where RAM may begin") for start in _ram_starts(dump))


def _ram_starts(dump: Dump) -> list[int]:
    """Return where RAM may begin: the lowest address of the dump, or below it where boards put RAM."""
    lowest = int(dump.runs.starts[0])
    return list(dict.fromkeys([lowest, *(lowest & -(1 << shift) for shift in range(21, 31))]))


# ---- what the CPUs say


def _from_cpus(dump: Dump, arch: Architecture, cpu: CpuNote, records: Iterable[Architecture]) -> Root | None:
    """Return the root in the first CPU note whose registers fit; None: there is no such note."""
    notes = [n for n in dump.notes if n.name == cpu.name and len(n.desc) >= cpu.size]
    reasons: list[str] = []
    for number, note in enumerate(notes):

        def register(at: int, desc: bytes = note.desc) -> int:
            return int.from_bytes(desc[at : at + 8], "little")

        wrong = [meaning for at, mask, value, meaning in cpu.checks if register(at) & mask != value]
        address = register(cpu.root_at) & cpu.root_mask & -root_align(arch)
        if wrong:
            reasons += wrong
        elif _is_there(dump, arch, address):
            return Root(address, f"CPU {number}'s register {register(cpu.root_at):#x} in a {cpu.name} note")
        else:
            reasons.append(f"CPU {number}'s root {address:#x} is not in the dump")
    if not notes:
        return None
    names = fitting(dump, None, [a for a in records if _cpus_fit(notes[0].desc, a)])
    fits = f"; records that fit: {', '.join(names)}" if names else ""
    told = "; ".join(dict.fromkeys(reasons))
    raise RootError(f"{dump.name}: no root for {arch.name!r} in its {cpu.name} notes: {told}{fits}; or {_GIVE}")


def _cpus_fit(desc: bytes, arch: Architecture) -> bool:
    if arch.image is None or arch.image.cpu is None:
        return False
    checks = arch.image.cpu.checks
    return all(int.from_bytes(desc[at : at + 8], "little") & mask == value for at, mask, value, _ in checks)
