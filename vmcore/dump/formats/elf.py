"""ELF cores: QEMU's dump-guest-memory, kdump's /proc/vmcore, and all others that have PT_LOAD with p_paddr.

``p_filesz`` bytes of a segment are in the file. The rest of ``p_memsz`` is not in the dump: the one that left it
out (makedumpfile, a user) did not say that it was zero.
"""

from __future__ import annotations

from mmap import mmap

import numpy as np

from vmcore.dump import elf_headers as elf
from vmcore.dump.elf_headers import Note
from vmcore.dump.segments import Contents
from vmcore.errors import DumpError
from vmcore.wording import counted

_NOTE_BYTES = 1 << 24  #: most bytes of all notes that are read
_NOTES_MOST = 1 << 14  #: a few per CPU
_HEADERS_MOST = 1 << 20  #: program headers; kdump writes one for each stretch of RAM
_NOT_PHYSICAL = (1 << 64) - 1, (1 << 32) - 1  #: p_paddr of /proc/kcore's vmalloc segments


def read_elf(path: str, file: mmap) -> Contents:
    """Return the contents that an ELF core claims.

    Raises:
        DumpError: The file is no ELF core, is big-endian, or its header is cut or contradicts itself.
    """
    kind, machine, phoff, shoff, entsize, count = _header(path, file)
    phdr = elf.PHDR[kind]
    if entsize != phdr.itemsize:
        raise DumpError(path, 0, f"e_phentsize {entsize:#x}", f"{phdr.itemsize:#x}; the header is damaged")
    problems = []
    if count == elf.PN_XNUM:
        count = _many(path, file, kind, shoff)
    if count > _HEADERS_MOST:
        found = counted(count, "program header", form="#x")
        raise DumpError(path, shoff, found, f"{_HEADERS_MOST:#x} at most; the section header is damaged")
    room = max(len(file) - phoff, 0) // entsize
    if count > room:
        many = counted(count, "program header", form="#x")
        problems.append(f"{many} at file offset {phoff:#x}, but the file ends after {room:#x} of them")
    if not min(count, room):
        raise DumpError(path, phoff, "no program header", "PT_LOAD segments; copy the dump again")
    headers = np.frombuffer(file, phdr, min(count, room), phoff).copy()
    loads = headers[(headers["type"] == elf.PT_LOAD) & ~np.isin(headers["paddr"], _NOT_PHYSICAL)]
    if len(loads) > 1 and not loads["paddr"].any():
        raise DumpError(
            path, phoff, "no physical address in any segment", "the core of a machine, not of a process"
        )
    notes = _notes(headers[headers["type"] == elf.PT_NOTE], file, problems)
    starts, sizes, offsets = (loads[name].astype(np.uint64) for name in ("paddr", "filesz", "offset"))
    return Contents(starts, sizes, offsets, tuple(notes), machine, tuple(problems))


def _header(path: str, file: mmap) -> tuple[int, int, int, int, int, int]:
    """Return class, e_machine, e_phoff, e_shoff, e_phentsize and e_phnum."""
    kind, order = file[4:5], file[5:6]
    if order == bytes([elf.BIG]):
        raise DumpError(path, 5, "a big-endian ELF file", "little-endian; vmcore reads no big-endian machine")
    form = elf.EHDR.get(kind[0] if kind else 0)
    if form is None or order != bytes([elf.LITTLE]):
        found = f"ELF class {kind.hex() or 'none'}, byte order {order.hex() or 'none'}"
        raise DumpError(path, 4, found, "class 01 or 02, order 01; the header is damaged")
    if len(file) < elf.IDENT_BYTES + form.size:
        raise DumpError(path, len(file), "the end of the file", "an ELF header; copy the dump again")
    of_type, machine, _, _, phoff, shoff, _, _, entsize, count, *_ = form.unpack_from(file, elf.IDENT_BYTES)
    if of_type != elf.ET_CORE:
        raise DumpError(
            path, 16, f"ELF type {of_type}", f"{elf.ET_CORE}, a core; give the memory dump, not a program"
        )
    return kind[0], machine, phoff, shoff, entsize, count


def _many(path: str, file: mmap, kind: int, shoff: int) -> int:
    """Return the number of program headers if it is too large for e_phnum."""
    at = shoff + elf.SH_INFO_AT[kind]
    if shoff == 0 or at + 4 > len(file):
        raise DumpError(path, shoff, "no section header", "one with the number e_phnum leaves to it")
    return int.from_bytes(file[at : at + 4], "little")


def _notes(headers: np.ndarray, file: mmap, problems: list[str]) -> list[Note]:
    out: list[Note] = []
    left = _NOTE_BYTES
    for header in headers.tolist():
        fields = dict(zip(headers.dtype.names or (), header, strict=True))
        start, size = fields["offset"], min(fields["filesz"], left)
        end = min(start + size, len(file))
        if end < start + fields["filesz"]:
            problems.append(f"the notes at file offset {start:#x} are cut at {max(end, 0):#x}")
        if start < end:
            left -= end - start
            _read_notes(file[start:end], start, out, problems)
        if left <= 0:
            break
    return out


def _read_notes(data: bytes, offset: int, out: list[Note], problems: list[str]) -> None:
    """Add the notes of one segment. Zeros, or a note that is cut, end the list."""
    at = 0
    while at + elf.NHDR.size <= len(data):
        name_bytes, desc_bytes, kind = elf.NHDR.unpack_from(data, at)
        if not name_bytes | desc_bytes | kind:
            return
        if len(out) == _NOTES_MOST:
            problems.append(
                f"more than {_NOTES_MOST:#x} notes; those from file offset {offset + at:#x} are left out"
            )
            return
        name_at = at + elf.NHDR.size
        desc_at = name_at + (name_bytes + 3 & -4)
        if desc_at + desc_bytes > len(data):
            problems.append(f"the note at file offset {offset + at:#x} is larger than its segment")
            return
        name = data[name_at : name_at + name_bytes].split(b"\0")[0].decode("latin-1")
        out.append(Note(name, kind, data[desc_at : desc_at + desc_bytes]))
        at = desc_at + (desc_bytes + 3 & -4)
