"""Check the areas of ``/proc/vmallocinfo`` against the page tables: their pages, guard pages and addresses.

Each irregularity is a `Finding`, with a reason where the kernel intends it (`vmcore.dump.audit.rules`). Areas and
mappings are intervals, so that no page is counted on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vmcore.dump.audit.result import Audit, DumpAudit, Finding
from vmcore.dump.audit.rules import GUARD, NONE, SOME, excuse
from vmcore.dump.audit.windows import AuditWindow, find_windows, grow
from vmcore.dump.rooted import RootedDump
from vmcore.errors import ArgumentError
from vmcore.paging.mappings import LIMIT, Mappings, find_mappings
from vmcore.paging.mmu import Mmu
from vmcore.texts.vmallocinfo import VmallocinfoEntry
from vmcore.units import format_size
from vmcore.wording import counted


def audit(
    mmu: Mmu,
    entries: Sequence[VmallocinfoEntry],
    *,
    bounds: tuple[int, int] | None = None,
    vmalloc: tuple[int | None, int | None] = (None, None),
    limit: int = LIMIT,
) -> Audit:
    """Check areas against page tables.

    Args:
        mmu: The page tables.
        entries: The areas, in any order.
        bounds: Where to look for mappings without an area: first address and end; None: see `find_windows`.
        vmalloc: VMALLOC_START and VMALLOC_END, each None where it is not known; not used with ``bounds``.
        limit: Mappings to look at, at most.

    Raises:
        ArgumentError: An area cannot be of such a machine.
    """
    areas = sorted(entries, key=lambda entry: (entry.start, entry.end))
    for entry in areas:
        _check_entry(mmu, entry)
    windows = find_windows(areas, mmu.word_mask, bounds, vmalloc)
    if bounds is None:
        windows = grow(mmu, areas, windows)
    mapped = _Mapped(mmu, [*((e.start, e.end - 1) for e in areas), *(w[:2] for w in windows)], limit)
    findings = [*_areas(mmu, areas, mapped), *_overlaps(areas), *_strays(mmu, areas, windows, mapped)]
    findings.sort(key=lambda finding: (finding.start, finding.last))
    return Audit(len(areas), windows, tuple(findings), mapped.partial)


def audit_dump(
    source: RootedDump, entries: Sequence[VmallocinfoEntry], *, bounds: tuple[int, int] | None = None
) -> DumpAudit:
    """Check areas against the page tables in a dump.

    Args:
        source: The dump and its root; its VMCOREINFO gives VMALLOC_START and VMALLOC_END.
        entries: The areas, in any order.
        bounds: As for `audit`.

    Raises:
        ArgumentError: An area cannot be of such a machine.
    """
    info = source.info
    known = (None, None) if info is None else (info.number("VMALLOC_START"), info.number("VMALLOC_END"))
    return DumpAudit(source, audit(source.mmu, entries, bounds=bounds, vmalloc=known))


def _check_entry(mmu: Mmu, entry: VmallocinfoEntry) -> None:
    page = 1 << mmu.page_shift
    if entry.start % page or entry.size % page or entry.end - 1 > mmu.word_mask:
        raise ArgumentError(
            f"vmallocinfo: found the area {entry.start:#x}-{entry.end:#x}, expected multiples of {page:#x} up to "
            f"{mmu.word_mask + 1:#x}; is it of the machine that was dumped?"
        )


# ---- the mappings


class _Mapped:
    """The mappings in some stretches of the address space, as intervals."""

    def __init__(self, mmu: Mmu, stretches: list[tuple[int, int]], limit: int) -> None:
        found = list(_find(mmu, stretches, limit))
        self.virtual = np.concatenate([np.empty(0, np.uint64), *(f.virtual for f in found)])
        self.physical = np.concatenate([np.empty(0, np.int64), *(f.physical for f in found)])
        shift = np.concatenate([np.empty(0, np.uint8), *(f.shift for f in found)])
        self.size = np.uint64(1) << shift.astype(np.uint64)
        self.last = self.virtual + (self.size - np.uint64(1))
        self._below = np.concatenate([np.zeros(1, np.uint64), np.cumsum(self.size, dtype=np.uint64)])
        missing = [f.missing for f in found]
        self._missing = (
            np.concatenate([np.empty(0, np.int64), *(m.physical for m in missing)]),
            np.concatenate([np.empty(0, np.uint64), *(m.start for m in missing)]),
            np.concatenate([np.empty(0, np.uint64), *(m.last for m in missing)]),
        )
        self.stopped = next((f.stopped for f in found if f.stopped is not None), None)
        self.partial = tuple(dict.fromkeys(why for f in found for why in f.partial))

    def bytes_in(self, start: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return how many bytes of each stretch (both uint64, shape ``(n,)``) are mapped, int64."""
        past = self._before(last) + self._reach(last)
        counted: np.ndarray = (past - self._before(start)).astype(np.int64)
        return counted

    def _before(self, address: np.ndarray) -> np.ndarray:
        """Return the mapped bytes below each address."""
        n = np.searchsorted(self.virtual, address)
        over = np.zeros(len(address), np.uint64)
        some = n > 0
        last = self.last[n[some] - 1]
        here = address[some]
        over[some] = np.where(last >= here, last - here + np.uint64(1), np.uint64(0))
        return self._below[n] - over

    def _reach(self, address: np.ndarray) -> np.ndarray:
        """Return 1 where the byte at an address is mapped, else 0."""
        n = np.searchsorted(self.virtual, address, "right")
        inside = np.zeros(len(address), bool)
        some = n > 0
        inside[some] = self.last[n[some] - 1] >= address[some]
        return inside.astype(np.uint64)

    def first_in(self, start: int) -> int:
        """Return the first mapped address from ``start`` up."""
        n = int(np.searchsorted(self.last, np.uint64(start)))
        return max(start, int(self.virtual[n]))

    def elsewhere(self, start: int, last: int, physical: int) -> tuple[int, int, int] | None:
        """Return the first mapping in a stretch that does not lead to ``physical`` and on, and how many do not."""
        first = np.searchsorted(self.last, np.uint64(start))
        past = np.searchsorted(self.virtual, np.uint64(last), "right")
        virtual, found = self.virtual[first:past], self.physical[first:past]
        wrong = np.flatnonzero(found - physical != (virtual - np.uint64(start)).view(np.int64))
        return (int(virtual[wrong[0]]), int(found[wrong[0]]), len(wrong)) if len(wrong) else None

    def unknown(self, start: int, last: int) -> str | None:
        """Return why a stretch cannot be checked, or None if it can."""
        if self.stopped is not None and last >= self.stopped:
            return f"not looked at: the limit was reached at {self.stopped:#x}"
        at, low, high = self._missing
        lost = at[(low <= np.uint64(last)) & (high >= np.uint64(start))]
        return f"its page table at {int(lost[0]):#x} is not in the dump" if len(lost) else None


