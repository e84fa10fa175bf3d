"""The check of cache lines: copies that are read, stored to or written back although newer data is elsewhere.

Lines are judged byte by byte. The bytes last stored are those of memory, except in the lines of which memory is
behind: of these the check keeps the bytes last stored. An access is stale if one of its own bytes differs.
"""

from __future__ import annotations

import numpy as np

from vmcore.architecture import Window
from vmcore.coherence.history import REMEMBERED, Happening, History
from vmcore.coherence.report import LOST_LINE, STALE_LINE, Reason, Reports
from vmcore.cpu.dcache import DataCache
from vmcore.memory.physical import PhysicalMemory

_UNMAP, _MAP = "flush_cache_vunmap", "flush_cache_vmap"


class LineCheck:
    """The check of the data caches of one machine."""

    def __init__(
        self, history: History, reports: Reports, memory: PhysicalMemory, page_shift: int, caches: list[DataCache]
    ) -> None:
        """Begin with the lines that the caches hold now. There is at least one cache."""
        self._history, self._reports, self._memory, self._shift = history, reports, memory, page_shift
        self._caches = caches
        line = caches[0].line
        self._line_shift = line.bit_length() - 1
        self._lines = np.frombuffer(memory.buffer, np.uint8).reshape(-1, line)
        #: of which of memory's lines the bytes last stored are in ``_newest``
        self._behind = np.zeros(len(self._lines), bool)
        self._newest = np.zeros(self._lines.shape, np.uint8)
        #: by CPU: the number of the event that each byte of its cache was copied or stored after
        self._since = {cache.cpu: np.zeros(cache.data.shape, np.int32) for cache in caches}
        #: by physical line
        self._lost: dict[int, Reason] = {}

    def _places(self, physical: np.ndarray) -> np.ndarray:
        """Return the numbers of memory's lines for physical line numbers."""
        return self._memory.places(physical << self._line_shift) >> self._line_shift

    def _last_stored(self, place: np.ndarray) -> np.ndarray:
        """Return the bytes last stored to memory's lines, uint8, shape ``(n, line)``."""
        lines: np.ndarray = self._lines[place]
        behind = self._behind[place]
        if behind.any():
            lines[behind] = self._newest[place[behind]]
        return lines

    def lines_read(
        self,
        cache: DataCache,
        virtual: np.ndarray,
        physical: np.ndarray,
        slots: np.ndarray,
        data: np.ndarray,
        asked: np.ndarray,
    ) -> None:
        """Judge lines that were read: ``data`` was found in ``slots`` (-1: in memory), ``asked`` is returned."""
        place = self._places(physical)
        if slots[0] < 0 and not self._behind[place].any():
            return
        stale = asked & (data != self._last_stored(place))
        for n in np.flatnonzero(stale.any(1)).tolist():
            slot, line = int(slots[n]), int(physical[n])
            if slot < 0:
                self._newer_elsewhere(cache, int(virtual[n]), line, stale[n])
                continue
            other = cache.physical.reshape(-1)[slot] != line
            text = "the cache gives a line of another frame" if other else "the cache gives an old copy"
            self._stale_line(cache, slot, int(virtual[n]), line, stale[n], text)

    def cleared(self, frames: np.ndarray) -> None:
        """Note that the kernel clears frames, in memory and in its own cache lines of them."""
        lines = np.arange(1 << self._shift - self._line_shift)
        place = self._places(frames << self._shift - self._line_shift)[:, None] + lines
        self._behind[place.ravel()] = False

    def lines_fetched(self, cache: DataCache, slots: np.ndarray) -> None:
        """Note that slots were filled from memory."""
        self._since[cache.cpu][slots] = self._history.count

    def lines_stored(
        self, cache: DataCache, physical: np.ndarray, slots: np.ndarray, skip: int, data: np.ndarray
    ) -> None:
        """Judge a store of bytes, from ``skip`` in the first line on, to slots (-1: none), to memory, or both."""
        place, here = self._places(physical), slots >= 0
        some = here | self._behind[place]  # of the others memory has all
        if not some.any():
            return
        newest = self._last_stored(place)
        stored, span = np.zeros(newest.shape, bool), slice(skip, skip + len(data))
        newest.reshape(-1)[span], stored.reshape(-1)[span] = data, True
        if not some.all():
            place, newest = place[some], newest[some]
        self._newest[place], self._behind[place] = newest, (newest != self._lines[place]).any(1)
        if here.all():
            self._stored_in(cache, slots, physical, stored, newest)
        elif here.any():
            self._stored_in(cache, slots[here], physical[here], stored[here], newest[here[some]])

    def _stored_in(
        self, cache: DataCache, slots: np.ndarray, physical: np.ndarray, stored: np.ndarray, newest: np.ndarray
    ) -> None:
        """Judge slots that were stored to: their other bytes should be the last stored, too."""
        since = self._since[cache.cpu]
        times = since[slots]
        times[stored] = self._history.count
        since[slots] = times
        old = cache.data[slots] != newest
        for n in np.flatnonzero(old.any(1)).tolist():
            slot, line = int(slots[n]), int(physical[n])
            virtual = int(cache.virtual.reshape(-1)[slot])
            why = self._stale_line(cache, slot, virtual, line, old[n], "an old copy is stored to")
            if why is not None and cache.physical.reshape(-1)[slot] != line:
                self._lost[line] = why  # the line of another frame has them, and does not bring them here

    def lines_written_back(self, cache: DataCache, slots: np.ndarray, physical: np.ndarray) -> None:
        """Judge dirty slots that are about to be written to physical lines in turn, or to none (-1)."""
        own, going, kept = cache.physical.reshape(-1)[slots], cache.data[slots], physical >= 0
        lost = np.zeros(going.shape, bool)
        away = physical != own
        if away.any():
            place = self._places(own[away])
            newest = self._last_stored(place)
            lost[away] = (going[away] == newest) & (self._lines[place] != newest)
        place = self._places(physical[kept])
        newest, before, after = self._last_stored(place), self._lines[place], going[kept]
        order = np.argsort(place, kind="stable")
        again = np.flatnonzero(np.diff(place[order]) == 0)
        before[order[again + 1]] = after[order[again]]  # of two that go to one line the second meets the first
        wrong = after != newest
        lost[kept] |= wrong & (before == newest)
        self._newest[place], self._behind[place] = newest, wrong.any(1)
        for n in np.flatnonzero(lost.any(1)).tolist():
            virtual, at = int(cache.virtual.reshape(-1)[slots[n]]), int(own[n]) << self._line_shift
            if not away[n]:
                text = f"an old copy overwrites newer data at {at:#x}"
            elif physical[n] < 0:
                text = f"a dirty line of {at:#x} is written back, and nothing is mapped there any more"
            else:
                text = f"a dirty line of {at:#x} is written back to {int(physical[n]) << self._line_shift:#x}"
            why = self._stale_line(cache, int(slots[n]), virtual, int(own[n]), lost[n], text, LOST_LINE)
            if why is not None:
                self._lost[int(own[n])] = self._lost[int(physical[n])] = why

    def _newer_elsewhere(self, cache: DataCache, virtual: int, physical: int, stale: np.ndarray) -> None:
        """Report old bytes of a line in memory, blaming the cache that has the new ones or had them."""
        address = virtual << self._line_shift
        text = f"memory gives an old copy at {address:#x}"
        newer = self._holder(physical, stale)
        if newer is None:
            self._orphan(STALE_LINE, cache, address, physical, text, "the new one is lost")
            return
        holder, slot, held = newer
        at = int(holder.virtual.reshape(-1)[slot])
        text += f", the new one is dirty in the cache of cpu {holder.cpu} at {at << self._line_shift:#x}"
        self._stale_line(holder, slot, at, physical, held, text, at=virtual)

    def _holder(self, physical: int, stale: np.ndarray) -> tuple[DataCache, int, np.ndarray] | None:
        """Return the cache and the slot that have bytes last stored to a line, and which of ``stale`` they are."""
        newest = self._last_stored(self._places(np.array([physical])))[0]
        for cache in self._caches:
            mine = (cache.physical == physical) & (cache.keys >= 0) & cache.dirty
            for slot in np.flatnonzero(mine).tolist():
                held = stale & (cache.data[slot] == newest)
                if held.any():
                    return cache, slot, held
        return None

    def _stale_line(
        self,
        cache: DataCache,
        slot: int,
        virtual: int,
        physical: int,
        stale: np.ndarray,
        text: str,
        kind: str = STALE_LINE,
        at: int | None = None,
    ) -> Reason | None:
        """Report bytes (``stale``, bool) of a copy in a slot, by the events since they were copied.

        ``at`` is the virtual line that was read, if it is another one. Return the missing flush, or None.
        """
        address = (virtual if at is None else at) << self._line_shift
        event, missing, since = self._cause(cache, slot, virtual, physical, stale)
        if event is None and (newer := self._holder(physical, stale)) is not None and newer[:2] != (cache, slot):
            cache, slot, held = newer  # the copy was old when it was made: ask when the new one should have gone
            virtual = int(cache.virtual.reshape(-1)[slot])
            event, missing, since = self._cause(cache, slot, virtual, physical, held)
        if event is None:
            self._orphan(
                kind, cache, address, physical, text, "two mappings are used at once, and no flush is between"
            )
            return None
        window = Window(event.start, event.end)
        text, reached = self._why(text, missing, window.start, since, cache.cpu)
        self._reports.add(kind, cache.cpu, address, window, missing, text, reached)
        return missing, window, reached

    def _orphan(self, kind: str, cache: DataCache, address: int, physical: int, text: str, why: str) -> None:
        """Report a copy that no flush should have removed. Perhaps the new one was lost before."""
        missing, window, reached = "", Window(address, address + cache.line), None
        if self._behind[self._places(np.array([physical]))[0]]:
            missing, window, reached = self._lost.get(physical, (missing, window, reached))
        if missing:
            why = f"the new one was lost before, for want of {missing}"
            if reached is not None:
                why += f", which ran on cpu {reached} and reached that CPU only"
        elif self._history.forgets:
            why = f"no flush for it is among the last {REMEMBERED:,} happenings, and what was before is forgotten"
        self._reports.add(kind, cache.cpu, address, window, missing, f"{text}; {why}", reached)

    def _cause(
        self, cache: DataCache, slot: int, virtual: int, physical: int, stale: np.ndarray
    ) -> tuple[Happening | None, str, int]:
        """Return the event that should have removed bytes of a copy, its flush, and the event before the copy."""
        since, address = int(self._since[cache.cpu][slot][stale].min()), virtual << self._line_shift
        event = self._history.last("cleared", address, since)
        if event is not None:
            return event, _UNMAP, since
        return self._history.last_mapped(physical << self._line_shift >> self._shift, address, since), _MAP, since

    def _why(self, text: str, missing: str, address: int, since: int, cpu: int) -> tuple[str, int | None]:
        """Add to a text that the flush was not called, did nothing, or reached another CPU only."""
        flush = self._history.last(missing, address, since)
        if flush is None:
            return f"{text}; {missing} was not called since", None
        if flush.acted and flush.cpu != cpu:
            return (
                f"{text}; {missing} ran on cpu {flush.cpu} and reached that CPU only: kernels of this era do not "
                f"flush the caches of others"
            ), flush.cpu
        return f"{text}; {missing} on cpu {flush.cpu}: {flush.did}", None
