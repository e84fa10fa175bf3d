"""Find the file offset of physical addresses of a dump, one by one or in arrays."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property

import numpy as np

from vmcore.dump.segments import Runs

#: Most entries of the table from address to run. If it needs more, the runs are searched instead.
_CELLS_MOST = 1 << 24


class RunIndex:
    """An index of the runs of memory of one dump.

    Attributes:
        runs: The runs, in address order.
        ends: One past each run, bytes, int64, and 0 at the end for "no run".
        deltas: File offset minus physical address of each run, bytes, and 0 at the end.
        odd_seams: Whether a word may cross the border between two runs.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.deltas, self.ends = np.append(runs.deltas, 0), np.append(runs.ends, 0)
        #: where one run follows another in memory at once
        self._seam_at: np.ndarray = runs.starts[1:][runs.starts[1:] == runs.ends[:-1]]
        self.odd_seams = bool((self._seam_at & 7).any())

    @cached_property
    def _bounds(self) -> int:
        """All bits that are set in any bound of a run."""
        return int(np.bitwise_or.reduce(self.runs.starts) | np.bitwise_or.reduce(self.runs.ends))

    @cached_property
    def cells(self) -> tuple[int, int, np.ndarray] | None:
        """The run (int32, -1: none) of each cell of memory: (first address, log2 of a cell, runs), else None.

        A cell is as large as the bounds of all runs allow. Runs that begin at odd addresses, or far apart,
        have no such table.
        """
        shift = (self._bounds & -self._bounds).bit_length() - 1
        bounds = np.stack([self.runs.starts, self.runs.ends], axis=1).ravel() >> max(shift, 0)
        if shift < 3 or bounds[-1] - bounds[0] > _CELLS_MOST:
            return None
        runs = np.full(len(bounds) + 1, -1, np.int32)
        runs[1::2] = np.arange(len(bounds) // 2)
        cells = np.repeat(runs, np.diff(bounds, prepend=bounds[0], append=bounds[-1] + 1))
        return int(self.runs.starts[0]), shift, cells

    def runs_at(self, addresses: np.ndarray) -> np.ndarray:
        """Return the number of the run of each address (int64), or -1 if no run has it."""
        cells = self.cells
        if cells is not None:
            base, shift, table = cells
            index = (addresses - base >> shift).view(np.uint64)  # below the base: huge
            runs: np.ndarray = table.take(np.minimum(index, np.uint64(len(table) - 1)).view(np.int64))
            return runs
        run = np.searchsorted(self.runs.starts, addresses, "right") - 1
        return np.where(addresses < self.ends[run], run, -1)

    def seams(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Tell which ranges cross from one run to an adjacent run in memory."""
        at = self._seam_at
        return np.searchsorted(at, starts, "right") < np.searchsorted(at, starts + length, "left")

    @cached_property
    def lists(self) -> tuple[list[int], list[int], list[int]]:
        """Starts, ends and deltas of the runs as plain numbers."""
        return self.runs.starts.tolist(), self.runs.ends.tolist(), self.runs.deltas.tolist()

    def run_of(self, address: int, size: int) -> int | None:
        """Return the number of the run that has all ``size`` bytes at an address, or None if no run does."""
        starts, ends, _ = self.lists
        run = bisect_right(starts, address) - 1
        return None if run < 0 or address + size > ends[run] else run
