"""Read a trace of vmalloc events and check that it is consistent with itself."""

from collections.abc import Iterator
from contextlib import closing
from functools import reduce
from itertools import compress
from operator import or_
from typing import Final, NoReturn

from attrs import frozen

from vmcore.errors import TraceError
from vmcore.texts.lines import Source, read_lines, source_name
from vmcore.texts.tracepoints import ALLOC, FREE, NO_WINDOW, PURGE, Events, TraceText
from vmcore.wording import counted

__all__ = ["ALLOC", "FREE", "NO_WINDOW", "PURGE", "Events", "Trace", "read_trace"]

SMALLEST_PAGE: Final = 1 << 12
LARGEST_PAGE: Final = 1 << 16


@frozen(eq=False)
class Trace:
    """Hold a checked trace.

    Attributes:
        file: Name of the source in messages.
        events: The vmalloc events as columns.
        windows: ``(vstart, vend)`` of every searched window. The first is the widest, which is that of vmalloc.
            The others are module windows. On some architectures vend is the last byte of the window.
        page_size: Bytes of a page of the traced kernel.
        lines: Lines of the text.
        foreign: Number of lines of every other event, by its name.
        unknown_frees: Lines of the frees of addresses without an area.
        lost: Events lost according to the ``CPU:n [LOST m EVENTS]`` lines.
        lost_lines: Those lines; one without a number adds nothing to ``lost``.
        entries: Sums of entries-in-buffer and entries-written of the headers, None without a header.
    """

    file: str
    events: Events
    windows: tuple[tuple[int, int], ...]
    page_size: int
    lines: int
    foreign: dict[str, int]
    unknown_frees: list[int]
    lost: int
    lost_lines: list[int]
    entries: tuple[int, int] | None

    def notes(self) -> list[str]:
        """Describe the losses of the trace and the lines left out of it, one line each."""
        return [f"{self.file}: {note}" for note in (*self._missing(), *self._left_out())]

    def _missing(self) -> Iterator[str]:
        if self.entries is not None:
            kept, written = self.entries
            read = len(self.events) + sum(self.foreign.values())
            if kept != written:
                lost = counted(written - kept, "event was", "events were")
                yield f"{lost} overwritten before the trace was read, of {written:,}"
            if read != kept:
                yield f"{counted(read, 'event')} read, the header counts {kept:,}"
        if self.lost_lines:
            places = counted(len(self.lost_lines), "place")
            yield f"{counted(self.lost, 'event')} lost in {places}, first at line {self.lost_lines[0]}"

    def _left_out(self) -> Iterator[str]:
        if self.unknown_frees:
            frees = counted(len(self.unknown_frees), "free of an unknown address", "frees of unknown addresses")
            yield f"{frees}, first at line {self.unknown_frees[0]}"
        for event, count in sorted(self.foreign.items()):
            yield f"{counted(count, 'line')} of event {event} skipped"


def read_trace(source: Source, name: str | None = None, *, source_page: int | None = None) -> Trace:
    """Read and check a trace of alloc_vmap_area, free_vmap_area_noflush and purge_vmap_area_lazy.

    A free of an address without an area is no error: percpu chunks (pcpu_get_vm_areas) and areas older
    than the trace are freed with an event, but allocated without one. On one CPU, times never run backwards;
    lines of several CPUs may interleave in any way.

    Args:
        source: Path, ``-`` for stdin, or an open binary stream; plain, gzip or xz.
        name: Name of the source in messages; by default its own.
        source_page: Bytes of a page of the traced kernel; by default the largest power of two from 4 KiB
            to 64 KiB that divides the sizes and addresses of all areas.

    Returns:
        The events, and everything that was skipped, counted.

    Raises:
        TraceError: The text is damaged or out of order, holds no allocation, or contradicts itself.
    """
    text = TraceText(source_name(source) if name is None else name)
    with closing(read_lines(source, text.file)) as lines:
        text.read(lines)
    if ALLOC not in text.events.kind:
        raise TraceError(text.file, None, _nothing(text))
    _sort_windows(text)
    page = _source_page(text, source_page)
    _check_allocs(text, page)
    unknown_frees = _match_frees(text)
    return Trace(
        file=text.file,
        events=text.events,
        windows=tuple(text.windows),
        page_size=page,
        lines=text.lines,
        foreign=text.foreign,
        unknown_frees=unknown_frees,
        lost=text.lost,
        lost_lines=text.lost_lines,
        entries=text.entries,
    )


def _nothing(text: TraceText) -> str:
    if not text.lines:
        return "the file is empty, expected a trace"
    events = len(text.events) + sum(text.foreign.values())
    found = f"{counted(events, 'event')} in {counted(text.lines, 'line')}"
    return f"{found}, none of them alloc_vmap_area; enable events/vmalloc before tracing"


