"""Last-level entries of Linux' tables: how their words are made, stored and cleared.

Some machines (ARM) keep two words of each entry: one for Linux, and one for the hardware in the other half of the
table's page. Both are written here.
"""

from __future__ import annotations

import numpy as np

from vmcore.architecture import Architecture
from vmcore.flags import NO_FRAME
from vmcore.paging.linux import TableWalk

#: Pages up to which a loop over words beats arrays: the rows of ``test_vmalloc_and_vfree`` in tests/bench.
FEW = 24


class LastLevelEntries:
    """The words of last-level entries, by their position in the memory's buffer.

    Attributes:
        mirror: how the record derives the words that the hardware reads. None if it reads the entries.
        words: the buffer as last-level words, a memoryview.
        array: the same as an array.
        plain: whether an entry is one word that holds the address at the address's own bits.
        supported: the protection bits that the machine has. Others are cut off.
        hardware_words: words from an entry to the one that the hardware reads. 0 if the hardware reads the entry.
    """

    def __init__(self, arch: Architecture, walk: TableWalk) -> None:
        """Write entries of the tables that ``walk`` walks, in the bits of ``arch``."""
        self._last, self.mirror, self.array = walk.last, arch.hardware.mirror, walk.array
        self.words = walk.memory.words64 if walk.last.size == 8 else walk.memory.words32
        self.supported = arch.supported_pte_mask & (1 << 8 * walk.last.size) - 1
        self.hardware_words = 0
        if self.mirror is not None:
            self.hardware_words = (self.mirror.offset - walk.last.offset) >> walk.last.word_shift
        level = walk.last.level
        self._contiguous = len(level.frame) == 1 and bool(walk.last.in_place)
        self.plain = self._contiguous and self.mirror is None

    def encode(self, frames: np.ndarray, prot: int) -> np.ndarray:
        """Make last-level words (mk_pte) for frames (int64, shape ``(n,)``).

        A contiguous field is filled as C does it, by a shift: bits of a frame that is too large stay in the word.
        """
        d = self._last
        if not self._contiguous:
            addresses = frames.view(np.uint64) << np.uint64(d.shift)
            return d.level.encode_array(addresses, prot & self.supported)
        wide = (frames << d.shift).view(np.uint64)
        wide |= np.uint64(prot)
        if self.supported != (1 << 64) - 1:
            wide &= np.uint64(self.supported)
        return wide if d.size == 8 else wide.astype(np.uint32)

    def fill(self, at: slice, frames: np.ndarray, prot: int) -> None:
        """Store ``encode(frames, prot)`` where entries are plain, without an array in between.

        This copy of `encode` saves one pass: the 262,144-page row of ``test_vmalloc_and_vfree`` in tests/bench
        pays for it.
        """
        words = self.array[at]
        kind = words.dtype.type
        np.left_shift(frames, self._last.shift, out=words, casting="unsafe")
        words |= kind(prot & self.supported)
        if self.supported != (1 << 8 * words.itemsize) - 1:
            words &= kind(self.supported)

    def fill_few(self, at: int, frames: list[int], prot: int) -> bool:
        """Store entries of a few pages where entries are plain, if all of them are none, or store nothing.

        This copy of `encode` works word by word: the 1-page row of ``test_vmalloc_and_vfree`` in tests/bench pays
        for it.

        Args:
            at: position of the first word.
            frames: of consecutive pages.
            prot: protection bits.

        Returns:
            Whether the entries were stored.
        """
        words, none = self.words, self._last.none_mask
        if NO_FRAME in frames:
            return False
        for n in range(at, at + len(frames)):
            if words[n] & none:
                return False
        shift, supported = self._last.shift, self.supported
        for n, frame in enumerate(frames, at):
            words[n] = (frame << shift | prot) & supported
        return True

    def live(self, at: slice) -> np.ndarray:
        """Return the positions (int64) within ``at`` of the entries that are not none."""
        old = self.array[at]
        if not old.any():
            return np.empty(0, np.int64)
        return np.flatnonzero(old & old.dtype.type(self._last.none_mask))

    def store(self, at: slice, entries: np.ndarray | int) -> None:
        """Store last-level words (0 clears), and the words that the hardware reads instead.

        Args:
            at: positions in one table, where the hardware reads other words: those are in the table's page.
            entries: as many words as ``at`` has, or one for all.
        """
        self.array[at] = entries
        if self.mirror is not None:
            hardware = entries if isinstance(entries, int) else self.mirror.encode(entries)
            self.array[at.start + self.hardware_words : at.stop + self.hardware_words] = hardware


def broken_words(walk: TableWalk, ptes: LastLevelEntries) -> str:
    """Name a word that contradicts the one from which it is derived, or return "".

    Derived are the hardware's words of last-level entries, and the repeated words of root entries.
    """
    d, memory = walk.upper[0], walk.memory
    buffer = memory.array64 if d.size == 8 else memory.array32
    at, words = memory.offset(walk.root + d.offset) >> d.word_shift, 1 + len(d.level.repeat)
    entries = buffer[at : at + (d.index_mask + 1) * words].reshape(-1, words)
    for n, more in enumerate(d.level.repeat, 1):
        own = d.table_entries(entries[:, 0])  # the words of large pages are not derived
        wanted = np.where(own, entries[:, 0] + entries.dtype.type(more), entries[:, n])
        wanted[entries[:, 0] == 0] = 0
        if problem := _first_difference(entries[:, n], wanted):
            return f"word {n} of the {d.level.name} entries: {problem}"
    if ptes.mirror is None:
        return ""
    count, away = walk.last.index_mask + 1, ptes.hardware_words
    for table in walk.table_addresses()[walk.levels[-1].name].tolist():
        start = walk.word_index(table, 0)
        linux, hardware = walk.array[start : start + count], walk.array[start + away : start + away + count]
        if problem := _first_difference(hardware, ptes.mirror.encode(linux)):
            return f"hardware half of the table at {table:#x}: {problem}"
    return ""


def _first_difference(found: np.ndarray, wanted: np.ndarray) -> str:
    wrong = found != wanted
    if not wrong.any():
        return ""
    n = int(wrong.argmax())
    return f"entry {n} is {int(found[n]):#x}, expected {int(wanted[n]):#x}"
