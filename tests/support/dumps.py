"""Dump files made by hand, and the captures of real kernels."""

import csv
import io
import json
import lzma
import struct
from pathlib import Path

from attrs import frozen

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
#: Capture to the record that reads it; the last one's is a plugin's.
RECORDS = {
    "x86_64-l4": "x86_64",
    "i386-2level": "i386",
    "i386-pae": "i386-pae",
    "arm-short": "armv7-highmem",
    "riscv64-sv39": "riscv64",
}


def phdr(kind, of_type, offset, paddr, filesz, memsz=None, vaddr=0):
    memsz = filesz if memsz is None else memsz
    if kind == 2:
        return struct.pack("<IIQQQQQQ", of_type, 7, offset, vaddr, paddr, filesz, memsz, 4096)
    return struct.pack("<IIIIIIII", of_type, offset, vaddr, paddr, filesz, memsz, 7, 4096)


def ehdr(kind=2, phnum=0, *, order=1, of_type=4, machine=62, phoff=None, shoff=0, entsize=None):
    size = 64 if kind == 2 else 52
    phoff = size if phoff is None else phoff
    entsize = (56 if kind == 2 else 32) if entsize is None else entsize
    ident = b"\x7fELF" + bytes([kind, order, 1]) + bytes(9)
    form = "<HHIQQQIHHHHHH" if kind == 2 else "<HHIIIIIHHHHHH"
    return ident + struct.pack(form, of_type, machine, 1, 0, phoff, shoff, 0, size, entsize, phnum, 0, 0, 0)


def note(name, kind, desc):
    raw = name.encode() + b"\0"
    pad = [bytes(-len(x) % 4) for x in (raw, desc)]
    return struct.pack("<III", len(raw), len(desc), kind) + raw + pad[0] + desc + pad[1]


def core(segments, notes=b"", *, kind=2, machine=62, skew=0):
    """Return an ELF core of (physical address, bytes); ``skew`` bytes before the data make offsets odd."""
    size = 64 if kind == 2 else 52
    entsize = 56 if kind == 2 else 32
    count = len(segments) + bool(notes)
    at = size + entsize * count
    headers, body = b"", notes
    if notes:
        headers += phdr(kind, 4, at, 0, len(notes))
    at += len(notes)
    body, at = body + bytes(skew), at + skew
    for address, data in segments:
        headers += phdr(kind, 1, at, address, len(data))
        body, at = body + data, at + len(data)
    return ehdr(kind, count, machine=machine) + headers + body


def lime(segments):
    """Return a LiME file of (physical address, bytes)."""
    return b"".join(
        struct.pack("<IIQQQ", 0x4C694D45, 1, address, address + len(data) - 1, 0) + data
        for address, data in segments
    )


@frozen
class Capture:
    """A folder of tests/data/captures."""

    name: str
    folder: Path
    meta: dict

    @property
    def core(self):
        return self.folder / "ram.elf.xz"

    @property
    def root(self):
        return int(self.meta["root_phys"], 16)

    @property
    def vmcoreinfo(self):
        return str(self.folder / "vmcoreinfo.txt")

    def unpacked(self):
        return lzma.decompress(self.core.read_bytes())

    def rows(self):
        """Return (virtual address, physical address or None) of every row QEMU answered."""
        with lzma.open(self.folder / "translations.csv.xz") as file:
            rows = list(csv.DictReader(io.TextIOWrapper(file)))
        return [(int(r["vaddr"], 16), None if r["paddr"] == "unmapped" else int(r["paddr"], 16)) for r in rows]


def capture(name):
    folder = CAPTURES / name
    return Capture(name, folder, json.loads((folder / "meta.json").read_text()))
