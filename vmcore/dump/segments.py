"""The contents that a format claims, and the runs of memory that really are there.

A dump may lie: segments beyond the end of the file, two for one address, addresses no machine has. `settle`
keeps the readable parts and lists, with offsets and addresses, the parts that it left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from mmap import mmap

import numpy as np
from attrs import frozen

from vmcore.dump.elf_headers import Note
from vmcore.wording import counted

_TOP = np.uint64(1 << 62)  #: above every physical address of a machine. Sums stay within int64
_FEW = 8  #: problems of one kind that are reported one by one
_COMPARE = 1 << 16  #: bytes of two segments for one address that are compared


@frozen(eq=False)
class Contents:
    """The contents that a file claims.

    Attributes:
        starts: Physical addresses of the segments, bytes, uint64, shape ``(n,)``, in file order.
        sizes: Bytes of each segment in the file, uint64, shape ``(n,)``.
        offsets: Offset of each segment in the file, bytes, uint64, shape ``(n,)``.
        notes: ELF notes.
        machine: ELF e_machine; 0 where the format has none.
        problems: the faults found so far.
    """

    starts: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    notes: tuple[Note, ...] = ()
    machine: int = 0
    problems: tuple[str, ...] = ()


@frozen(eq=False)
class Runs:
    """Runs of memory in a file. They are disjoint, in address order, and as long as possible.

    Attributes:
        starts: first physical address of each, bytes, int64, shape ``(n,)``; ``ends``: one past its last.
        deltas: what to add to an address for an offset into the file, int64.
        problems: the parts left out.
    """

    starts: np.ndarray
    ends: np.ndarray
    deltas: np.ndarray
    problems: tuple[str, ...]


def few(lines: Iterable[str], count: int) -> list[str]:
    """Return the first of ``count`` lines, and a line that says how many more there are."""
    told = [line for line, _ in zip(lines, range(_FEW), strict=False)]
    return [*told, f"... and {count - _FEW:,} more like that"] if count > _FEW else told


def settle(contents: Contents, file: mmap) -> Runs:
    """Return the contents that can be read from a file."""
    problems = list(contents.problems)
    size = np.uint64(len(file))
    starts, sizes, offsets = contents.starts, contents.sizes, contents.offsets

    def tell(bad: np.ndarray, what: str) -> None:
        hits = np.flatnonzero(bad)
        lines = (
            f"the segment of {counted(int(sizes[i]), 'byte', form='#x')} for physical address {int(starts[i]):#x} "
            f"at file offset {int(offsets[i]):#x} {what}"
            for i in hits
        )
        problems.extend(few(lines, len(hits)))

    absurd = (sizes > 0) & (starts >= _TOP)
    tell(absurd, "is at an address no machine has; it is left out")
    beyond = (sizes > 0) & ~absurd & (offsets >= size)
    tell(beyond, f"begins beyond the end of the file, {int(size):#x}; it is left out")
    keep = (sizes > 0) & ~absurd & ~beyond
    room = size - np.minimum(offsets, size)
    cut = keep & (sizes > room)
    tell(cut, f"runs past the end of the file, {int(size):#x}; what is missing is not in the dump")
    sizes = np.minimum(sizes, room)[keep].astype(np.int64)
    starts, offsets = starts[keep].astype(np.int64), offsets[keep].astype(np.int64)
    order = np.argsort(starts, kind="stable")
    starts, sizes, offsets = starts[order], sizes[order], offsets[order]
    ends, deltas = starts + sizes, offsets - starts
    taken = np.maximum.accumulate(np.concatenate([np.full(1, -1), ends]))[:-1]
    own = np.maximum(starts, taken)
    left = own < ends
    runs = _joined(own[left], ends[left], deltas[left])
    problems += _shared(*runs)
    problems += _overlaps(runs, starts, np.minimum(ends, taken), deltas, file)
    return Runs(*runs, tuple(problems))


def _joined(starts: np.ndarray, ends: np.ndarray, deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join runs that are adjacent both in memory and in the file."""
    apart = (starts[1:] != ends[:-1]) | (deltas[1:] != deltas[:-1])
    first = np.concatenate([np.ones(min(1, len(starts)), bool), apart])
    last = np.concatenate([apart, np.ones(min(1, len(starts)), bool)])
    return starts[first], ends[last], deltas[first]


def _shared(starts: np.ndarray, ends: np.ndarray, deltas: np.ndarray) -> list[str]:
    """Report bytes of the file that stand for two physical addresses. A header is damaged then."""
    order = np.argsort(starts + deltas, kind="stable")
    first, last = (starts + deltas)[order], (ends + deltas)[order]
    taken = np.maximum.accumulate(np.concatenate([np.zeros(1, np.int64), last]))[:-1]
    hits = np.flatnonzero(first < taken)
    lines = (
        f"the bytes at file offset {int(first[i]):#x} stand for physical {int(starts[order[i]]):#x} and for "
        "another address too; one of the segment headers is damaged"
        for i in hits
    )
    return few(lines, len(hits))


def _overlaps(
    runs: tuple[np.ndarray, np.ndarray, np.ndarray],
    starts: np.ndarray,
    ends: np.ndarray,
    deltas: np.ndarray,
    file: mmap,
) -> list[str]:
    """Report addresses with different bytes in two segments. Equal bytes are fine: kdump has kernel text twice."""
    hits = np.flatnonzero(starts < ends)
    lines = []
    for i in hits[:_FEW].tolist():
        start, end, own = int(starts[i]), int(ends[i]), int(deltas[i])
        run = int(np.searchsorted(runs[0], start, "right")) - 1
        length, used = min(end - start, int(runs[1][run]) - start, _COMPARE), int(runs[2][run])
        if file[start + own : start + own + length] != file[start + used : start + used + length]:
            lines.append(
                f"physical {start:#x}-{end:#x} is in two segments with different bytes; those at file offset "
                f"{start + used:#x} are used, those at {start + own:#x} are not"
            )
    if len(hits) > _FEW:
        more = counted(len(hits) - _FEW, "of them was", "of them were")
        lines.append(f"{len(hits):,} segments overlap others; {more} not compared")
    return lines
