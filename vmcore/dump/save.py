"""Write simulated RAM as an ELF core that drgn and `vmcore.dump.store` open.

Every bank is one PT_LOAD with p_filesz == p_memsz: an untouched page is zero on the machine, and so it is
in the file, as a hole of the file system. (p_memsz beyond p_filesz would say "zero" to some readers and "left out"
to those of kdump files.) The file looks as large as the RAM and takes the disk space of touched pages; copy it
with tools that keep holes, or pack it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from vmcore.dump import elf_headers as elf
from vmcore.dump.elf_headers import Note
from vmcore.memory.physical import PhysicalMemory
from vmcore.system.output import Output
from vmcore.system.touched import touched

_PIECE = 1 << 20  #: bytes that one step compares with zero
_BLOCK = 1 << 10  #: bytes that are written or left out together: the size of the smallest page
_ZEROS = bytes(_PIECE)
_ALIGN = 1 << 12  #: alignment of the banks in the file, bytes, so that holes are whole blocks


def write_core(
    path: str | os.PathLike[str] | Output, memory: PhysicalMemory, notes: Sequence[Note] = (), machine: int = 0
) -> None:
    """Write the memory of a machine as a sparse ELF64 core, all of it or nothing.

    Args:
        path: Path of the file, which is replaced if it exists.
        memory: Memory to write. It must not change meanwhile.
        notes: Notes of a PT_NOTE segment.
        machine: e_machine, 0 if ELF has no number for the machine.

    Raises:
        OutputError: The file cannot be written.
    """
    output = path if isinstance(path, Output) else Output(path)
    with output.writing() as file:
        _write(file, memory, notes, machine)


def _write(file: BinaryIO, memory: PhysicalMemory, notes: Sequence[Note], machine: int) -> None:
    note_data = b"".join(map(elf.encode_note, notes))
    headers = np.zeros(1 + len(memory.banks), elf.PHDR[elf.CLASS64])
    form = elf.EHDR[elf.CLASS64]
    note_at = elf.IDENT_BYTES + form.size + headers.nbytes
    headers[0] = (elf.PT_NOTE, 0, note_at, 0, 0, len(note_data), len(note_data), 4)
    at = _aligned(note_at + len(note_data))
    for header, bank in zip(headers[1:], memory.banks, strict=True):
        header["type"], header["flags"], header["align"] = elf.PT_LOAD, 7, _ALIGN
        header["offset"], header["paddr"], header["filesz"], header["memsz"] = at, bank.start, bank.size, bank.size
        at = _aligned(at + bank.size)
    ident = elf.MAGIC + bytes([elf.CLASS64, elf.LITTLE, 1]) + bytes(9)
    phoff = elf.IDENT_BYTES + form.size
    ehdr = form.pack(elf.ET_CORE, machine, 1, 0, phoff, 0, 0, phoff, headers.itemsize, len(headers), 0, 0, 0)
    file.write(ident + ehdr + headers.tobytes() + note_data)
    done = note_at + len(note_data)
    for header, bank in zip(headers[1:].tolist(), memory.banks, strict=True):
        data = np.frombuffer(memory.buffer, np.uint8, bank.size, memory.offset(bank.start))
        for first, stop in _filled(data):
            _skip(file, header[2] + first - done)
            file.write(data[first:stop].data)
            done = header[2] + stop
    _skip(file, at - done)
    if file.seekable():
        file.truncate()


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def _skip(file: BinaryIO, count: int) -> None:
    """Leave a hole of *count* bytes. A pipe cannot have holes, so zeros are written to it."""
    if file.seekable():
        file.seek(count, os.SEEK_CUR)
        return
    for at in range(0, count, _PIECE):
        file.write(_ZEROS[: count - at])


def _filled(data: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield ranges of whole blocks that hold a byte other than zero."""
    for start, end in touched(data):
        for at in range(start, end, _PIECE):
            piece = data[at : min(at + _PIECE, end)]
            pages = piece.view(np.uint64).reshape(-1, _BLOCK // 8)
            full = (pages != 0).any(axis=1)
            edges = np.flatnonzero(np.diff(np.concatenate([[False], full, [False]])))
            yield from zip((edges[::2] * _BLOCK + at).tolist(), (edges[1::2] * _BLOCK + at).tolist(), strict=True)
