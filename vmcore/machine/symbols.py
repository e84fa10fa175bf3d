"""The link symbols of a machine: how they are called, and the log of flushes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import proxy

from attrs import evolve, fields

from vmcore.errors import KernelDead
from vmcore.events import Flush, FlushAction
from vmcore.hookspecs import FlushSymbol
from vmcore.host import Host
from vmcore.linking.link import Events, Linked
from vmcore.linking.weak import flush_nothing
from vmcore.machine.life import BAD_ARGUMENT, Life, ThreadStates

FLUSH_LOG = 4096  #: calls that `Symbols.flush_log` keeps; the counts are of all calls
FLUSH_SYMBOLS = ("flush_cache_vmap", "flush_cache_vunmap", "flush_tlb_kernel_range")


class FlushCount:
    """Calls of one flush symbol and pages in their ranges, since the machine was made."""

    __slots__ = ("calls", "pages")

    def __init__(self) -> None:
        self.calls = self.pages = 0


class Symbols:
    """The symbols of one machine, ready to be called.

    Attributes:
        linked: the symbols as they were resolved.
        flush_counts: number of all calls of each flush symbol. `flush_log` has the last calls.
        syncs: calls of vmalloc_sync_all().
    """

    def __init__(
        self, life: Life, linked: Linked, events: Events, host: Host, page_shift: int, several: bool
    ) -> None:
        """Call symbols for ``host``.

        Args:
            life: of the machine.
            linked: the symbols.
            events: of the machine.
            host: the host that each symbol is called with. Only a weak reference is kept.
            page_shift: PAGE_SHIFT.
            several: there is more than one CPU.
        """
        self._life, self._events, self.linked = life, events, linked
        self._host: Host = proxy(host)
        self._page_shift, self._several = page_shift, several
        symbols = {name: getattr(linked, name) for name in FLUSH_SYMBOLS}
        self._flush = {n: None if symbol is flush_nothing else symbol for n, symbol in symbols.items()}
        self._flushes: deque[tuple[str, int, int, int, tuple[FlushAction, ...]]] = deque(maxlen=FLUSH_LOG)
        self.flush_counts = {name: FlushCount() for name in FLUSH_SYMBOLS}
        self._counting = threading.Lock()
        self.syncs = 0

    def flush(self, symbol: str, start: int, end: int) -> None:
        """Call a flush symbol for ``[start, end)`` on the running CPU, and log the actions it took.

        Raises:
            KernelDead: the kernel has ended.
        """
        life = self._life
        if life.dead is not None:
            raise KernelDead(life.dead)
        life.steps += 1
        try:
            call, cpu = self._flush[symbol], life.threads.mine.running if self._several else 0
            actions = () if call is None else self._run(call, cpu, start, end)
            done = (symbol, cpu, start, end, actions)
            pages = -(-(end - start) >> self._page_shift)
            count = self.flush_counts[symbol]
            with self._counting:
                count.calls += 1
                count.pages += pages
                self._flushes.append(done)
            if self._events.flush is not None:
                self._events.flush(flush=Flush(*done))
        except BaseException as error:
            life.interrupted("flush", error, BAD_ARGUMENT)
            raise

    def _run(self, call: FlushSymbol, cpu: int, start: int, end: int) -> tuple[FlushAction, ...]:
        """Call a symbol that is not weak and return the actions it took."""
        actions: list[FlushAction] = []
        thread = self._life.threads.mine
        before, thread.inside, thread.actions = thread.inside, True, actions
        try:
            call(self._host, cpu, start, end)
        finally:
            thread.inside, thread.actions = before, None
        return tuple(actions)

    @property
    def flush_log(self) -> list[Flush]:
        """The last calls of flush symbols, newest last. `FLUSH_LOG` of them at most."""
        with self._counting:
            return [Flush(*done) for done in self._flushes]

    def vmalloc_sync_all(self) -> None:
        """Call the symbol of that name."""
        self._life.steps += 1
        thread = self._life.threads.mine
        before, thread.inside = thread.inside, True
        try:
            self.linked.vmalloc_sync_all(self._host)
        finally:
            thread.inside = before
        self.syncs += 1
        if self._events.sync is not None:
            self._events.sync()

    def vmalloc_fault(self, cpu: int, address: int, access: str, error_code: int) -> bool:
        """Offer a kernel address that faulted to the symbol. True means that it repaired the tables."""
        if self._life.dead is not None:
            return False
        thread = self._life.threads.mine
        before, thread.inside = thread.inside, True
        try:
            repaired = self.linked.vmalloc_fault(self._host, cpu, address, error_code)
        finally:
            thread.inside = before
        if self._events.fault is not None:
            self._events.fault(cpu=cpu, address=address, access=access, repaired=repaired)
        return repaired


def guarded(events: Events, threads: ThreadStates) -> Events:
    """Wrap the events that have listeners, so that a listener that calls back into the port is found out."""

    def guard(caller: Callable[..., Any]) -> Callable[..., Any]:
        def event(**arguments: Any) -> None:
            thread = threads.mine
            before, thread.inside = thread.inside, True
            try:
                caller(**arguments)
            finally:
                thread.inside = before

        return event

    heard = {f.name: caller for f in fields(Events) if (caller := getattr(events, f.name)) is not None}
    return evolve(events, **{name: guard(caller) for name, caller in heard.items()})