def _find(mmu: Mmu, stretches: list[tuple[int, int]], limit: int) -> Iterator[Mappings]:
    """Find the mappings of each stretch once, in address order, until the limit is reached."""
    joined: list[list[int]] = []
    for start, last in sorted(stretches):
        if joined and start <= joined[-1][1] + 1:
            joined[-1][1] = max(joined[-1][1], last)
        else:
            joined.append([start, last])
    for start, last in joined:
        found = find_mappings(mmu, start, last + 1, limit)
        yield found
        limit -= len(found)
        if found.stopped is not None:
            return


# ---- findings


def _areas(mmu: Mmu, areas: Sequence[VmallocinfoEntry], mapped: _Mapped) -> Iterator[Finding]:
    """Yield the irregularities of each area."""
    page = 1 << mmu.page_shift
    start = np.array([entry.start for entry in areas], np.uint64)
    last = np.array([entry.end - 1 for entry in areas], np.uint64)
    guard = last - np.uint64(page - 1)
    in_guard, in_all = mapped.bytes_in(guard, last), mapped.bytes_in(start, last)
    for entry, guarded, total in zip(areas, (in_guard // page).tolist(), (in_all // page).tolist(), strict=True):
        unknown = mapped.unknown(entry.start, entry.end - 1)
        if unknown is not None:
            yield Finding(entry.start, entry.end - 1, entry, "not in the dump", unknown)
            continue
        yield from _pages(entry, page, total, guarded)
        yield from _physical(entry, page, mapped)


def _pages(entry: VmallocinfoEntry, page: int, total: int, guarded: int) -> Iterator[Finding]:
    """Yield the irregularities in the pages of an area.

    Args:
        entry: The area.
        page: Bytes of a page.
        total: Pages mapped.
        guarded: 1 if the last page is mapped, else 0.
    """
    room = entry.size // page - 1
    data = total - guarded
    freed = "unpurged vm_area" in entry.kinds
    if data < room or guarded or freed:
        state = {NONE} if not total else {SOME} if data < room or freed else set()
        found = frozenset(state | ({GUARD} if guarded else set()))
        text = "no page mapped" if not data else f"{data:,} of {counted(room, 'page')} mapped"
        if guarded:
            text += ", and the last one, where the guard page should be"
        full = guarded and data == room and entry.pages == room + 1
        why = "it owns as many pages as it is long: an area without a guard page" if full else excuse(entry, found)
        problem = "guard" if data == room and guarded else "pages"
        yield Finding(entry.start, entry.end - 1, entry, problem, text, why)
    if entry.pages and entry.pages != room and not (guarded and entry.pages == room + 1):
        text = f"it owns {counted(entry.pages, 'page')}, and has room for {room:,} and a guard page"
        yield Finding(entry.start, entry.end - 1, entry, "count", text)


def _physical(entry: VmallocinfoEntry, page: int, mapped: _Mapped) -> Iterator[Finding]:
    """Yield an area that is not mapped to the physical address that it names."""
    if entry.phys is None or entry.size == page:
        return
    if entry.phys >> 62:
        text = f"phys={entry.phys:#x}, expected a physical address"
        yield Finding(entry.start, entry.end - 1, entry, "physical", text)
        return
    wrong = mapped.elsewhere(entry.start, entry.end - 1 - page, entry.phys & -page)
    if wrong is not None:
        at, physical, count = wrong
        text = f"{at:#x} maps {physical:#x}, expected {(entry.phys & -page) + at - entry.start:#x}"
        more = counted(count - 1, "more mapping is", "more mappings are")
        text += f"; {more} wrong" if count > 1 else ""
        yield Finding(entry.start, entry.end - 1, entry, "physical", text)


def _overlaps(areas: Sequence[VmallocinfoEntry]) -> Iterator[Finding]:
    """Yield areas, in order of address, that begin before another ends."""
    reach: VmallocinfoEntry | None = None
    for entry in areas:
        if reach is not None and entry.start < reach.end:
            text = f"overlaps the area {reach.start:#x}-{reach.end:#x} of {reach.caller or 'no caller'}"
            yield Finding(entry.start, min(entry.end, reach.end) - 1, entry, "overlap", text)
        if reach is None or entry.end > reach.end:
            reach = entry


def _strays(
    mmu: Mmu, areas: Sequence[VmallocinfoEntry], windows: Sequence[AuditWindow], mapped: _Mapped
) -> Iterator[Finding]:
    """Yield holes between areas in which something is mapped."""
    holes = list(_holes(areas, windows))
    start, last = (np.array([hole[n] for hole in holes], np.uint64) for n in (0, 1))
    for (low, high), count in zip(holes, mapped.bytes_in(start, last).tolist(), strict=True):
        if count:
            first = mapped.first_in(low)
            text = f"{format_size(count)} mapped that no area owns, the first at {first:#x}"
            yield Finding(first, high, None, "stray", text)


def _holes(areas: Sequence[VmallocinfoEntry], windows: Sequence[AuditWindow]) -> Iterator[tuple[int, int]]:
    """Yield the first and last address of each hole between areas, which are in order, in a window."""
    for window in windows:
        at = window.start
        for entry in areas:
            if entry.end <= at or entry.start > window.last:
                continue
            if entry.start > at:
                yield at, entry.start - 1
            at = entry.end
        if at <= window.last:
            yield at, window.last
