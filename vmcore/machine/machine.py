"""One machine: memory, allocators, page tables, the area list, the log, and how its symbols are called.

This is what the port (`vmcore.port.vmalloc`) stands on, and the `kernel` that link symbols are handed. It decides
nothing: `vmcore.kernel` boots one from an architecture, other jobs wire one with sources of their own.
"""

from __future__ import annotations

import threading
from _thread import RLock
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from operator import index
from typing import Any, ClassVar, Concatenate, NamedTuple, NoReturn, ParamSpec, TypeVar
from weakref import proxy

import numpy as np
from attrs import evolve, fields

from vmcore.architecture import Architecture, Layout
from vmcore.cpu.cpu import Cpu, Watcher
from vmcore.errors import (
    ArgumentError,
    CannotCopy,
    ConfigurationError,
    KernelBug,
    KernelDead,
    KernelFailure,
    KernelInterrupted,
    KernelOops,
    VmcoreError,
    choices,
)
from vmcore.events import Flush, FlushAction, readonly
from vmcore.flags import ZERO_SIZE_PTR
from vmcore.hookspecs import FlushSymbol
from vmcore.linking.link import Events, Linked
from vmcore.linking.weak import flush_nothing
from vmcore.memory.physical import PhysicalMemory
from vmcore.memory.slab import KmallocSource
from vmcore.memory.zones import PageSource, gfp_zone
from vmcore.paging.mm import Mm
from vmcore.paging.tables import PageTables, TableSource
from vmcore.placement.arealist import AreaList

FLUSH_LOG = 4096  #: calls `Machine.flush_log` keeps; the counts are of all
LOG_LINES = 1 << 16  #: lines `Machine.dmesg` keeps at least, and records `Machine.warnings` keeps
_BAD_ARGUMENT = (TypeError, ValueError, AttributeError)  # raised for one before anything changes
FAULT_KINDS = ("alloc_page", "pgtable", "kmalloc", "insert")


class FlushCount:
    """Calls of one flush symbol and pages in their ranges, since the machine was made."""

    __slots__ = ("calls", "pages")

    def __init__(self) -> None:
        self.calls = self.pages = 0


class Warned(NamedTuple):
    """A WARN_ON that fired: the C text of the condition, and the function it stands in."""

    condition: str
    function: str


class _Thread(threading.local):
    """What each Python thread is doing in the machine."""

    inside = False  # a link symbol or an event
    actions: list[FlushAction] | None = None  # of the flush symbol it runs
    running = 0  # number of the CPU it runs on
    began = 0  # log lines there were when its last call began


class VmlistLock(RLock):  # type: ignore[misc]  # final for type checkers only
    """vmlist_lock: one writer. `Machine.lock_vmlist` takes it.

    Taking and releasing it are methods of the C type, so that an interrupt between two lines of Python cannot
    leave it held.
    """

    #: tells whether this thread holds it; threading.Condition asks so too
    held: ClassVar[Callable[[Any], bool]] = RLock._is_owned  # type: ignore[attr-defined]

    def locked(self) -> bool:
        """Tell whether any thread holds it."""
        if self.held():
            return True
        free = self.acquire(blocking=False)
        if free:
            self.release()
        return not free


