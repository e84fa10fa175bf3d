"""Reports of incoherence, and the list of them without repetitions."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, TypeAlias

from attrs import asdict, frozen

from vmcore.architecture import Window
from vmcore.coherence.history import History

STALE_TRANSLATION: Final = "stale translation"
FRAME_IN_USE: Final = "frame in use"
STALE_LINE: Final = "stale line"
LOST_LINE: Final = "lost line"
UNREPAIRED_FAULT: Final = "unrepaired fault"

#: Why a line was lost: the flush that would have saved it, its range, and the only CPU that it reached.
Reason: TypeAlias = tuple[str, Window, int | None]


@frozen
class Report:
    """One incoherence.

    Attributes:
        kind: one of this module's constants.
        cpu: number of the CPU that holds the stale copy, or faulted.
        address: virtual address of the access, or of the copy, bytes.
        start: of the range that should have been flushed or synced, bytes.
        end: one past it.
        missing: the symbol; "" if no kernel of the era would have called one.
        text: the finding, in words.
        history: the events of the page, oldest first.
        reached: the only CPU that the flush reached. None if it did not run, or did nothing.
    """

    kind: str
    cpu: int
    address: int
    start: int
    end: int
    missing: str
    text: str
    history: tuple[str, ...]
    reached: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as numbers, strings and a list, addresses in hex."""
        return asdict(self) | {name: hex(getattr(self, name)) for name in ("address", "start", "end")}

    def __str__(self) -> str:
        return "\n".join([f"{self.kind}, cpu {self.cpu}, {self.address:#x}: {self.text}", *self.history])


class Reports:
    """The reports of one checker, each incoherence once.

    Attributes:
        reports: oldest first.
        found: by kind, how often it was found, repetitions included.
    """

    def __init__(self, history: History, page_shift: int) -> None:
        self._history, self._shift = history, page_shift
        self.reports: list[Report] = []
        self.found: Counter[str] = Counter()
        self._seen: set[tuple[str, int, int, str]] = set()

    def repeats(self, kind: str, cpu: int, address: int, missing: str) -> bool:
        """Count a finding that is reported already. False means that it is a new one."""
        seen = (kind, cpu, address >> self._shift, missing) in self._seen
        self.found[kind] += seen
        return seen

    def add(
        self,
        kind: str,
        cpu: int,
        address: int,
        window: Window,
        missing: str,
        text: str,
        reached: int | None = None,
    ) -> None:
        """Report a finding, or count it if it is reported already. The arguments are the fields of `Report`."""
        if self.repeats(kind, cpu, address, missing):
            return
        self.found[kind] += 1
        self._seen.add((kind, cpu, address >> self._shift, missing))
        history = self._history.of(window)
        self.reports.append(Report(kind, cpu, address, window.start, window.end, missing, text, history, reached))
