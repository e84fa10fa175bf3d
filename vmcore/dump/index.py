"""Where each physical address of a dump is in its file: the runs of memory, looked up one by one or in arrays."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property

import numpy as np

from vmcore.dump.segments import Runs

_CELLS_MOST = 1 << 24  #: entries of the table from address to run; with more, the runs are searched instead


class RunIndex:
    """The runs of memory of one dump, to be looked up.

    Attributes:
        runs: the runs, in address order.
        ends: one past each run, bytes, int64, and 0 at the end for "no run".
        deltas: from a physical address to its file offset, for each run, and 0 at the end.
        odd_seams: a word may lie on both sides of the border between two runs.
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
        """Return the number of the run each address (int64) is in, or -1: none."""
        cells = self.cells
        if cells is not None:
            base, shift, table = cells
            index = (addresses - base >> shift).view(np.uint64)  # below the base: huge
            runs: np.ndarray = table.take(np.minimum(index, np.uint64(len(table) - 1)).view(np.int64))
            return runs
        run = np.searchsorted(self.runs.starts, addresses, "right") - 1
        return np.where(addresses < self.ends[run], run, -1)

    def seams(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Tell which stretches cross from one run to another that follows it in memory at once."""
        at = self._seam_at
        return np.searchsorted(at, starts, "right") < np.searchsorted(at, starts + length, "left")

    @cached_property
    def lists(self) -> tuple[list[int], list[int], list[int]]:
        """Starts, ends and deltas of the runs as plain numbers."""
        return self.runs.starts.tolist(), self.runs.ends.tolist(), self.runs.deltas.tolist()

    def run_of(self, address: int, size: int) -> int | None:
        """Return the number of the run that has ``size`` bytes at an address, or None: no run has all of them."""
        starts, ends, _ = self.lists
        run = bisect_right(starts, address) - 1
        return None if run < 0 or address + size > ends[run] else run
