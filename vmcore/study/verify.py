"""Predict every address of a trace on its own window: does vmcore place areas as the traced kernel did?"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from attrs import evolve, frozen

from vmcore.errors import ConfigurationError
from vmcore.facts import RANGE, Facts, Key, Schema, Shape, range_facts
from vmcore.placement.generations import BUILT_IN, generation_of
from vmcore.placement.seam import Generation, Space, Span
from vmcore.study.percpu import find_chunks, is_percpu_area
from vmcore.texts.trace import Trace
from vmcore.texts.tracepoints import ALLOC, FREE
from vmcore.texts.vmallocinfo import VmallocinfoEntry

_SHOWN = 10  # misses that a result keeps
_FIRST = 3000  # events by which generations are compared first
AUTO: Final = "auto"

SCHEMA: Final = Schema(
    "vmcore.verify/1",
    "vmcore verify TRACE",
    "How many addresses of a trace are those that a placement generation predicts.",
    (
        Key("file", "string", "The trace."),
        Key("allocations", "number", "Allocations that the traced kernel served."),
        Key("exact", "number", "Addresses that are right at the first look."),
        Key("explained", "number", "Those, and addresses that are right with an order of events that the trace "
            "hides."),
        Key("share", "number", "Explained of all allocations, 0 to 1."),
        Key("kernel", "string", "The placement generation that was taken."),
        Key("alike", "list of string", "Other generations that predict as many addresses."),
        Key("failed", "number", "Tries that the traced kernel refused."),
        Key("failed_right", "number", "Those of them that are predicted."),
        Key("window", "object", "The vmalloc window of the traced kernel.", shape=RANGE),
        Key("cpus", "number", "CPUs of the traced kernel."),
        Key("early", "number", "Areas that existed before the trace."),
        Key("percpu_chunks", "number", "Percpu chunks that were found."),
        Key("unknown_frees", "number", "Frees of addresses where no area was known."),
        Key("misses", "list of object", "The first addresses that were not predicted.", shape=Shape("miss", (
            Key("line", "number", "Line of the trace.", "line"),
            Key("address", "string", "Address in the trace.", "address"),
            Key("predicted", "string or null", "Predicted address; null: no space.", "address"),
        ))),
        Key("notes", "list of string", "What the trace or the other files leave open."),
    ),
)  # fmt: skip


@frozen
class Miss:
    """An address that was not predicted.

    Attributes:
        line: of the trace.
        address: in the trace.
        predicted: the predicted address, or None for no space.
    """

    line: int
    address: int
    predicted: int | None


@frozen
class Verified:
    """How a placement generation predicts a trace. The attributes are those of `SCHEMA`."""

    file: str
    allocations: int
    exact: int
    explained: int
    failed: int
    failed_right: int
    kernel: str
    window: Span
    cpus: int
    early: int
    percpu_chunks: int
    unknown_frees: int
    misses: tuple[Miss, ...]
    alike: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Explained addresses of all, 0 to 1."""
        return self.explained / self.allocations if self.allocations else 1.0

    @property
    def right(self) -> bool:
        """Whether every address and every refusal is predicted."""
        return self.explained == self.allocations and self.failed_right == self.failed

    def facts(self) -> Facts:
        """Return the object that `SCHEMA` describes."""
        misses = [
            {
                "line": m.line,
                "address": hex(m.address),
                "predicted": None if m.predicted is None else hex(m.predicted),
            }
            for m in self.misses
        ]
        return SCHEMA.facts(
            file=self.file, allocations=self.allocations, exact=self.exact, explained=self.explained,
            share=self.share, kernel=self.kernel, alike=list(self.alike), failed=self.failed,
            failed_right=self.failed_right, window=range_facts(*self.window), cpus=self.cpus, early=self.early,
            percpu_chunks=self.percpu_chunks, unknown_frees=self.unknown_frees, misses=misses,
            notes=list(self.notes),
        )  # fmt: skip


