"""Number the kinds of runs, and join repeated runs into series: the table that people read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from attrs import frozen

from vmcore.architecture import Level
from vmcore.paging.mmu import Mmu
from vmcore.paging.runs import MappingRuns, repeats


class RunKind(NamedTuple):
    """Bits that several runs share.

    Attributes:
        level: Level of their entries.
        flags: The entries without the address.
        above: Entries of the tables above, with their levels, root first, without the address.
    """

    level: Level
    flags: int
    above: tuple[tuple[Level, int], ...]


@frozen(eq=False)
class RunTable:
    """Runs as a table.

    Attributes:
        runs: The runs.
        first: Index of the first run of each series, int64, shape ``(n,)``.
        times: Runs in each series, int64, shape ``(n,)``.
        distance: Bytes from each run of a series to the next, uint64, shape ``(n,)``.
        numbers: Number of the kind of each run, from 1, int64, shape ``(len(runs),)``.
        kinds: The kinds, in the order of their numbers.
    """

    runs: MappingRuns
    first: np.ndarray
    times: np.ndarray
    distance: np.ndarray
    numbers: np.ndarray
    kinds: tuple[RunKind, ...]


def tabulate(mmu: Mmu, runs: MappingRuns) -> RunTable:
    """Make a table of runs. Kinds are numbered in the order of their first use."""
    first, times, distance = repeats(runs)
    numbers, places = _number(mmu, runs)
    kinds = tuple(_kind(mmu, runs, place) for place in places.tolist())
    return RunTable(runs, first, times, distance, numbers, kinds)


def _number(mmu: Mmu, runs: MappingRuns) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each run's kind, from 1, and the first run of each kind, both int64."""
    _, code = np.unique(runs.flags, return_inverse=True)  # one number a run: rows take much more memory
    leaf = runs.leaf.view(np.uint8)
    for column, size in ((runs.depth, len(mmu.levels)), (leaf, 256), (runs.path, len(runs.paths))):
        code *= size
        code += column
    _, place, which = np.unique(code, return_index=True, return_inverse=True)
    order = np.argsort(place)
    rank = np.empty(len(place), np.int64)
    rank[order] = np.arange(1, len(place) + 1)
    return rank[which.reshape(-1)], place[order]


def _kind(mmu: Mmu, runs: MappingRuns, place: int) -> RunKind:
    path = runs.paths[int(runs.path[place])]
    return RunKind(
        mmu.levels[int(runs.depth[place])], int(runs.flags[place]), tuple(zip(mmu.levels, path, strict=False))
    )
