"""The coherence checker: watches what CPUs load and store, and says which flush or sync is missing.

It is a listener like any other, and is asked by CPUs and caches besides. It looks for

- a translation that a TLB still gives after its page was unmapped or changed,
- a page frame that is handed out again while some TLB still translates to it,
- a cache line that is read although newer data is elsewhere, that overwrites newer data, or that is lost,
- a kernel access that faults although init_mm maps the page, and that ``vmalloc_fault`` does not repair.

Cache lines are judged byte by byte: the bytes last stored are those of memory, except in lines of which memory is
behind; of these the checker keeps the bytes last stored. An access is stale if one of its own bytes differs. A
report names the symbol that should have been there, by what happened to the page since the stale bytes were
copied. What is the same again is counted, not reported again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import proxy

import numpy as np
from attrs import asdict, frozen

from vmcore.architecture import Window
from vmcore.cpu.watchers import CpuView
from vmcore.events import Flush
from vmcore.hookspecs import hookimpl
from vmcore.paging.mmu import Mmu
from vmcore.paging.rights import CACHED, RIGHTS, SHARED, WRITE_BACK, Rights

if TYPE_CHECKING:
    from vmcore.cpu.dcache import DataCache
    from vmcore.machine.machine import Machine

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


#: why a line was lost: the flush that would have saved it, its range, the only CPU that it reached
_Reason: TypeAlias = tuple[str, Window, int | None]


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
        found: by kind, how often it was found, the same again included.
        listener: to be linked with the machine.
    """

    def __init__(self) -> None:
        """Have seen nothing; the machine it is to listen to is not there yet."""
        self.reports: list[Report] = []
        self.found: Counter[str] = Counter()
        self.listener = Listener(self)
        self._seen: set[tuple[str, int, int, str]] = set()
        self._log: deque[_Happening] = deque(maxlen=_REMEMBERED)
        self._count = 0
        #: by CPU: the number of the happening that each byte of its cache was copied or stored after
        self._since: dict[int, np.ndarray] = {}
        #: by physical line
        self._lost: dict[int, _Reason] = {}
        self._cpus: tuple[CpuView, ...] = ()
        self._shift = 0

    @property
    def repeated(self) -> int:
        """How many more there were of what `reports` has."""
        return self.found.total() - len(self.reports)

    def watch(self, machine: Machine) -> None:
        """Begin to look at a machine's CPUs and caches; its events reach a checker that is linked to it."""
        arch = machine.arch
        self._memory, self._cpus, self._shift = machine.memory, machine.cpus, arch.page_shift
        self._rights, self._page = Rights(arch), arch.page_size
        self._init = Mmu(arch, machine.memory, machine.layout.swapper_pg_dir)
        self._root, self._first_kernel = arch.levels[0], machine.layout.first_kernel_pgd
        machine.smp.checker = self
        caches = [cpu.cache for cpu in machine.cpus if cpu.cache is not None]
        for cpu in machine.cpus:
            cpu.tlb.direct = False
            cpu.tlb.drop_all()
        for cache in caches:
            cache.watcher = proxy(self)  # the cache's machine keeps the checker
            self._since[cache.cpu] = np.zeros(cache.data.shape, np.int32)
        if caches:
            line = caches[0].line
            self._line_shift = line.bit_length() - 1
            self._lines = np.frombuffer(machine.memory.buffer, np.uint8).reshape(-1, line)
            #: of which of memory's lines the bytes last stored are in ``_newest``
            self._behind = np.zeros(len(self._lines), bool)
            self._newest = np.zeros(self._lines.shape, np.uint8)

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

    def _truth(self, cpu: CpuView, address: int) -> tuple[int | None, int]:
        """Return where a page is and what it allows: the kernel's by init_mm, others by the CPU's tables."""
        walk = (self._init if self._kernels(address) else cpu.mmu).walk(address)
        return walk.physical, self._rights.of(walk)

    def _kernels(self, address: int) -> bool:
        return address >> self._root.shift & self._root.entries - 1 >= self._first_kernel

    def used(self, cpu: CpuView, address: int, physical: int, flags: int) -> None:
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

    def used_many(self, cpu: CpuView, addresses: np.ndarray, physical: np.ndarray, flags: np.ndarray) -> None:
        """TLB entries were used: for pages at *addresses* (uint64), as `used`, all of one access."""
        mmu = self._init if len(addresses) and self._kernels(int(addresses[0])) else cpu.mmu
        walks = mmu.walk_many(addresses)
        rights = self._rights.of_many(walks)
        wrong = (walks.physical != physical) | (flags & RIGHTS & ~rights != 0)
        wrong |= (flags ^ rights) & (SHARED | CACHED | WRITE_BACK) != 0
        for n in np.flatnonzero(wrong).tolist():
            self.used(cpu, int(addresses[n]), int(physical[n]), int(flags[n]))

    def _stale_page(self, kind: str, cpu: CpuView, address: int, text: str) -> None:
        if (kind, cpu.number, address >> self._shift, _TLB) in self._seen:
            self.found[kind] += 1
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

    def faulted(self, cpu: CpuView, address: int, access: int) -> None:
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
        """Lines were read: ``data`` was found in slots (-1: in memory), and its ``asked`` bytes are returned."""
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
        """The kernel clears frames, in memory and in its own cache lines of them."""
        if self._since:
            lines = np.arange(1 << self._shift - self._line_shift)
            place = self._places(frames << self._shift - self._line_shift)[:, None] + lines
            self._behind[place.ravel()] = False

    def lines_fetched(self, cache: DataCache, slots: np.ndarray) -> None:
        """Slots were filled from memory."""
        self._since[cache.cpu][slots] = self._count

    def lines_stored(
        self, cache: DataCache, physical: np.ndarray, slots: np.ndarray, skip: int, data: np.ndarray
    ) -> None:
        """Bytes were stored, from ``skip`` in the first line on: in slots (-1: not there), in memory, or both."""
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
        """Slots were stored to: their other bytes should be the last stored, too."""
        since = self._since[cache.cpu]
        times = since[slots]
        times[stored] = self._count
        since[slots] = times
        old = cache.data[slots] != newest
        for n in np.flatnonzero(old.any(1)).tolist():
            slot, line = int(slots[n]), int(physical[n])
            virtual = int(cache.virtual.reshape(-1)[slot])
            why = self._stale_line(cache, slot, virtual, line, old[n], "an old copy is stored to")
            if why is not None and cache.physical.reshape(-1)[slot] != line:
                self._lost[line] = why  # the line of another frame has them, and does not bring them here

    def lines_written_back(self, cache: DataCache, slots: np.ndarray, physical: np.ndarray) -> None:
        """Dirty slots are about to go to physical lines, one after the other; -1: nowhere."""
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
        """Memory gave old bytes of a line: blame the cache that has the new ones, or had them."""
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
        for cpu in self._cpus:
            if (cache := cpu.cache) is not None:
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
    ) -> _Reason | None:
        """Report bytes (``stale``, bool) of a copy in a slot, by what happened since they were copied.

        ``at``: the virtual line that was read, where that is another. Return the flush that is missing, or None.
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
        self._report(kind, cache.cpu, address, window, missing, text, reached)
        return missing, window, reached

    def _orphan(self, kind: str, cache: DataCache, address: int, physical: int, text: str, why: str) -> None:
        """Report a copy that nothing should have removed: perhaps the new one was lost before."""
        missing, window, reached = "", Window(address, address + cache.line), None
        if self._behind[self._places(np.array([physical]))[0]]:
            missing, window, reached = self._lost.get(physical, (missing, window, reached))
        if missing:
            why = f"the new one was lost before, for want of {missing}"
            if reached is not None:
                why += f", which ran on cpu {reached} and reached that CPU only"
        elif self._count > _REMEMBERED:
            why = f"no flush for it is among the last {_REMEMBERED:,} happenings, and what was before is forgotten"
        self._report(kind, cache.cpu, address, window, missing, f"{text}; {why}", reached)

    def _cause(
        self, cache: DataCache, slot: int, virtual: int, physical: int, stale: np.ndarray
    ) -> tuple[_Happening | None, str, int]:
        """Return what should have made bytes of a copy go, the flush for that, and what they were copied after."""
        since, address = int(self._since[cache.cpu][slot][stale].min()), virtual << self._line_shift
        event = self._last("cleared", address, since)
        if event is not None:
            return event, _UNMAP, since
        return self._last_mapped(physical << self._line_shift >> self._shift, address, since), _MAP, since

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
        self.found[kind] += 1
        key = (kind, cpu, address >> self._shift, missing)
        if key in self._seen:
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