def verify(
    trace: Trace,
    info: Sequence[VmallocinfoEntry] = (),
    kernel: str = AUTO,
    generations: Iterable[Generation] = BUILT_IN,
    cpus: int | None = None,
) -> Verified:
    """Predict the address of each allocation of a trace, on the traced kernel's own window.

    Args:
        trace: The trace, begun at boot.
        info: /proc/vmallocinfo behind the trace. It tells the areas from before the trace, and the percpu chunks.
        kernel: A version, the name of a generation, or "auto" for the generation that predicts best.
        generations: The generations to choose from.
        cpus: Possible CPUs of the traced kernel; by default those that the trace shows.

    Raises:
        ConfigurationError: ``kernel`` is no version and no generation, or ``cpus`` is not positive.
    """
    known = list(generations)
    if kernel == AUTO:
        return _best(trace, info, known, cpus)
    generation = generation_of(kernel, known)
    if generation is None:
        names = ", ".join(generation.name for generation in known)
        raise ConfigurationError(f"kernel {kernel!r}: expected a version such as 6.12, auto, or one of {names}")
    return _Run(trace, info, generation, cpus).all()


def _best(
    trace: Trace, info: Sequence[VmallocinfoEntry], generations: list[Generation], cpus: int | None
) -> Verified:
    """Try all generations on the beginning of a trace, and the best on all of it. The newest wins a tie."""
    runs = [_Run(trace, info, generation, cpus) for generation in reversed(generations)]
    for run in runs:
        run.to(_FIRST)
    most = max(run.explained for run in runs)
    found = [run.all() for run in runs if run.explained == most]
    best = max(found, key=lambda one: (one.explained + one.failed_right, one.exact))
    mark = best.explained, best.failed_right, best.exact
    same = (o.kernel for o in found if (o.explained, o.failed_right, o.exact) == mark and o is not best)
    return evolve(best, alike=tuple(same))


def traced_space(trace: Trace, info: Sequence[VmallocinfoEntry], cpus: int | None = None) -> Space:
    """Return the address space of the traced kernel.

    Args:
        trace: The trace.
        info: /proc/vmallocinfo behind it. Its areas without an event are early ones.
        cpus: Possible CPUs; by default those that the trace shows.

    Raises:
        ConfigurationError: ``cpus`` is not positive.
    """
    if cpus is not None and cpus < 1:
        raise ConfigurationError(f"cpus is {cpus}, expected at least 1")
    start, end = trace.windows[0]
    placed = {a for a, kind in zip(trace.events.addr, trace.events.kind, strict=True) if kind == ALLOC}
    early = tuple((e.start, e.end) for e in info if e.start not in placed and not is_percpu_area(e))
    shown = max((0, *trace.events.cpu)) + 1
    return Space(64 if end >> 32 else 32, trace.page_size, start, end, cpus or shown, early)


