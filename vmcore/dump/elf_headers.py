"""ELF cores as bytes: the headers that the reader of dumps and the writer of cores share.

Source: System V ABI, chapters 4 and 5; elf(5); include/linux/elfcore.h. Little-endian only.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

MAGIC = b"\x7fELF"
CLASS32, CLASS64 = 1, 2
LITTLE, BIG = 1, 2
ET_CORE = 4
PT_LOAD, PT_NOTE = 1, 4
PN_XNUM = 0xFFFF  #: value of e_phnum if sh_info of the first section header has the number

#: Header after e_ident, by class: type, machine, version, entry, phoff, shoff, flags, ehsize, phentsize, phnum,
#: shentsize, shnum, shstrndx.
EHDR = {CLASS32: struct.Struct("<HHIIIIIHHHHHH"), CLASS64: struct.Struct("<HHIQQQIHHHHHH")}
IDENT_BYTES = 16
#: Offset of sh_info in a section header, by class, bytes.
SH_INFO_AT = {CLASS32: 28, CLASS64: 44}

PHDR = {
    CLASS32: np.dtype(
        [(n, "<u4") for n in ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")]
    ),
    CLASS64: np.dtype(
        [("type", "<u4"), ("flags", "<u4")]
        + [(n, "<u8") for n in ("offset", "vaddr", "paddr", "filesz", "memsz", "align")]
    ),
}
NHDR = struct.Struct("<III")  #: bytes of the name, bytes of the description, type


class Note(NamedTuple):
    """One ELF note: the name of its owner, its type (a number that the owner defines) and its bytes."""

    name: str
    kind: int
    desc: bytes


def encode_note(note: Note) -> bytes:
    """Return a note as it stands in a PT_NOTE segment: name and description are padded to 4 bytes."""
    name = note.name.encode() + b"\0"
    return NHDR.pack(len(name), len(note.desc), note.kind) + _padded(name) + _padded(note.desc)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
