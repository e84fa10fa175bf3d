"""Parse the text of the kernel's vmalloc tracepoints into columns.

The events are those of include/trace/events/vmalloc.h (Linux 6.2 and later), in the layouts of
``/sys/kernel/tracing/trace``, of ``trace_pipe`` and of ``trace-cmd report``.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import define, field, frozen

from vmcore.errors import TraceError
from vmcore.wording import counted

ALLOC: Final = 0  #: ``alloc_vmap_area``
FREE: Final = 1  #: ``free_vmap_area_noflush``
PURGE: Final = 2  #: ``purge_vmap_area_lazy``
NO_WINDOW: Final = -1  #: window of a purge and of a free whose address is unknown
NO_CPU: Final = -1  #: CPU of an event in a layout without them

DECIMAL: Final = rb"[0-9]{1,20}"
HEX: Final = rb"0x[0-9a-f]{1,16}"
FLAG: Final = rb"[01]"
MEANING: Final = {
    DECIMAL: "a decimal number",
    HEX: "a hexadecimal number with 0x",
    FLAG: "0 or 1",
    b"": "the fields",
}

#: The fields of each event, label and pattern, in the order of its TP_printk.
FIELDS: Final = {
    b"alloc_vmap_area": (
        (b"va_start: ", DECIMAL),
        (b"size=", DECIMAL),
        (b"align=", DECIMAL),
        (b"vstart=", HEX),
        (b"vend=", HEX),
        (b"failed=", FLAG),
    ),
    b"free_vmap_area_noflush": ((b"va_start=", HEX), (b"nr_lazy=", DECIMAL), (b"nr_lazy_max=", DECIMAL)),
    b"purge_vmap_area_lazy": ((b"start=", HEX), (b"end=", HEX), (b"num_purged=", DECIMAL)),
}

# "[CPU]", or in the latency layout the CPU with its flags behind it.
_CPU: Final = rb"(?:(?:[^\[:]*\[(?=[0-9]{3,6}\])| *(?=[0-9]{1,6}[.A-Zbdn][.A-Za-z]))([0-9]+))?"
# "TASK-PID [CPU] FLAGS TIME: ": every layout has the pid and the time. The group is atomic, so that text which
# another event prints, for example a marker, is never taken for an event. The time must begin at its first digit,
# because a search from each digit of a long number would be quadratic.
_TIME: Final = rb"(?<![0-9])([0-9]{1,20}(?:\.[0-9]{1,20})?)(?:us[\t -~])?: +"
_PREFIX: Final = rb"(?>[\t -~]{0,64}?-([0-9]{1,20}) " + _CPU + rb"[\t -~]*?" + _TIME + rb")"
_END: Final = rb"[ \t\r]*\n?\Z"


def _body(event: bytes) -> bytes:
    return event + b": +" + b" +".join(label + b"(" + pattern + b")" for label, pattern in FIELDS[event])


_BODIES: Final = b"(?:" + b"|".join(map(_body, FIELDS)) + b")"
_EVENT: Final = re.compile(_PREFIX + _BODIES + _END)
_HEADER: Final = re.compile(_PREFIX + rb"(<[^>]*>|\S*)(.*)", re.DOTALL)
_SWALLOWED: Final = re.compile(rb"[0-9](?:us[\t -~])?: +" + _BODIES)
_COUNTED: Final = b"# entries-in-buffer/entries-written:"
_ENTRIES: Final = re.compile(_COUNTED + rb" ([0-9]{1,20})/([0-9]{1,20})(?![0-9])")
_LOST: Final = re.compile(rb"CPU:[0-9]+ \[(?:LOST )?(?:([0-9]{1,20}) )?EVENTS(?: DROPPED)?\]" + _END)
_LONG_MOST: Final = (1 << 64) - 1  # both are printed from an unsigned long (kernel/trace/trace.c)
# Lines that may stand between events: an empty line, trace-cmd's preamble, a frame of a stack trace.
_ASIDE: Final = re.compile(rb"(?:cpus=[0-9]+|version = .*|CPU [0-9]+ is empty|\s*=> .*)?" + _END)

_ASIDE_MOST: Final = 1 << 18  # lines that are no events, whatever the number of events
_FRAMES_MOST: Final = 128  # such lines for each event: kernels print stack traces of fewer frames

_TORN: Final = "the line is torn or was edited: take the trace again, or delete the line if it may be missed"
_CUT: Final = "take the trace again, or remove the header's line if lines were left out on purpose"
_UNORDERED: Final = "lines are out of order: take the trace again"
_A_LINE: Final = "expected 'TASK-PID [CPU] FLAGS TIME: EVENT: ...'"


@frozen(eq=False)
class Events:
    """Hold events as columns: equally long lists, in the order of the text.

    Attributes:
        line: 1-based line in the decompressed text.
        kind: ALLOC, FREE or PURGE.
        addr: First address of the area; of a purge, start of the purged range.
        size: Bytes with the guard page; of a free, those of the area it ends, 0 if no area holds the
            address; 0 for a purge.
        align: Requested alignment in bytes; 0 for a free and a purge.
        window: Index into the trace's windows, that of the area for a free; else NO_WINDOW.
        failed: 1 for an allocation that the traced kernel refused, else 0.
        num_purged: Areas given back by a purge, else 0.
        cpu: CPU it happened on, NO_CPU where the text has none. Iteration does not give it.
        task: PID of the task. Iteration does not give it.
    """

    line: list[int] = field(factory=list)
    kind: list[int] = field(factory=list)
    addr: list[int] = field(factory=list)
    size: list[int] = field(factory=list)
    align: list[int] = field(factory=list)
    window: list[int] = field(factory=list)
    failed: list[int] = field(factory=list)
    num_purged: list[int] = field(factory=list)
    cpu: list[int] = field(factory=list)
    task: list[int] = field(factory=list)

    def __len__(self) -> int:
        return len(self.line)

    def __iter__(self) -> Iterator[tuple[int, int, int, int, int, int, int, int]]:
        return zip(
            self.line,
            self.kind,
            self.addr,
            self.size,
            self.align,
            self.window,
            self.failed,
            self.num_purged,
            strict=True,
        )


class _Numbers(dict[bytes, int]):
    """Convert decimal texts. Each distinct text is converted once, because sizes and alignments repeat."""

    def __missing__(self, text: bytes) -> int:
        self[text] = number = int(text)
        return number


class _Windows(dict[tuple[bytes, bytes], int]):
    """Number the windows in order of appearance."""

    def __missing__(self, texts: tuple[bytes, bytes]) -> int:
        self[texts] = number = len(self)
        return number


@define
class TraceText:
    """Collect all events of a trace line by line, without checking them.

    Attributes:
        file: Name of the source in errors.
        events: The vmalloc events. All frees have size 0 and window NO_WINDOW.
        windows: ``(vstart, vend)`` in order of appearance.
        lines: Lines read.
        foreign: Number of lines of every other event, by its name.
        lost: Events lost according to the ``CPU:n [LOST m EVENTS]`` lines.
        lost_lines: Those lines; one without a number adds nothing to ``lost``.
        entries: Sums of entries-in-buffer and entries-written of the headers, None without a header.
    """

    file: str
    events: Events = field(factory=Events)
    windows: list[tuple[int, int]] = field(factory=list)
    lines: int = 0
    foreign: dict[str, int] = field(factory=dict)
    lost: int = 0
    lost_lines: list[int] = field(factory=list)
    entries: tuple[int, int] | None = None
    _aside: int = 0

    def read(self, lines: Iterable[bytes]) -> None:
        """Read all lines.

        Args:
            lines: Lines with their newlines.

        Raises:
            TraceError: A line is torn, out of order or no line of a trace, or lines are missing at the end.
        """
        match_event = _EVENT.match
        events, numbers, windows = self.events, _Numbers(), _Windows()
        add_line, add_kind, add_addr = events.line.append, events.kind.append, events.addr.append
        add_size, add_align, add_window = events.size.append, events.align.append, events.window.append
        add_failed, add_num_purged, add_cpu = events.failed.append, events.num_purged.append, events.cpu.append
        add_task = events.task.append
        newest: dict[bytes, tuple[float, bytes, int]] = {}  # of each CPU: its time, also as text, and line
        number, line = 0, b"\n"
        for number, line in enumerate(lines, 1):
            match = match_event(line)
            if match is None and not line.isascii():
                match = match_event(self._ascii(number, line))
            if match is None:
                self._read_other(number, line)
                continue
            add_line(number)
            add_task(numbers[match[1]])
            if cpu := match[2]:
                stamp = float(match[3])
                if cpu in newest and stamp < newest[cpu][0]:
                    raise self._backwards(number, match, *newest[cpu][1:])
                newest[cpu] = stamp, match[3], number
            add_cpu(numbers[cpu] if cpu else NO_CPU)
            if match.lastindex == 9:
                va_start, size, align, vstart, vend, failed = match.group(4, 5, 6, 7, 8, 9)
                add_kind(ALLOC)
                add_addr(int(va_start))
                add_size(numbers[size])
                add_align(numbers[align])
                add_window(windows[vstart, vend])
                add_failed(numbers[failed])
                add_num_purged(0)
                continue
            freed, start, num_purged = match.group(10, 13, 15)
            add_kind(FREE if freed else PURGE)
            add_addr(int(freed or start, 16))
            add_size(0)
            add_align(0)
            add_window(NO_WINDOW)
            add_failed(0)
            add_num_purged(numbers[num_purged] if num_purged else 0)
        self.lines = number
        self.windows = [(int(vstart, 16), int(vend, 16)) for vstart, vend in windows]
        self._check_end(line)

    def _check_end(self, line: bytes) -> None:
        # An allocation ends in one digit; the last number of a free and of a purge may have lost digits.
        whole = line.endswith(b"\n") or self.events.line[-1:] != [self.lines]
        if not whole and (kind := self.events.kind[-1]) != ALLOC:
            event = "free_vmap_area_noflush" if kind == FREE else "purge_vmap_area_lazy"
            found = f"{line.split()[-1].decode()} without a newline"
            raise self._error(self.lines, f"{event}: found {found}, expected one; {_TORN}")
        read = len(self.events) + sum(self.foreign.values())
        if self.entries is not None and read < self.entries[0]:
            found = f"the text ends after {counted(read, 'event')}, its header counts {self.entries[0]:,}"
            raise self._error(self.lines, f"{found}; {_CUT}")

    def _error(self, number: int, problem: str) -> TraceError:
        return TraceError(self.file, number, problem)

    def _backwards(self, number: int, match: re.Match[bytes], before: bytes, line: int) -> TraceError:
        cpu, time = int(match[2]), match[3].decode()
        found = f"found time {time} on CPU {cpu} after {before.decode()} of line {line}"
        return self._error(number, f"{found}, expected no earlier time; {_UNORDERED}")

    def _read_other(self, number: int, line: bytes) -> None:
        text = self._ascii(number, line)
        if text.startswith(b"#"):
            self._read_comment(number, text)
            self._count_aside(number)
        elif (lost := _LOST.match(text)) and int(lost[1] or 0) <= _LONG_MOST:
            self.lost += int(lost[1] or 0)
            self.lost_lines.append(number)
        elif header := _HEADER.match(text):
            self._read_header(number, header[4], header[5])
        elif not _ASIDE.match(text):
            raise self._error(number, f"found {_excerpt(text)}, {_A_LINE}; {_TORN}")
        else:
            self._count_aside(number)

    def _count_aside(self, number: int) -> None:
        """Count a line that is empty, a comment or part of a stack trace.

        Raises:
            TraceError: There are too many such lines for the number of events.
        """
        self._aside += 1
        if self._aside % _ASIDE_MOST == 0:
            events = len(self.events) + sum(self.foreign.values())
            if self._aside > _FRAMES_MOST * events:
                found = f"{self._aside:,} lines that are empty, comments or stack traces"
                among = counted(events, "event")
                raise self._error(number, f"found {found} and {among}, expected a trace; is this the right file?")

    def _ascii(self, number: int, line: bytes) -> bytes:
        # A task's name may hold any characters; the rest of a line is ASCII.
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"undecodable byte {line[error.start]:#04x} in column {error.start + 1}"
            raise self._error(number, f"{found}, expected UTF-8 text; is this file a trace?") from None
        if "\0" in text:
            column = text.index("\0") + 1
            raise self._error(number, f"NUL in column {column}, expected text; is this file a trace?")
        return text.encode("ascii", "replace")

    def _read_comment(self, number: int, text: bytes) -> None:
        if not text.startswith(_COUNTED):
            return
        entries = _ENTRIES.match(text)
        if entries is None or not int(entries[1]) <= int(entries[2]) <= _LONG_MOST:
            expected = "expected numbers KEPT/WRITTEN, WRITTEN no smaller than KEPT"
            raise self._error(number, f"found {_excerpt(text)}, {expected}; {_TORN}")
        kept, written = self.entries or (0, 0)
        self.entries = kept + int(entries[1]), written + int(entries[2])

    def _read_header(self, number: int, word: bytes, rest: bytes) -> None:
        event = word.removesuffix(b":")
        if event in FIELDS:
            raise self._error(number, _what_is_wrong(event, word + rest))
        if word == event and not (rest.strip() or word.startswith(b"<")):
            raise self._error(number, f"found {_excerpt(word)} at the end of the line, {_A_LINE}; {_TORN}")
        if _SWALLOWED.search(rest):
            found = f"a vmalloc event inside the line of event {event.decode()}"
            raise self._error(number, f"found {found}, expected one event per line; {_TORN}")
        name = event.decode()
        self.foreign[name] = self.foreign.get(name, 0) + 1


def _what_is_wrong(event: bytes, text: bytes) -> str:
    """Find the first field of a bad event line that the kernel would print in another way."""
    at = len(event)
    for label, pattern in ((b":", b""), *FIELDS[event]):
        match = re.compile(b" *" + label + b" *" + pattern + rb"(?!\S)").match(text, at)
        if match is None:
            found, expected = _excerpt(text[at:].strip()), label.decode().strip()
            meaning = MEANING[pattern]
            return f"{event.decode()}: found {found}, expected '{expected}' and {meaning}; {_TORN}"
        at = match.end()
    return f"{event.decode()}: found {_excerpt(text[at:].strip())}, expected the end of the line; {_TORN}"


def _excerpt(text: bytes) -> str:
    shown = text.strip().decode("ascii", "replace")
    return repr(shown[:60] + "..." if len(shown) > 60 else shown) if shown else "the end of the line"
