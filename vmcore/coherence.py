"""The coherence checker: watches what CPUs load and store, and says which flush or sync is missing.

It is a listener like any other, and is asked by CPUs and caches besides. It looks for

- a translation that a TLB still gives after its page was unmapped or changed,
- a page frame that is handed out again while some TLB still translates to it,
- a cache line that is read although newer data is elsewhere, that overwrites newer data, or that is lost,
- a kernel access that faults although init_mm maps the page, and that ``vmalloc_fault`` does not repair.

Every line of memory has a number that each store to it counts up; what a cache or memory holds has the number
of its last store. A report names the symbol that should have been there, by what happened to the page since the
stale copy was made. What is the same again is counted, not reported again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from weakref import proxy

import numpy as np
from attrs import asdict, define, frozen

from vmcore.architecture import Window
from vmcore.flushes import Flush
from vmcore.hookspecs import hookimpl
from vmcore.mmu import Mmu
from vmcore.rights import CACHED, RIGHTS, SHARED, WRITE_BACK, Rights

if TYPE_CHECKING:
    from vmcore.cpu import Cpu
    from vmcore.dcache import DataCache
    from vmcore.machine import Machine

STALE_TRANSLATION: Final = "stale translation"
FRAME_IN_USE: Final = "frame in use"
STALE_LINE: Final = "stale line"
LOST_LINE: Final = "lost line"
UNREPAIRED_FAULT: Final = "unrepaired fault"

_UNMAP, _MAP, _TLB, _SYNC = "flush_cache_vunmap", "flush_cache_vmap", "flush_tlb_kernel_range", "vmalloc_sync_all"
_REMEMBERED = 1 << 16  #: happenings; a report of what came before says that it is forgotten
_TOLD = 8  # of them in a report


@frozen
class Report:
    """One incoherence.

    Attributes:
        kind: one of this module's constants.
        cpu: number of the CPU that holds the stale copy, or faulted.
        address: virtual, bytes; of the access, or of the copy.
        start: of the range that should have been flushed or synced, bytes.
        end: one past it.
        missing: the symbol; "" where no kernel of the era would have called one.
        text: what was found.
        history: what happened to the page, oldest first.
        reached: the only CPU that the flush reached, where it did run; None: it did not, or did nothing.
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
        """Return it as numbers, strings and a list; addresses in hex."""
        return asdict(self) | {name: hex(getattr(self, name)) for name in ("address", "start", "end")}

    def __str__(self) -> str:
        return "\n".join([f"{self.kind}, cpu {self.cpu}, {self.address:#x}: {self.text}", *self.history])


@frozen
class _Happening:
    """Something that happened to a range of addresses, or to frames."""

    number: int
    what: str  # "mapped", "cleared", or a flush symbol
    start: int
    end: int
    cpu: int = 0
    frames: np.ndarray | None = None
    did: str = ""
    acted: bool = False

    def __str__(self) -> str:
        where = f"{self.start:#x}..{self.end:#x}"
        if self.did:
            return f"  {self.what} on cpu {self.cpu}, {where}: {self.did}"
        return f"  {self.what} {where}"


@define
class _Copies:
    """What one cache's slots hold: the number of the last store, and when they were filled."""

    version: np.ndarray
    since: np.ndarray


class Listener:
    """Pass events on to a checker without keeping it.

    The plugin managers that hold listeners are cyclic garbage when a kernel is dropped. A checker that they kept
    would keep the kernel's RAM.
    """

    def __init__(self, checker: Checker) -> None:
        self._checker: Checker = proxy(checker)

    @hookimpl
    def vmcore_range_mapped(self, address: int, frames: np.ndarray) -> None:
        """Pass the event on."""
        self._checker.range_mapped(address, frames)

    @hookimpl
    def vmcore_range_cleared(self, address: int, entries: np.ndarray) -> None:
        """Pass the event on."""
        self._checker.range_cleared(address, entries)

    @hookimpl
    def vmcore_flush(self, flush: Flush) -> None:
        """Pass the event on."""
        self._checker.flush(flush)

    @hookimpl
    def vmcore_pages_allocated(self, frames: np.ndarray) -> None:
        """Pass the event on."""
        self._checker.pages_allocated(frames)

    @hookimpl
    def vmcore_table_allocated(self, table: int | None) -> None:
        """Pass the event on."""
        self._checker.table_allocated(table)


