"""The history of a machine's mappings and flushes, which explains a stale copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from attrs import frozen

from vmcore.architecture import Window

REMEMBERED = 1 << 16  #: events that `History` keeps; a report says if earlier ones are forgotten
_SHOWN = 8  # events in a report


@frozen
class Happening:
    """An event of a range of addresses, or of frames.

    Attributes:
        number: 1, 2, 3 and so on.
        kind: "mapped", "cleared", or a flush symbol.
        start: virtual, bytes.
        end: one past the last byte.
        cpu: the CPU that ran the flush.
        frames: the frames that were mapped, int64, or None.
        did: the actions of the flush, in words.
        acted: the flush took an action.
    """

    number: int
    kind: str
    start: int
    end: int
    cpu: int = 0
    frames: np.ndarray | None = None
    did: str = ""
    acted: bool = False

    def __str__(self) -> str:
        where = f"{self.start:#x}..{self.end:#x}"
        if self.did:
            return f"  {self.kind} on cpu {self.cpu}, {where}: {self.did}"
        return f"  {self.kind} {where}"


class History:
    """The last `REMEMBERED` events.

    Attributes:
        count: number of all events, which is also the number of the last.
    """

    def __init__(self, page_shift: int) -> None:
        self.count, self._shift = 0, page_shift
        self._log: deque[Happening] = deque(maxlen=REMEMBERED)

    @property
    def forgets(self) -> bool:
        """Whether earlier events are forgotten."""
        return self.count > REMEMBERED

    def note(self, kind: str, start: int, end: int, frames: np.ndarray | None = None) -> None:
        """Remember that a range was mapped or cleared."""
        self.count += 1
        self._log.append(Happening(self.count, kind, start, end, frames=frames))

    def note_flush(self, symbol: str, start: int, end: int, cpu: int, did: str, acted: bool) -> None:
        """Remember a call of a flush symbol."""
        self.count += 1
        self._log.append(Happening(self.count, symbol, start, end, cpu, None, did, acted))

    def last(self, kind: str, address: int, since: int) -> Happening | None:
        """Return the last event of a kind that covers an address, after the one with number ``since``."""
        for event in reversed(self._log):
            if event.number <= since:
                return None
            if event.kind == kind and event.start <= address < event.end:
                return event
        return None

    def last_mapped(self, frame: int, address: int, since: int) -> Happening | None:
        """Return the last mapping of a frame to another page than that of an address, after number ``since``."""
        page = address >> self._shift
        for event in reversed(self._log):
            if event.number <= since:
                return None
            if event.kind != "mapped" or event.frames is None:
                continue
            at = np.flatnonzero(event.frames == frame)
            if len(at) and (event.start >> self._shift) + int(at[0]) != page:
                return event
        return None

    def of(self, window: Window) -> tuple[str, ...]:
        """Return the last events that touch a range, a line each, oldest first."""
        touching: Iterable[Happening] = (
            event for event in reversed(self._log) if event.start < window.end and window.start < event.end
        )
        shown = [str(event) for event, _ in zip(touching, range(_SHOWN), strict=False)]
        return tuple(reversed(shown))