def _sort_windows(text: TraceText) -> None:
    widest_first = sorted(text.windows, key=lambda window: window[0] - window[1])
    place = [widest_first.index(window) for window in text.windows] + [NO_WINDOW]
    text.events.window[:] = [place[window] for window in text.events.window]
    text.windows = widest_first


def _source_page(text: TraceText, given: int | None) -> int:
    if given is None:
        events = text.events
        allocated = [size and not failed for size, failed in zip(events.size, events.failed, strict=True)]
        bits = reduce(or_, compress(events.addr, allocated), reduce(or_, events.size))
        return min(max(bits & -bits, SMALLEST_PAGE), LARGEST_PAGE)
    if given & (given - 1) or not SMALLEST_PAGE <= given <= LARGEST_PAGE:
        expected = f"a power of two from {SMALLEST_PAGE} to {LARGEST_PAGE}"
        raise TraceError(text.file, None, f"source page of {given} bytes, expected {expected}")
    return given


def _check_allocs(text: TraceText, page: int) -> None:
    """Check each allocation on its own, against the rules of alloc_vmap_area in the kernel."""
    windows = text.windows
    for line, kind, addr, size, align, window, failed, _ in text.events:
        if kind != ALLOC:
            continue
        vstart, vend = windows[window]
        if (addr | size | align) >> 64:
            _reject(text, line, f"va_start {addr} size={size} align={align}", "numbers of 64 bits")
        if not size or size % page:
            _reject(text, line, f"size={size}", f"a multiple of the page size, {page}")
        if not align or align & (align - 1):
            _reject(text, line, f"align={align}", "a power of two")
        if failed:
            continue
        if addr < vstart or addr + size > vend:
            found = f"an area {addr:#x}-{addr + size:#x}"
            _reject(text, line, found, f"one inside its window {vstart:#x}-{vend:#x}")
        if addr & (align - 1) or addr % page:
            expected = f"a multiple of align={align} and of the page size, {page}"
            _reject(text, line, f"va_start {addr:#x}", expected)


def _reject(text: TraceText, line: int, found: str, expected: str) -> NoReturn:
    advice = "the line was edited, or the source page is not as given"
    raise TraceError(text.file, line, f"alloc_vmap_area: found {found}, expected {expected}; {advice}")


def _match_frees(text: TraceText) -> list[int]:
    """Give every free the size and window of its area. Refuse areas that overlap.

    Every start and end of an area cuts the address space into pieces. One byte per piece tells whether an area
    holds it. The check for an overlap is then a search in bytes, however many areas are live.

    Returns:
        The lines of the frees whose address has no area.
    """
    events = text.events
    ends = {addr + size for addr, size in zip(events.addr, events.size, strict=True) if size}
    piece = {cut: index for index, cut in enumerate(sorted(ends.union(events.addr)))}
    held = bytearray(len(piece))
    live: dict[int, int] = {}
    unknown = []
    for event, (line, kind, addr, size, _, _, failed, _) in enumerate(events):
        if kind == ALLOC and not failed:
            first, last = piece[addr], piece[addr + size]
            if held.find(1, first, last) >= 0:
                raise TraceError(text.file, line, _overlap(text, live, event))
            held[first:last] = b"\1" * (last - first)
            live[addr] = event
        elif kind == FREE:
            owner = live.pop(addr, None)
            if owner is None:
                unknown.append(line)
                continue
            events.size[event] = events.size[owner]
            events.window[event] = events.window[owner]
            first, last = piece[addr], piece[addr + events.size[owner]]
            held[first:last] = bytes(last - first)
    return unknown


def _overlap(text: TraceText, live: dict[int, int], event: int) -> str:
    events = text.events
    start, end = events.addr[event], events.addr[event] + events.size[event]
    held = next(addr for addr, owner in live.items() if addr < end and start < addr + events.size[owner])
    owner = live[held]
    found = f"{start:#x}-{end:#x} over {held:#x}-{held + events.size[owner]:#x} of line {events.line[owner]}"
    return f"alloc_vmap_area: found {found}, expected a free in between; {_cause(text, owner, event)}"


def _cause(text: TraceText, owner: int, event: int) -> str:
    """Say why the free between the allocations ``owner`` and ``event`` may be missing."""
    events = text.events
    allocated, again = events.line[owner], events.line[event]
    if lost := [line for line in text.lost_lines if allocated < line < again]:
        return f"events were lost at line {lost[0]}: trace again with a larger buffer_size_kb"
    for line, kind, addr, size, *_ in reversed(list(events)[:owner]):
        if addr == events.addr[owner] and kind != PURGE:
            if kind == FREE and not size:
                return f"one stands at line {line}, too early: sort the lines by time"
            break
    return "lines are missing or out of order: take the trace again"