class Checker:
    """Watches one machine.

    Attributes:
        reports: oldest first.
        repeated: how many more there were of the same.
        listener: to be linked with the machine.
    """

    def __init__(self) -> None:
        """Have seen nothing; the machine it is to listen to is not there yet."""
        self.reports: list[Report] = []
        self.repeated = 0
        self.listener = Listener(self)
        self._seen: set[tuple[str, int, int, str]] = set()
        self._log: deque[_Happening] = deque(maxlen=_REMEMBERED)
        self._count = 0
        self._copies: dict[int, _Copies] = {}
        #: by physical line: the flush that would have saved it, its range, the only CPU that it reached
        self._lost: dict[int, tuple[str, Window, int | None]] = {}
        self._cpus: tuple[Cpu, ...] = ()
        self._shift = 0

    def watch(self, machine: Machine) -> None:
        """Begin to look at a machine's CPUs and caches; its events reach a checker that is linked to it."""
        arch, self._memory, self._cpus, self._shift = (
            machine.arch,
            machine.memory,
            machine.cpus,
            machine.page_shift,
        )
        self._rights, self._page = Rights(arch), machine.page_size
        self._init = Mmu(arch, machine.memory, machine.layout.swapper_pg_dir)
        self._root, self._first_kernel = arch.levels[0], machine.layout.first_kernel_pgd
        machine.checker = self
        caches = [cpu.cache for cpu in machine.cpus if cpu.cache is not None]
        for cpu in machine.cpus:
            cpu.tlb.direct = False
            cpu.tlb.drop_all()
        for cache in caches:
            cache.watcher = proxy(self)  # the cache's machine keeps the checker
            self._copies[cache.cpu] = _Copies(*np.zeros((2, cache.keys.size), np.int64))
        if caches:
            self._line_shift = caches[0].line.bit_length() - 1
            self._latest, self._stored = np.zeros((2, len(machine.memory.buffer) >> self._line_shift), np.int32)

    # ---- events

    def _note(self, what: str, start: int, end: int, **more: object) -> None:
        self._count += 1
        self._log.append(_Happening(self._count, what, start, end, **more))  # type: ignore[arg-type]

    def range_mapped(self, address: int, frames: np.ndarray) -> None:
        """Remember which frames are where."""
        end = address + (len(frames) << self._shift)
        self._note("mapped", address, end, frames=frames.copy())

    def range_cleared(self, address: int, entries: np.ndarray) -> None:
        """Remember what was unmapped."""
        self._note("cleared", address, address + (len(entries) << self._shift))

    def flush(self, flush: Flush) -> None:
        """Remember what was flushed, and where."""
        did = ", ".join(map(str, flush.actions)) or "nothing to do"
        self._note(flush.symbol, flush.start, flush.end, cpu=flush.cpu, did=did, acted=bool(flush.actions))

    def pages_allocated(self, frames: np.ndarray) -> None:
        """Look for TLB entries that still translate to what is handed out."""
        self._reused(frames)

    def table_allocated(self, table: int | None) -> None:
        """Look for TLB entries that still translate to what has become a page table."""
        if table is not None:
            self._reused(np.array([table >> self._shift]))

    def _reused(self, frames: np.ndarray) -> None:
        for cpu in self._cpus:
            held = cpu.tlb.page >= 0
            stale = held & np.isin(cpu.tlb.physical >> self._shift, frames)
            for slot in np.flatnonzero(stale).tolist():
                address, physical = int(cpu.tlb.page[slot]) << self._shift, int(cpu.tlb.physical[slot])
                if self._truth(cpu, address)[0] != physical:
                    text = f"frame {physical >> self._shift:#x} is handed out again, and the TLB translates to it"
                    self._stale_page(FRAME_IN_USE, cpu, address, text)

    # ---- translations

    def _truth(self, cpu: Cpu, address: int) -> tuple[int | None, int]:
        """Return where a page is and what it allows: the kernel's by init_mm, others by the CPU's tables."""
        walk = (self._init if self._kernels(address) else cpu.mmu).walk(address)
        return walk.physical, self._rights.of(walk)

    def _kernels(self, address: int) -> bool:
        return address >> self._root.shift & self._root.entries - 1 >= self._first_kernel

    def used(self, cpu: Cpu, address: int, physical: int, flags: int) -> None:
        """A TLB entry was used: for the page at *address*, without a walk."""
        found, rights = self._truth(cpu, address)
        more, otherwise = flags & RIGHTS & ~rights, (flags ^ rights) & (SHARED | CACHED | WRITE_BACK)
        if found == physical and not more and not otherwise:
            return
        now = "nowhere" if found is None else f"to {found:#x}"
        if found == physical:
            now = "there with fewer rights" if more else "there, and shared or cached in another way"
        text = f"the TLB translates to {physical:#x}, the page is mapped {now}"
        self._stale_page(STALE_TRANSLATION, cpu, address, text)

    def used_many(self, cpu: Cpu, addresses: np.ndarray, physical: np.ndarray, flags: np.ndarray) -> None:
        """TLB entries were used: for pages at *addresses* (uint64), as `used`, all of one access."""
        mmu = self._init if len(addresses) and self._kernels(int(addresses[0])) else cpu.mmu
        walks = mmu.walk_many(addresses)
        rights = self._rights.of_many(walks)
        wrong = (walks.physical != physical) | (flags & RIGHTS & ~rights != 0)
        wrong |= (flags ^ rights) & (SHARED | CACHED | WRITE_BACK) != 0
        for n in np.flatnonzero(wrong).tolist():
            self.used(cpu, int(addresses[n]), int(physical[n]), int(flags[n]))

    def _stale_page(self, kind: str, cpu: Cpu, address: int, text: str) -> None:
        if (kind, cpu.number, address >> self._shift, _TLB) in self._seen:
            self.repeated += 1
            return
        cleared = self._last("cleared", address, 0)
        window = Window(address, address + self._page) if cleared is None else Window(cleared.start, cleared.end)
        flush = self._last(_TLB, address, 0 if cleared is None else cleared.number)
        if flush is None:
            forgotten = cleared is None and self._count > _REMEMBERED
            text += f"; {_TLB} was not called for it" + (", as far as is remembered" if forgotten else "")
        else:
            text += f"; {_TLB} on cpu {flush.cpu}: {flush.did}"
        self._report(kind, cpu.number, address, window, _TLB, text)

    def faulted(self, cpu: Cpu, address: int, access: int) -> None:
        """A fault stands: is the page there for everybody else?"""
        page = address & -self._page
        physical, rights = self._truth(cpu, page)
        if physical is None or not rights & access or not self._kernels(address):
            return
        runs = "init_mm" if cpu.mm is None else f"process {cpu.mm.number}"
        if cpu.mmu.walk(page).physical is not None:
            missing, why = _MAP, "its TLB keeps that the page is absent"
        else:
            missing, why = _SYNC, f"{runs} lacks an entry that vmalloc_fault did not copy"
        text = f"init_mm maps it to {physical:#x}, but {why}"
        self._report(UNREPAIRED_FAULT, cpu.number, address, Window(page, page + self._page), missing, text)

    # ---- cache lines

    def _places(self, physical: np.ndarray) -> np.ndarray:
        """Return the numbers of memory's lines for physical line numbers."""
        return self._memory.places(physical << self._line_shift) >> self._line_shift

    def lines_read(self, cache: DataCache, virtual: np.ndarray, physical: np.ndarray, slots: np.ndarray) -> None:
        """Lines were read; slots -1: from memory."""
        place, copies, here = self._places(physical), self._copies[cache.cpu], slots >= 0
        held = np.where(here, copies.version[slots], self._stored[place])
        other = here & (cache.physical.reshape(-1)[slots] != physical)
        for n in np.flatnonzero((held < self._latest[place]) | other).tolist():
            if here[n]:
                text = "the cache gives a line of another frame" if other[n] else "the cache gives an old copy"
                self._stale_line(cache, int(slots[n]), int(virtual[n]), int(physical[n]), text)
            else:
                self._newer_elsewhere(cache, int(virtual[n]), int(physical[n]))

    def cleared(self, frames: np.ndarray) -> None:
        """The kernel clears frames, in memory and in its own cache lines of them."""
        if self._copies:
            lines = np.arange(1 << self._shift - self._line_shift)
            place = (self._places(frames << self._shift - self._line_shift)[:, None] + lines).ravel()
            self._latest[place] += 1
            self._stored[place] = self._latest[place]

    def lines_fetched(self, cache: DataCache, slots: np.ndarray) -> None:
        """Slots were filled from memory."""
        copies = self._copies[cache.cpu]
        copies.version[slots] = self._stored[self._places(cache.physical.reshape(-1)[slots])]
        copies.since[slots] = self._count

    def lines_stored(self, cache: DataCache, physical: np.ndarray, slots: np.ndarray, in_memory: bool) -> None:
        """Lines were stored to: in slots (-1: not there), and in memory too if ``in_memory``."""
        place, copies, here = self._places(physical), self._copies[cache.cpu], slots >= 0
        stale = here & (copies.version[slots] < self._latest[place])
        for n in np.flatnonzero(stale).tolist():
            virtual = int(cache.virtual.reshape(-1)[slots[n]])
            self._stale_line(cache, int(slots[n]), virtual, int(physical[n]), "an old copy is stored to")
        self._latest[place] += 1
        if in_memory:
            self._stored[place] = self._latest[place]
        copies.version[slots[here]] = self._latest[place[here]]
        copies.since[slots[here]] = self._count

    def lines_written_back(self, cache: DataCache, slots: np.ndarray, physical: np.ndarray) -> None:
        """Dirty slots went to physical lines; -1: nowhere."""
        copies, own = self._copies[cache.cpu], cache.physical.reshape(-1)[slots]
        place, version = self._places(own), copies.version[slots]
        lost = (physical != own) & (version == self._latest[place])
        older = (physical == own) & (version < self._latest[place])
        for n in np.flatnonzero(lost | older).tolist():
            virtual, slot = int(cache.virtual.reshape(-1)[slots[n]]), int(slots[n])
            at = int(own[n]) << self._line_shift
            if older[n]:
                text = f"an old copy overwrites newer data at {at:#x}"
            elif physical[n] < 0:
                text = f"a dirty line of {at:#x} is written back, and nothing is mapped there any more"
            else:
                text = f"a dirty line of {at:#x} is written back to {int(physical[n]) << self._line_shift:#x}"
            self._stale_line(cache, slot, virtual, int(own[n]), text, LOST_LINE)
        good = physical == own
        self._stored[place[good]] = version[good]

    def _newer_elsewhere(self, cache: DataCache, virtual: int, physical: int) -> None:
        """Memory gave an old line: blame the cache that has the new one, or had it."""
        text, address = (
            f"memory gives an old copy at {virtual << self._line_shift:#x}",
            virtual << self._line_shift,
        )
        newer = self._holder(physical)
        if newer is None:
            self._orphan(STALE_LINE, cache, address, physical, text, "the new one is lost")
            return
        holder, slot = newer
        at = int(holder.virtual.reshape(-1)[slot])
        text += f", the new one is dirty in the cache of cpu {holder.cpu} at {at << self._line_shift:#x}"
        self._stale_line(holder, slot, at, physical, text, at=virtual)

    def _holder(self, physical: int) -> tuple[DataCache, int] | None:
        """Return the cache and the slot that have the last store to a line, and memory does not."""
        latest = self._latest[self._places(np.array([physical]))[0]]
        for cpu in self._cpus:
            if (cache := cpu.cache) is not None:
                mine = (cache.physical == physical) & (cache.keys >= 0) & cache.dirty
                for slot in np.flatnonzero(mine).tolist():
                    if self._copies[cache.cpu].version[slot] == latest:
                        return cache, slot
        return None

    def _stale_line(
        self,
        cache: DataCache,
        slot: int,
        virtual: int,
        physical: int,
        text: str,
        kind: str = STALE_LINE,
        at: int | None = None,
    ) -> None:
        """Report a copy in a slot, by what happened since it was made.

        ``at``: the virtual line that was read, where that is another.
        """
        address = (virtual if at is None else at) << self._line_shift
        event, missing = self._cause(cache, slot, virtual, physical)
        if event is None and (newer := self._holder(physical)) is not None and newer != (cache, slot):
            cache, slot = newer  # the copy was old when it was made: ask when the new one should have gone
            event, missing = self._cause(cache, slot, int(cache.virtual.reshape(-1)[slot]), physical)
        if event is None:
            self._orphan(
                kind, cache, address, physical, text, "two mappings are used at once, and no flush is between"
            )
            return
        window, since = Window(event.start, event.end), int(self._copies[cache.cpu].since[slot])
        text, reached = self._why(text, missing, window.start, since, cache.cpu)
        if kind == LOST_LINE:
            self._lost[physical] = missing, window, reached
        self._report(kind, cache.cpu, address, window, missing, text, reached)

    def _orphan(self, kind: str, cache: DataCache, address: int, physical: int, text: str, why: str) -> None:
        """Report a copy that nothing should have removed: perhaps the new one was lost before."""
        nothing = "", Window(address, address + cache.line), None
        missing, window, reached = self._lost.get(physical, nothing)
        if missing:
            why = f"the new one was lost before, for want of {missing}"
            if reached is not None:
                why += f", which ran on cpu {reached} and reached that CPU only"
        elif self._count > _REMEMBERED:
            why = f"no flush for it is among the last {_REMEMBERED:,} happenings, and what was before is forgotten"
        self._report(kind, cache.cpu, address, window, missing, f"{text}; {why}", reached)

    def _cause(self, cache: DataCache, slot: int, virtual: int, physical: int) -> tuple[_Happening | None, str]:
        """Return what should have made a copy go since it was made, and the flush that goes with it."""
        since, address = int(self._copies[cache.cpu].since[slot]), virtual << self._line_shift
        event = self._last("cleared", address, since)
        if event is not None:
            return event, _UNMAP
        return self._last_mapped(physical << self._line_shift >> self._shift, address, since), _MAP

    def _why(self, text: str, missing: str, address: int, since: int, cpu: int) -> tuple[str, int | None]:
        """Say what became of the flush: not called, did nothing, or reached another CPU only."""
        flush = self._last(missing, address, since)
        if flush is None:
            return f"{text}; {missing} was not called since", None
        if flush.acted and flush.cpu != cpu:
            return (
                f"{text}; {missing} ran on cpu {flush.cpu} and reached that CPU only: kernels of this era do not "
                f"flush the caches of others"
            ), flush.cpu
        return f"{text}; {missing} on cpu {flush.cpu}: {flush.did}", None

    # ---- what happened, and telling it

    def _last(self, what: str, address: int, since: int) -> _Happening | None:
        """Return the last happening of a kind to an address after another."""
        for event in reversed(self._log):
            if event.number <= since:
                return None
            if event.what == what and event.start <= address < event.end:
                return event
        return None

    def _last_mapped(self, frame: int, address: int, since: int) -> _Happening | None:
        """Return the last mapping of a frame, elsewhere than in an address's page, after a happening."""
        page = address >> self._shift
        for event in reversed(self._log):
            if event.number <= since:
                return None
            if event.what != "mapped" or event.frames is None:
                continue
            at = np.flatnonzero(event.frames == frame)
            if len(at) and (event.start >> self._shift) + int(at[0]) != page:
                return event
        return None

    def _report(
        self,
        kind: str,
        cpu: int,
        address: int,
        window: Window,
        missing: str,
        text: str,
        reached: int | None = None,
    ) -> None:
        key = (kind, cpu, address >> self._shift, missing)
        if key in self._seen:
            self.repeated += 1
            return
        self._seen.add(key)
        history = self._history(window)
        self.reports.append(Report(kind, cpu, address, window.start, window.end, missing, text, history, reached))

    def _history(self, window: Window) -> tuple[str, ...]:
        touching: Iterable[_Happening] = (
            event for event in reversed(self._log) if event.start < window.end and window.start < event.end
        )
        told = [str(event) for event, _ in zip(touching, range(_TOLD), strict=False)]
        return tuple(reversed(told))
