"""Find the root table of a dump: the user, VMCOREINFO or a CPU's saved register gives its address.

The lines that a machine's kernels print are in its record (`vmcore.architecture.KernelImage`); a dump of another
kind of tables (PAE, LPAE, five levels) is refused by the words of its kernel, with the names of the records that
fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from vmcore.architecture import Architecture, KernelImage
from vmcore.dump.cpu_notes import root_by_cpus
from vmcore.dump.identify import GIVE, Root, is_there, misfits, refuse, root_align, root_symbol
from vmcore.dump.store import Dump
from vmcore.errors import RootError
from vmcore.paging.mmu import Mmu
from vmcore.texts.vmcoreinfo import ROOT, VmcoreInfo

_KEY = b"SYMBOL(swapper_pg_dir)="
_START = b"OSRELEASE="
_TEXT_BYTES = 1 << 12  #: VMCOREINFO_BYTES of most kernels: a page
SCAN_MOST = 1 << 32  #: bytes of a dump that are searched for the text
_DOUBT = (
    "the root is not confirmed: tables at {:#x} do not map SYMBOL({}) {:#x}, expected that they map it there; "
    f"is the VMCOREINFO of this boot? if not, {GIVE}"
)
_TEXTS_MOST = 64  #: most texts in memory that are tried, without repetitions


def read_vmcoreinfo(path: str) -> VmcoreInfo:
    """Read VMCOREINFO from a file beside a dump.

    Raises:
        RootError: The file cannot be read, or is not VMCOREINFO.
    """
    try:
        with Path(path).open("rb") as file:
            info = VmcoreInfo.parse(file.read(1 << 20), path)
    except OSError as error:
        raise RootError(f"{path}: cannot be read: {error.strerror}, expected a VMCOREINFO text") from error
    if not info.lines:
        raise RootError(f"{path}: found no line KEY=value, expected a VMCOREINFO text such as OSRELEASE=...")
    return info


def find_vmcoreinfo(dump: Dump) -> VmcoreInfo | None:
    """Return VMCOREINFO from a dump's notes, or None. A note that has the root's symbol is preferred."""
    notes = [n for n in dump.notes if n.name == "VMCOREINFO" or _KEY in n.desc]
    if not notes:
        return None
    note = max(notes, key=lambda n: _KEY in n.desc)  # the first that has it
    return VmcoreInfo.parse(note.desc, f"VMCOREINFO, ELF note {note.name!r} of {dump.name}")


def _scan(dump: Dump) -> Iterator[VmcoreInfo]:
    """Search memory for different VMCOREINFO texts. Each begins with the release and names the root's symbol."""
    seen = set()
    for at in dump.find(_START, SCAN_MOST):
        text = dump.read_partial(at, _TEXT_BYTES)[0].split(b"\0", 1)[0]
        if _KEY in text and text not in seen:
            seen.add(text)
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
    the VMCOREINFO texts in its memory. The root of VMCOREINFO is checked: the tables below the root must not
    map its symbol elsewhere; if they do not map it at all, the root has doubts. A note that does not name the
    root is left out, unless it says that the dump is of another kind of machine.

    Args:
        dump: The dump.
        arch: Architecture of the tables in the dump.
        root: Physical address, or the value of the register that has it. Bits below the root's alignment are
            ignored.
        vmcoreinfo: VMCOREINFO of the same kernel, from `read_vmcoreinfo`.
        records: Other architectures, which the error names if ``arch`` does not fit.

    Raises:
        RootError: There is no root, it is not in the dump, or the dump is of another kind of machine.
    """
    others = tuple(records)
    if root is not None:
        return _given(dump, arch, root)
    if vmcoreinfo is not None:
        return _from_info(dump, arch, vmcoreinfo, others)
    note = find_vmcoreinfo(dump)
    if note is not None and _leads(arch, note):
        return _from_info(dump, arch, note, others)
    reasons = misfits(dump, arch, note)
    if reasons:
        raise refuse(dump, arch, reasons, others, note)
    found = _without_info(dump, arch, others)
    if note is None:
        return found
    return found._replace(doubts=(*found.doubts, f"{note.source}: found no symbol of the root, it was left out"))


def _leads(arch: Architecture, info: VmcoreInfo) -> bool:
    """Tell whether a text names a root, or has lines whose names are unknown."""
    if arch.image is None or ROOT in info.lines:
        return bool(info.lines)
    return root_symbol(info, arch.image) is not None


def _without_info(dump: Dump, arch: Architecture, records: tuple[Architecture, ...]) -> Root:
    cpu = arch.image.cpu if arch.image is not None else None
    found = root_by_cpus(dump, arch, cpu, records) if cpu is not None else None
    found = found or _from_memory(dump, arch, records)
    if found is not None:
        return found
    raise RootError(
        f"{dump.name}: found neither a VMCOREINFO nor a CPU note that leads to the root, expected one; "
        f"{GIVE}, or a VMCOREINFO file beside the dump (--vmcoreinfo)"
    )


def _from_memory(dump: Dump, arch: Architecture, records: tuple[Architecture, ...]) -> Root | None:
    """Return the root of the first text in memory that the tables confirm, or else of the first text.

    Return None if there is no text. Memory may hold the texts of earlier kernels (kexec), of files and of guests.
    """
    texts = list(islice(_scan(dump), _TEXTS_MOST))
    if not texts:
        return None
    confirmed: dict[int, Root] = {}
    for info in texts:
        try:
            root = _from_info(dump, arch, info, records)
        except RootError:  # raised again below if this is the first text and no root is confirmed
            continue
        if not root.doubts:
            confirmed.setdefault(root.address, root)
    others = f"; other texts there: {len(texts) - 1}" if len(texts) > 1 else ""
    if not confirmed:
        root = _from_info(dump, arch, texts[0], records)
        return root._replace(how=root.how + others)
    best, *rest = confirmed.values()
    doubts = tuple(f"the tables confirm another root too, {r.address:#x} ({r.how}); {GIVE}" for r in rest)
    return Root(best.address, best.how + others, doubts)


def _given(dump: Dump, arch: Architecture, root: int) -> Root:
    address = root & -root_align(arch)
    _present(dump, arch, address, "the root that was given")
    return Root(address, "given" if address == root else f"given as {root:#x}, without its low bits")


def _present(dump: Dump, arch: Architecture, address: int, what: str) -> None:
    if not is_there(dump, arch, address):
        raise RootError(f"{dump.name}: {what}, {address:#x}, is not in the dump; {GIVE}, or take a whole dump")


# ---- the kernel's VMCOREINFO


def _from_info(dump: Dump, arch: Architecture, info: VmcoreInfo, records: Iterable[Architecture]) -> Root:
    if ROOT in info.lines:
        address = info.number("vmcore_root") or 0
        _present(dump, arch, address, f"the root by {ROOT}")
        return Root(address, f"{info.source}: {ROOT}")
    image = arch.image
    if image is None:
        raise RootError(f"{arch.name}: the record does not say what its kernels print in VMCOREINFO; {GIVE}")
    reasons = misfits(dump, arch, info)
    if reasons:
        raise refuse(dump, arch, reasons, records, info)
    symbol = root_symbol(info, image)
    if symbol is None:
        names = " or ".join(f"SYMBOL({name})" for name in image.roots)
        raise RootError(f"{info.source}: found no {names}, expected one; {GIVE}")
    return _by_symbol(dump, arch, image, info, symbol)


def _by_symbol(
    dump: Dump, arch: Architecture, image: KernelImage, info: VmcoreInfo, symbol: tuple[str, int]
) -> Root:
    """Return the symbol's physical address that its tables confirm, or else the only possible address."""
    name, virtual = symbol
    tried: dict[int, str] = {}
    for base, physical, why in _mappings(dump, image, info):
        address = virtual - base + physical
        if virtual >= base and not address % image.root_align and address not in tried:
            tried[address] = f"{info.source}: SYMBOL({name}) {virtual:#x} - {base:#x} + {physical:#x} ({why})"
    present = [address for address in tried if is_there(dump, arch, address)]
    maps = {address: Mmu(arch, dump, address).translate(virtual) for address in present}
    for address, mapped in maps.items():
        if mapped == address:
            return Root(address, f"{tried[address]}, which the tables map so")
    if len(tried) == 1 and maps and None in maps.values():
        doubts = (_DOUBT.format(present[0], name, virtual),)
        return Root(present[0], f"{tried[present[0]]}, which the tables do not map", doubts)
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
    return f"{dump.name}: no root for SYMBOL({name}) {virtual:#x}: {tail}; {GIVE}"


def _mappings(dump: Dump, image: KernelImage, info: VmcoreInfo) -> Iterator[tuple[int, int, str]]:
    """Yield tuples: base, physical address mapped there, source of that address."""
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
    """Return addresses where RAM may begin: the lowest in the dump, and lower ones where boards put RAM."""
    lowest = int(dump.runs.starts[0])
    return list(dict.fromkeys([lowest, *(lowest & -(1 << shift) for shift in range(21, 31))]))