_M = TypeVar("_M", bound="Machine")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def mutating(function: Callable[Concatenate[_M, _P], _R]) -> Callable[Concatenate[_M, _P], _R]:
    """Make a method refuse a dead kernel, and end the kernel if an interrupt cuts the method short.

    An interrupt is an exception that vmcore did not raise, Ctrl-C for example. One that arrives before the method
    changed anything passes without a trace.

    Raises:
        KernelDead: the kernel has ended.
        KernelBug: a plugin called back into vmalloc.
    """
    interrupted = KernelInterrupted(function.__name__)  # made here: the handler must not call anything

    @wraps(function)
    def call(self: _M, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        thread = self._thread
        if self.dead is not None or thread.inside:
            self.alive()
        thread.began, steps = self.printk_count, self.steps
        try:
            return function(self, *args, **kwargs)
        except VmcoreError:
            raise
        except BaseException:
            if self.steps != steps and self.dead is None:
                self.dead = interrupted
                self.halt(interrupted)
            raise

    return call


class Machine:
    """The state every function of the port works on.

    Attributes:
        arch: the record.
        layout: where everything is.
        page_kernel: PAGE_KERNEL here (several CPUs may add a bit to the record's).
        page_size: PAGE_SIZE; ``page_shift`` and ``word_mask`` (an ``unsigned long`` of ones) likewise.
        linked: its symbols.
        events: its event hooks, None where nobody listens.
        memory: physical memory.
        pages: where pages come from.
        slab: where small objects come from.
        init_mm: the kernel's page tables.
        vmlist: the area list.
        cpus: each `vmcore.cpu.cpu.Cpu`; ``cpu`` is the one that runs.
        checker: watches what CPUs do, or None.
        pgd_list: processes, oldest first.
        statics: function-static variables of link symbols.
        dmesg: log lines, oldest first; the last `LOG_LINES` and up to as many again. ``printk_count`` counts all.
        warnings: WARN_ON records, likewise; ``warn_count`` counts all.
        flush_counts: calls of flush symbols, all of them; ``flush_log`` has the last.
        in_interrupt: what in_interrupt() answers.
        printk_ratelimit: what printk_ratelimit() answers.
        num_physpages: the kernel variable.
        mem_map: (address of ``struct page`` 0, bytes of one): then page arrays that are vmalloc'ed hold the
            pointers C would store there; None: their bytes stay zero.
        dead: the first BUG, oops, interrupted call or `close()` that ended this kernel.
        steps: goes up before each change; a call that was cut short at the same count has changed nothing.
    """

    def __init__(
        self,
        arch: Architecture,
        layout: Layout,
        linked: Linked,
        events: Events,
        memory: PhysicalMemory,
        pages: PageSource,
        tables: TableSource,
        slab: KmallocSource,
        num_physpages: int,
        cpus: int = 1,
    ) -> None:
        self.arch, self.layout, self.linked, self.memory = arch, layout, linked, memory
        self.pages, self.slab = pages, slab
        self._thread = _Thread()
        self.events = self._guarded(events)
        self.num_physpages = num_physpages
        self.in_interrupt, self.printk_ratelimit = False, True
        self.mem_map: tuple[int, int] | None = None
        self.dead: KernelFailure | None = None
        self.steps = 0
        self.dmesg: list[str] = list(layout.notes)
        self.warnings: list[Warned] = []
        self.printk_count, self.warn_count = len(self.dmesg), 0
        self._flushes: deque[tuple[str, int, int, int, tuple[FlushAction, ...]]] = deque(maxlen=FLUSH_LOG)
        self.flush_counts = {name: FlushCount() for name in _FLUSH_SYMBOLS}
        self.syncs = 0
        self.pgd_list: list[Mm] = []
        self.statics: dict[str, Any] = {}
        self.vmlist = AreaList(arch.word_bits, arch.page_shift)
        self.vmlist_lock, self.pgd_lock = VmlistLock(), threading.Lock()
        self._tables_from = tables
        self.init_mm = self._page_tables(layout.swapper_pg_dir)
        self._page_countdown = self._kmalloc_countdown = self._insert_countdown = 0
        symbols = {name: getattr(linked, name) for name in _FLUSH_SYMBOLS}
        self._symbols = {n: None if symbol is flush_nothing else symbol for n, symbol in symbols.items()}
        self._counting = threading.Lock()
        self._whole_tlb = FlushAction("tlb", "all", cpus)
        self._smp_flags = arch.smp_flags if cpus > 1 else 0
        self.page_kernel = arch.page_kernel | self._smp_flags
        # the record's derived numbers, once: they are in every expression of the port
        self.page_size, self.page_shift, self.word_mask = arch.page_size, arch.page_shift, arch.word_mask
        self._pointer_bytes, self._sizeof_vm_struct = arch.pointer_bytes, arch.sizeof_vm_struct
        last = arch.levels[-1]
        #: the first frame that no page-table entry can hold, and the first number that is no entry
        self._frames_end, self._entry_end = last.physical_end >> arch.page_shift, 1 << 8 * last.word_bytes
        self.checker: Watcher | None = None
        self._tlbs_hold = False  # some CPU's TLB holds something
        self.cpus = tuple(Cpu(self, number) for number in range(cpus))
        self._several = cpus > 1
        caches = [cpu.cache for cpu in self.cpus if cpu.cache is not None]
        for cache in caches:
            cache.others = [proxy(other) for other in caches if other is not cache]
        if caches:
            board = proxy(self)
            memory.zeroed = lambda frames: board.forget_lines(frames)  # noqa: PLW0108  # a bound method would keep it

    def _page_tables(self, root: int) -> PageTables:
        e = self.events
        return PageTables(
            self.arch,
            self.memory,
            root,
            self._tables_from,
            proxy(self),  # a part does not keep its machine: dropping a kernel frees its RAM at once
            e.table_allocated,
            e.range_mapped,
            e.range_cleared,
        )

    # ---- protections

    def protection(self, name: str) -> int:
        """Return a named protection of this machine.

        Raises:
            ArchitectureError: the record has none of that name.
        """
        return self.arch.protection(name) | self._smp_flags

    # ---- the log, and the end

    def printk(self, line: str) -> None:
        """Log one line, with its ``<n>`` level and newline."""
        self.steps += 1
        self.printk_count += 1
        self.dmesg.append(line)
        if len(self.dmesg) > 2 * LOG_LINES:
            del self.dmesg[:LOG_LINES]
        if self.events.printk is not None:
            self.events.printk(line=line)

    def lines(self) -> tuple[str, ...]:
        """Return the lines logged since this thread's last call into the port began."""
        new = self.printk_count - self._thread.began
        return tuple(self.dmesg[-new:]) if new else ()

    def warn_on(self, condition: str, function: str) -> None:
        """Record a WARN_ON that fired."""
        self.steps += 1
        self.warn_count += 1
        self.warnings.append(Warned(condition, function))
        if len(self.warnings) > 2 * LOG_LINES:
            del self.warnings[:LOG_LINES]
        if self.events.warn is not None:
            self.events.warn(condition=condition, function=function)

    def bug(self, condition: str, function: str) -> NoReturn:
        """Die of a BUG_ON."""
        error = KernelBug(condition, function, self.lines())
        self._die(error)
        if self.events.bug is not None:
            self.events.bug(condition=condition, function=function)
        raise error

    def _die(self, error: KernelFailure) -> None:
        if self.dead is None:  # a dead kernel may be read on, and that may oops again
            self.dead = error
        for cpu in self.cpus:
            cpu.tlb.stop_stores()

    def halt(self, cause: KernelFailure) -> None:
        """End the kernel so that its memory is not read either: TLBs, which may be half filled, are emptied."""
        self._die(cause)
        for cpu in self.cpus:
            cpu.tlb.stop()

    def bug_on(self, condition: bool, text: str, function: str) -> None:
        """BUG_ON(condition), ``text`` being its C text."""
        if condition:
            self.bug(text, function)

    def oops(self, address: int, access: str) -> NoReturn:
        """Die of an access the machine cannot do."""
        error = KernelOops(address, access, self.lines())
        self._die(error)
        if self.events.oops is not None:
            self.events.oops(address=address, access=access)
        raise error

    @contextmanager
    def interrupt(self) -> Iterator[None]:
        """Be in interrupt context for a while."""
        before, self.in_interrupt = self.in_interrupt, True
        try:
            yield
        finally:
            self.in_interrupt = before

    def alive(self) -> None:
        """Refuse to change a dead kernel, and calls from inside a link symbol or an event.

        Raises:
            KernelDead: the kernel has ended.
            KernelBug: a plugin called back into vmalloc.
        """
        if self.dead is not None:
            raise KernelDead(self.dead)
        thread = self._thread
        thread.began = self.printk_count
        if thread.inside:
            self.bug("recursive vmlist_lock", "write_lock")

    def readable(self) -> None:
        """Refuse to show a list that may be half changed. A kernel dead of a BUG or an oops can be read.

        Raises:
            KernelDead: a call was interrupted, or the kernel was closed.
        """
        if self.dead is not None and not isinstance(self.dead, KernelBug | KernelOops):
            raise KernelDead(self.dead)

    def interrupted(
        self, function: str, error: BaseException, refusals: tuple[type[BaseException], ...] = ()
    ) -> None:
        """End the kernel where an exception from outside cuts one of its functions short.

        Args:
            function: the function that was cut short.
            error: the exception.
            refusals: exceptions by which the function refuses a bad argument before it changes anything.
        """
        if not isinstance(error, (VmcoreError, *refusals)):
            self.halt(KernelInterrupted(function))

    def lock_vmlist(self) -> VmlistLock:
        """Return vmlist_lock for a ``with`` statement.

        Raises:
            KernelBug: this thread holds it already: a plugin called back.
        """
        if self.vmlist_lock.held():
            self.bug("recursive vmlist_lock", "write_lock")
        self.steps += 1
        return self.vmlist_lock

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise CannotCopy(f"a {type(self).__name__}")

    def _guarded(self, events: Events) -> Events:
        """Wrap the events somebody listens to, so that a listener that calls back is found out."""
        thread = self._thread

        def guard(caller: Callable[..., Any]) -> Callable[..., Any]:
            def event(**arguments: Any) -> None:
                before, thread.inside = thread.inside, True
                try:
                    caller(**arguments)
                finally:
                    thread.inside = before

            return event

        heard = {f.name: caller for f in fields(Events) if (caller := getattr(events, f.name)) is not None}
        return evolve(events, **{name: guard(caller) for name, caller in heard.items()})

    # ---- allocators

    def fail(self, kind: str, nth: int) -> None:
        """Make the ``nth`` call of a kind from now on fail, once; 0 takes it back.

        Args:
            kind: "alloc_page", "pgtable" (all levels), "kmalloc", or "insert" (vm_insert_page).
            nth: 1 is the next call.

        Raises:
            ConfigurationError: another kind, or a negative number.
        """
        nth = index(nth)
        if kind not in FAULT_KINDS:
            raise ConfigurationError(f"fail: unknown kind {kind!r}: {choices(kind, FAULT_KINDS, 'valid')}")
        if nth < 0:
            raise ConfigurationError(f"fail {kind}: found {nth}, expected 0 (take back) or the number of a call")
        if kind == "alloc_page":
            self._page_countdown = nth
        elif kind == "kmalloc":
            self._kmalloc_countdown = nth
        elif kind == "insert":
            self._insert_countdown = nth
        else:
            self.init_mm.fail_countdown = nth

    def kmalloc(self, size: int, gfp: int, node: int) -> int | None:
        """Allocate as kmalloc_node() does: return a handle, ZERO_SIZE_PTR for 0 bytes, None: out of memory.

        Raises:
            ArgumentError: ``size`` is negative.
        """
        if size.__class__ is not int or size < 0:
            size = _count(size, "kmalloc", "bytes")
        # the same lines stand in each primitive: a call of their own would slow the one-page path
        if self.dead is not None:
            raise KernelDead(self.dead)
        self.steps += 1
        try:
            failing = self._kmalloc_countdown == 1
            if self._kmalloc_countdown:
                self._kmalloc_countdown -= 1
            handle = None if failing else self.slab.alloc(size, gfp, node)
            if self.events.kmalloc is not None:
                self.events.kmalloc(size=size, node=node, gfp=gfp, handle=handle)
            return handle
        except BaseException as error:
            self.interrupted("kmalloc", error, _BAD_ARGUMENT)
            raise

    def kfree(self, handle: int | None) -> None:
        """Free an object; None is NULL."""
        if self.dead is not None:
            raise KernelDead(self.dead)
        self.steps += 1
        try:
            if self.events.kfree is not None:
                self.events.kfree(handle=handle)
            if handle is not None and handle != ZERO_SIZE_PTR:
                self.slab.free(handle)
        except BaseException as error:
            self.interrupted("kfree", error, _BAD_ARGUMENT)
            raise

    def alloc_pages(self, count: int, gfp: int, node: int) -> np.ndarray:
        """Allocate pages one after the other, as a loop over alloc_page() or alloc_pages_node() does.

        Returns:
            Frames, int64; fewer than ``count`` when one was refused.

        Raises:
            ArgumentError: ``count`` is negative.
            ConfigurationError: this machine has no such node; any negative one means any.
        """
        if count.__class__ is not int or count < 0:
            count = _count(count, "alloc_pages", "pages")
        if self.dead is not None:
            raise KernelDead(self.dead)
        self.steps += 1
        try:
            allowed = min(count, self._page_countdown - 1) if self._page_countdown else count
            frames = self.pages.alloc(allowed, gfp, node)
            if self._page_countdown:
                calls = len(frames) + (len(frames) < count)
                self._page_countdown = max(0, self._page_countdown - calls)
            if self.events.pages_allocated is not None and count:
                self.events.pages_allocated(
                    node=node,
                    gfp=gfp,
                    zone=gfp_zone(gfp, self.arch.zone_names),
                    frames=readonly(frames),
                    failed=len(frames) < count,
                )
            return frames
        except BaseException as error:
            self.interrupted("alloc_pages", error, _BAD_ARGUMENT)
            raise

    def _node(self, node: int) -> int:
        """Return a caller's NUMA node.

        Raises:
            ConfigurationError: this machine has no such node.
        """
        node = index(node)
        self.pages.check_node(node)
        return node

    def free_pages(self, frames: np.ndarray) -> None:
        """Give pages back, in this order (__free_page() for each)."""
        if self.dead is not None:
            raise KernelDead(self.dead)
        self.steps += 1
        try:
            if self.events.pages_freed is not None and len(frames):
                self.events.pages_freed(frames=readonly(frames))
            self.pages.free(frames)
        except BaseException as error:
            self.interrupted("free_pages", error, _BAD_ARGUMENT)
            raise

    # ---- symbols of the architecture

    def flush(self, symbol: str, start: int, end: int) -> None:
        """Call a flush symbol for ``[start, end)`` on the running CPU, and log what it did."""
        if self.dead is not None:
            raise KernelDead(self.dead)
        self.steps += 1
        try:
            call, cpu = self._symbols[symbol], self._thread.running if self._several else 0
            actions = () if call is None else self._run_flush(call, cpu, start, end)
            done = (symbol, cpu, start, end, actions)
            pages = -(-(end - start) >> self.page_shift)
            count = self.flush_counts[symbol]
            with self._counting:
                count.calls += 1
                count.pages += pages
                self._flushes.append(done)
            if self.events.flush is not None:
                self.events.flush(flush=Flush(*done))
        except BaseException as error:
            self.interrupted("flush", error, _BAD_ARGUMENT)
            raise

    @property
    def flush_log(self) -> list[Flush]:
        """The last calls of flush symbols, newest last; `FLUSH_LOG` of them at most."""
        with self._counting:
            return [Flush(*done) for done in self._flushes]

    def _run_flush(self, call: FlushSymbol, cpu: int, start: int, end: int) -> tuple[FlushAction, ...]:
        """Call a symbol that does something; return what it did."""
        actions: list[FlushAction] = []
        thread = self._thread
        before, thread.inside, thread.actions = thread.inside, True, actions
        try:
            call(self, cpu, start, end)
        finally:
            thread.inside, thread.actions = before, None
        return tuple(actions)

    def _did(self, action: FlushAction) -> None:
        """Note what the running flush symbol does; outside one (a plugin's own test) nobody asks."""
        actions = self._thread.actions
        if actions is not None:
            actions.append(action)

    def flush_tlb_all(self, cpu: int) -> None:
        """Drop the whole TLB of every CPU (IPI to the others, and wait)."""
        if self.events.ipi is not None:
            self._interrupt_others(cpu, "flush_tlb_all")
        if not self._tlbs_hold:
            actions = self._thread.actions
            if actions is not None:
                actions.append(self._whole_tlb)
            return
        self._tlbs_hold = False  # first: who fills meanwhile says so before and after
        dropped = sum(self._dropped(one, "all", 0, 0, one.tlb.drop_all()) for one in self.cpus)
        self._did(FlushAction("tlb", "all", len(self.cpus), dropped))

    def flush_tlb_pages(self, cpu: int, start: int, end: int, every_cpu: bool) -> None:
        """Drop TLB entries page by page, from ``start`` rounded down while below ``end``; at least one."""
        targets = self.cpus if every_cpu else self.cpus[cpu : cpu + 1]
        if every_cpu and self.events.ipi is not None:
            self._interrupt_others(cpu, "flush_tlb_pages")
        dropped = 0
        if self._tlbs_hold:
            first = start >> self.page_shift
            count = max(1, -(-end >> self.page_shift) - first)
            for one in targets:
                dropped += self._dropped(one, "pages", start, end, one.tlb.drop_pages(first, count))
        self._did(FlushAction("tlb", "pages", len(targets), dropped))

    def flush_cache_all(self, cpu: int) -> None:
        """Clean and invalidate the whole data cache of this CPU, and of no other."""
        cache = self.cpus[cpu].cache
        self._did(FlushAction("cache", "all", 1, 0 if cache is None else cache.clean_and_invalidate()))

    def _interrupt_others(self, cpu: int, reason: str) -> None:
        others = tuple(one.number for one in self.cpus if one.number != cpu)
        if self.events.ipi is not None and others:
            self.events.ipi(cpu=cpu, targets=others, reason=reason)

    def _dropped(self, cpu: Cpu, scope: str, start: int, end: int, entries: int) -> int:
        if self.events.tlb_dropped is not None and entries:
            self.events.tlb_dropped(cpu=cpu.number, scope=scope, start=start, end=end, entries=entries)
        return entries

    # ---- CPUs

    @property
    def cpu(self) -> Cpu:
        """The CPU that this thread of Python runs on."""
        return self.cpus[self._thread.running]

    @contextmanager
    def on_cpu(self, cpu: int | Cpu) -> Iterator[Cpu]:
        """Run on another CPU for a while; this thread of Python only.

        Raises:
            ConfigurationError: there is no such CPU.
        """
        thread, number = self._thread, self._number(cpu)
        before, thread.running = thread.running, number
        try:
            yield self.cpus[number]
        finally:
            thread.running = before

    def _number(self, cpu: int | Cpu) -> int:
        try:
            number = cpu.number if isinstance(cpu, Cpu) else index(cpu)
        except TypeError:
            number = -1
        if not 0 <= number < len(self.cpus) or (isinstance(cpu, Cpu) and self.cpus[number] is not cpu):
            raise ConfigurationError(
                f"found CPU {cpu!r}, expected 0 to {len(self.cpus) - 1}, or one of this kernel's"
            )
        return number

    @mutating
    def switch_mm(self, cpu: int | Cpu, mm: Mm | None) -> None:
        """Make a CPU run a process' address space, or init_mm (None).

        Raises:
            ConfigurationError: there is no such CPU, or the process is another kernel's or freed.
        """
        one = self.cpus[self._number(cpu)]
        self.steps += 1
        with self.pgd_lock:  # nobody frees it meanwhile
            if mm is not None:
                self._expect_mm(mm)
            dropped = one.switch_mm(mm)
        self._dropped(one, "switch", 0, 0, dropped)

    def _expect_mm(self, mm: Mm) -> None:
        """Refuse what is no process of this kernel; pgd_lock held.

        Raises:
            ConfigurationError: it is another kernel's, or freed.
        """
        if mm not in self.pgd_list:
            raise ConfigurationError(
                f"found {mm}, expected a process that mm_alloc() of this kernel made and mm_free() did not free"
            )

    def current_mm(self, cpu: int) -> Mm | None:
        """Return the process a CPU runs; None: it runs on init_mm."""
        return self.cpus[self._number(cpu)].mm

    def alive_for_stores(self) -> None:
        """Refuse to change the memory of a dead kernel.

        Raises:
            KernelDead: a BUG or an oops came before.
        """
        if self.dead is not None:
            raise KernelDead(self.dead)

    def tlb_filling(self) -> None:
        """Note that a TLB is about to keep something: a flush from now on must look at it."""
        self._tlbs_hold = True

    def forget_lines(self, frames: np.ndarray) -> None:
        """Have caches without what the kernel is about to clear: it does so through its own addresses."""
        away = self.layout.page_offset - self.layout.phys_offset
        for cpu in self.cpus:
            if cpu.cache is not None:
                cpu.cache.forget(frames, self.page_shift, away)
        if self.checker is not None:
            self.checker.cleared(frames)

    def tlb_filled(self, cpu: Cpu, pages: np.ndarray, physical: np.ndarray) -> None:
        """Note that a CPU keeps translations from now on: page numbers and addresses, int64."""
        self._tlbs_hold = True
        if self.events.tlb_filled is not None:
            shift = np.uint64(self.page_shift)
            self.events.tlb_filled(
                cpu=cpu.number, addresses=readonly(pages.astype(np.uint64) << shift), physical=readonly(physical)
            )

    def fault(self, cpu: Cpu, address: int, access: str, error_code: int) -> bool:
        """Offer a kernel address that faulted to ``vmalloc_fault``; True: it was repaired."""
        if self.dead is not None:
            return False
        thread = self._thread
        before, thread.inside = thread.inside, True
        try:
            repaired = self.linked.vmalloc_fault(self, cpu.number, address, error_code)
        finally:
            thread.inside = before
        if self.events.fault is not None:
            self.events.fault(cpu=cpu.number, address=address, access=access, repaired=repaired)
        return repaired

    @mutating
    def vmalloc_sync_all(self) -> None:
        """Call the symbol (mm/vmalloc.c:769: weak)."""
        self.steps += 1
        thread = self._thread
        before, thread.inside = thread.inside, True
        try:
            self.linked.vmalloc_sync_all(self)
        finally:
            thread.inside = before
        self.syncs += 1
        if self.events.sync is not None:
            self.events.sync()


def _count(value: int, function: str, unit: str) -> int:
    """Return a caller's number of things.

    Raises:
        ArgumentError: it is negative.
    """
    number = index(value)
    if number < 0:
        raise ArgumentError(f"{function}: found {number} {unit}, expected 0 or more")
    return number


_FLUSH_SYMBOLS = ("flush_cache_vmap", "flush_cache_vunmap", "flush_tlb_kernel_range")