class _Run:
    """One generation on one trace, up to some event."""

    def __init__(
        self, trace: Trace, info: Sequence[VmallocinfoEntry], generation: Generation, cpus: int | None
    ) -> None:
        self.trace, self.generation, self._informed = trace, generation, bool(info)
        self.space = traced_space(trace, info, cpus)
        self.placement = generation.make(self.space)
        self.chunks = find_chunks(trace.events, info, self.space, len(trace.unknown_frees))
        self._chunks_after = set(self.chunks.after)
        self._purges = [n for n, kind in enumerate(trace.events.kind) if kind not in (ALLOC, FREE)]
        self._purged_early: set[int] = set()
        self._lazy: dict[int, int] = {}  # first address to end
        self._after_failure = False
        self._refused: set[int] = set()  # addresses that were predicted once in vain
        self._next = 0
        self.allocations = self.exact = self.explained = self.failed = self.failed_right = self.unknown_frees = 0
        self.misses: list[Miss] = []

    def all(self) -> Verified:
        """Go on to the end and return the result."""
        self.to(len(self.trace.events))
        notes = list(self.trace.notes())
        if not self._informed and self.explained < self.allocations:
            notes.append(
                "no event tells areas from before the trace and percpu chunks: give /proc/vmallocinfo, too"
            )
        if self.space.cpus > 1:
            notes.append(
                f"the trace is of {self.space.cpus} CPUs: the order of its lines is not always that of the events"
            )
        return Verified(
            file=self.trace.file, allocations=self.allocations, exact=self.exact, explained=self.explained,
            failed=self.failed, failed_right=self.failed_right, kernel=self.generation.name,
            window=self.trace.windows[0], cpus=self.space.cpus, early=len(self.space.early),
            percpu_chunks=len(self.chunks.after), unknown_frees=self.unknown_frees, misses=tuple(self.misses),
            notes=tuple(notes),
        )  # fmt: skip

    def to(self, end: int) -> None:
        """Go on up to an event."""
        events = self.trace.events
        kinds, sizes, addresses, cpus = events.kind, events.size, events.addr, events.cpu
        for n in range(self._next, min(end, len(events))):
            kind = kinds[n]
            if kind == ALLOC:
                self._allocate(n)
            elif kind == FREE:
                if sizes[n]:
                    self._free(addresses[n], sizes[n], max(cpus[n], 0))
                elif self.chunks.size:
                    self._free(addresses[n], self.chunks.size, max(cpus[n], 0))
                    self.unknown_frees += 1
                else:
                    self.unknown_frees += 1
            elif n in self._purged_early:
                self._purged_early.discard(n)
            else:
                self._purge(self._after_failure, None if self._after_failure else events.num_purged[n])
                self._after_failure = False
        self._next = max(self._next, end)

    def _free(self, address: int, size: int, cpu: int) -> None:
        self.placement.release(address, size, cpu)
        self._lazy[address] = address + size

    def _purge(self, everything: bool = False, only: int | None = None) -> None:
        self.placement.purge(everything=everything, only=only)
        for address in list(islice(self._lazy, only)):
            del self._lazy[address]

    def _allocate(self, n: int) -> None:
        events = self.trace.events
        start, end = self.trace.windows[events.window[n]]
        cpu = max(events.cpu[n], 0)
        request = (events.size[n], events.align[n], start, end, cpu)
        if events.failed[n]:
            self.failed += 1
            self.failed_right += self.placement.look(*request) is None
            self._after_failure = True
            return
        self.allocations += 1
        wanted, size = events.addr[n], events.size[n]
        predicted = self.placement.look(*request)
        if predicted == wanted:
            self.exact += 1
            self.explained += 1
            self.placement.attempt(*request)
        elif self._lazily_freed(wanted, size) and self._purge_early(n) and self.placement.look(*request) == wanted:
            self.explained += 1
            self.placement.attempt(*request)
        else:
            if len(self.misses) < _SHOWN:
                self.misses.append(Miss(events.line[n], wanted, predicted))
            self.placement.take(wanted, size, cpu)
            self._refuse(predicted, size)
        if n in self._chunks_after:
            self._make_chunk()

    def _refuse(self, predicted: int | None, size: int) -> None:
        """Take a predicted address that the trace refuses a second time: an area without an event has it."""
        if predicted in self._refused:
            self._refused.discard(predicted)
            self.placement.take(predicted, size)
        elif predicted is not None:
            self._refused.add(predicted)

    def _make_chunk(self) -> None:
        """Take the space of a percpu chunk, after a purge of everything if there is none."""
        request = [0], [self.chunks.size], self.chunks.align
        if self.placement.percpu(*request) is None:
            self._purge(everything=True)
            self.placement.percpu(*request)

    def _lazily_freed(self, address: int, size: int) -> bool:
        return any(first < address + size and address < end for first, end in self._lazy.items())

    def _purge_early(self, n: int) -> bool:
        """Carry the next purge out now: its line comes after its effect. Return whether there is one."""
        for at in range(bisect_left(self._purges, n), len(self._purges)):
            number = self._purges[at]
            if number not in self._purged_early:
                self._purged_early.add(number)
                self._purge(only=self.trace.events.num_purged[number])
                return True
        return False
