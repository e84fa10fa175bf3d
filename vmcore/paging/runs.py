"""Runs of mappings that continue each other, and series of equal runs."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from vmcore.paging.mappings import NO_LEAF, Mappings
from vmcore.paging.mmu import Mmu


@frozen(eq=False)
class MappingRuns:
    """Runs of mappings, as arrays of shape ``(n,)``.

    The mappings of a run follow each other virtually and physically, and have the same size and bits.

    Attributes:
        virtual: first virtual address, uint64.
        physical: the physical address that it maps to, bytes, int64.
        size: bytes of the run, uint64.
        count: mappings in the run, int64.
        shift: log2 of the bytes of each mapping, uint8.
        depth: level of the entries, 0 is the root's, int8.
        leaf: as in `Mappings`, int8.
        flags: the entries without their addresses, uint64.
        path: as in `Mappings`, int32.
        paths: as in `Mappings`.
    """

    virtual: np.ndarray
    physical: np.ndarray
    size: np.ndarray
    count: np.ndarray
    shift: np.ndarray
    depth: np.ndarray
    leaf: np.ndarray
    flags: np.ndarray
    path: np.ndarray
    paths: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.virtual)


def merge(mmu: Mmu, found: Mappings) -> MappingRuns:
    """Merge mappings that continue each other into runs.

    A mapping continues a run if its addresses come next, and it has the same size and the same bits. The bits are
    those of its entry and of the entries above. For example, an upper entry that forbids execution begins a new
    run. The meaning of the bits is not considered.
    """
    flags = leaf_flags(mmu, found)
    size = np.uint64(1) << found.shift.astype(np.uint64)
    new = np.ones(len(found), bool)
    new[1:] = found.virtual[1:] != found.virtual[:-1] + size[:-1]
    new[1:] |= found.physical[1:] != found.physical[:-1] + size[:-1].view(np.int64)
    for kind in (flags, found.shift, found.depth, found.leaf, found.path):
        new[1:] |= kind[1:] != kind[:-1]
    first = np.flatnonzero(new)
    count = np.diff(first, append=len(found))
    whole = count.astype(np.uint64) * size[first]
    columns = (found.shift, found.depth, found.leaf, flags, found.path)
    shift, depth, leaf, flags, path = (column[first] for column in columns)
    virtual, physical = found.virtual[first], found.physical[first]
    return MappingRuns(virtual, physical, whole, count, shift, depth, leaf, flags, path, found.paths)


def repeats(runs: MappingRuns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find series of runs that differ in their virtual address alone, and lie at equal distances.

    For example, one directory that many upper entries name gives such a series.

    Returns:
        For each series the index of its first run and its number of runs, both int64, and the distance in bytes,
        uint64. A run that is not repeated is a series of 1.
    """
    same = np.zeros(len(runs), bool)
    if len(runs):
        same[1:] = True
    for kind in (runs.physical, runs.size, runs.flags, runs.shift, runs.depth, runs.leaf, runs.path):
        same[1:] &= kind[1:] == kind[:-1]
    distance = np.zeros(len(runs), np.uint64)
    distance[1:] = runs.virtual[1:] - runs.virtual[:-1]
    other = np.zeros(len(runs), bool)
    other[1:] = same[1:] & same[:-1] & (distance[1:] != distance[:-1])
    # the distance from one series to the next belongs to neither: of changes in a row each second one is real
    place = np.arange(len(runs))
    since = place - np.maximum.accumulate(np.where(other, 0, place))
    first = np.flatnonzero(~same | other & (since % 2 == 1))
    times = np.diff(first, append=len(runs))
    return first, times, np.where(times > 1, distance[np.minimum(first + 1, max(len(runs) - 1, 0))], 0)


def leaf_flags(mmu: Mmu, found: Mappings) -> np.ndarray:
    """Return the entries of mappings without the bits of their address fields, uint64, shape ``(n,)``."""
    flags = found.word.copy()
    for number, d in enumerate(mmu.laid_out):
        for position, page in enumerate(d.pages):
            these = (found.depth == number) & (found.leaf == (position if page.leaf else NO_LEAF))
            mask = sum(s.entry_mask for s in page.frame)
            flags[these] &= np.uint64(~mask & (1 << 64) - 1)
    return flags
