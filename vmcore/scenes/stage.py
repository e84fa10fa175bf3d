"""The stage that scenes play on: a kernel whose steps are recorded, each with the view of every CPU after it.

A view changes nothing. The bytes that a CPU would load are worked out from its TLB, the tables, its cache and the
memory, without a walk that fills the TLB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from attrs import define, field

from vmcore.architecture import Cache
from vmcore.cpu.cpu import Cpu
from vmcore.errors import PageFault
from vmcore.events import Flush, FlushAction
from vmcore.flags import VM
from vmcore.kernel import Kernel
from vmcore.paging.mm import Mm
from vmcore.paging.mmu import Mmu
from vmcore.paging.rights import CACHED, READ, Rights
from vmcore.scenes.result import CpuView, EntryView, SceneStep
from vmcore.wording import counted

WORD = 5  #: bytes that scenes store and load at a time
_VM_MAP = int(VM.MAP)
Result = TypeVar("Result")


def quoted(data: bytes | None) -> str:
    """Write bytes for people: "-" for None, "zeros", text in quotes, or hex digits."""
    if data is None:
        return "-"
    if not any(data):
        return "zeros"
    return f'"{data.decode()}"' if data.isascii() and data.decode().isprintable() else data.hex()


def _action_text(action: FlushAction) -> str:
    cpus = counted(action.cpus, "CPU")
    if action.unit == "cache":
        held = f", which held {counted(action.dropped, 'line')}" if action.dropped else ""
        return f"cleans and empties the cache of {cpus}{held}"
    dropped = "the whole TLB" if action.scope == "all" else "these pages from the TLB"
    return f"drops {dropped} on {cpus}, {counted(action.dropped, 'entry', 'entries')}"


def modelled(cache: Cache | None) -> bool:
    """Tell whether two addresses of one frame can disagree in such a cache."""
    return cache is not None and cache.modelled


@define(eq=False)
class Stage:
    """One kernel, and the steps taken on it.

    Attributes:
        kernel: A kernel with a coherence checker.
        left_out: Symbol that is replaced by nothing in this play, or "" if none is.
        steps: Steps so far.
        addresses: Addresses that every step shows, by the name of the place.
    """

    kernel: Kernel
    left_out: str = ""
    steps: list[SceneStep] = field(factory=list)
    addresses: dict[str, int] = field(factory=dict)
    _watched: dict[tuple[int, int], tuple[int, ...]] = field(factory=dict)
    _about: int | None = None

    @property
    def numbers(self) -> range:
        """Numbers of the CPUs."""
        return range(len(self.kernel.cpus))

    # ---- steps

    def act(
        self,
        text: str,
        action: Callable[[], Result],
        outcome: Callable[[Result], str] | None = None,
        note: Callable[[], str] | None = None,
    ) -> Result:
        """Do something that cannot fault, and record it.

        Args:
            text: The action, for people.
            action: Does it.
            outcome: Makes the outcome of the step from the result.
            note: Makes a note about symbols afterwards.

        Returns:
            The result of *action*.
        """
        called = self._calls()
        result = action()
        self._record(text, "" if outcome is None else outcome(result), called, "" if note is None else note())
        return result

    def load(self, cpu: int, place: str) -> bytes | None:
        """Load `WORD` bytes on a CPU, and return them, or None if the load faulted."""
        one, called = self.kernel.cpus[cpu], self._calls()
        repaired, data = one.faults.repaired, None
        try:
            data = one.load(self.addresses[place], WORD)
            outcome = quoted(data)
        except PageFault as fault:
            outcome = f"page fault: {fault.why}"
        if one.faults.repaired > repaired:
            outcome += ", after a fault that vmalloc_fault repaired"
        self._record(f"CPU {cpu} loads from {place}", outcome, called)
        return data

    def store(self, cpu: int, place: str, data: bytes) -> bool:
        """Store bytes on a CPU, and return whether the store did not fault."""
        called, stored = self._calls(), True
        try:
            self.kernel.cpus[cpu].store(self.addresses[place], data)
            outcome = "stored"
        except PageFault as fault:
            outcome, stored = f"page fault at {fault.address:#x}: {fault.why}", False
        self._record(f"CPU {cpu} stores {quoted(data)} to {place}", outcome, called)
        return stored

    def _calls(self) -> int:
        return sum(count.calls for count in self.kernel.flush_counts.values())

    def _record(self, text: str, outcome: str, called: int, note: str = "") -> None:
        calls = self._calls() - called
        flushes = self.kernel.flush_log[-calls:] if calls else ()
        notes = [did for flush in flushes if (did := self._flush_text(flush))]
        views = [
            view_of(self.kernel, cpu, place, address)
            for place, address in self.addresses.items()
            for cpu in self.kernel.cpus
        ]
        notes += [note] if note else []
        self.steps.append(SceneStep(text, outcome, tuple(notes), tuple(views), self._entries()))

    def _flush_text(self, flush: Flush) -> str:
        """Return the actions of a flush in words, or "" where it has nothing to do."""
        if flush.symbol == self.left_out:
            return f"{flush.symbol} is left out"
        did = ", ".join(map(_action_text, flush.actions))
        return f"{flush.symbol}: {did}" if did else ""

    # ---- steps that scenes share

    def allocate(self, place: str, why: str, pages: int = 1) -> int:
        """Vmalloc some pages on CPU 0, and name their address."""
        size = pages * self.kernel.page_size

        def vmalloc() -> int:
            self.addresses[place] = self.kernel.vmalloc(size)
            return self.addresses[place]

        return self.act(f"CPU 0: {place} = vmalloc({size}), {why}", vmalloc, lambda at: f"{place} is {at:#x}")

    def map_frames(self, place: str, frames: np.ndarray, which: str, **inside: int) -> int:
        """Vmap frames on CPU 0, and name their address.

        Args:
            place: Name of the address.
            frames: Page frames.
            which: The frames in words, for people.
            **inside: Further places, at this many bytes behind the address.
        """

        def vmap() -> int:
            at = self.addresses[place] = self.kernel.vmap(frames, len(frames), _VM_MAP, self.kernel.page_kernel)
            self.addresses |= {name: at + offset for name, offset in inside.items()}
            return at

        return self.act(f"CPU 0: {place} = vmap({which}", vmap, lambda at: f"{place} is {at:#x}")

    def stand_behind(self) -> None:
        """Allocate a page behind the last area, so that no larger area gets the addresses in front of it."""
        self.kernel.vmalloc(self.kernel.page_size)

    def fill_frame(self, frame: int, data: bytes) -> None:
        """Write bytes to the start of a frame, as a device does: past every CPU and cache."""
        self.kernel.memory.write(frame << self.kernel.page_shift, data)

    def write_back(self) -> None:
        """Trigger a write-back of the caches by allocating, because vmalloc() ends in flush_cache_vmap()."""
        text = "CPU 0 calls vmalloc(), which ends in flush_cache_vmap"
        self.act(text, lambda: self.kernel.vmalloc(2 * self.kernel.page_size))

    # ---- page-table entries

    def watch(self, address: int) -> None:
        """Show from now on the entries for an address at the level where processes have tables of their own."""
        self._about = address
        self._entries()  # remembers them as they are before the next step

    def _entries(self) -> tuple[EntryView, ...]:
        if self._about is None:
            return ()
        depth = own_depth(self.kernel)
        level, memory = self.kernel.arch.levels[depth], self.kernel.memory
        index, size = self._about >> level.shift & level.entries - 1, level.word_bytes
        owners = [(0, self.kernel.init_mm), *((mm.number, mm.tables) for mm in self.kernel.pgd_list)]
        out = []
        for process, tables in owners:
            found = tables.entry(self._about, depth)
            if found is not None:
                words = tuple(memory.load(at, size) for at in range(found[0], found[0] + level.entry_bytes, size))
                before = self._watched.get((process, found[0]), words)
                self._watched[process, found[0]] = words
                out.append(EntryView(process, level.name, index, found[0], size, before, words))
        return tuple(out)

    def run_processes(self) -> list[Mm]:
        """Make two processes. Each CPU runs one of them, and a single CPU runs the first."""

        def make() -> list[Mm]:
            made = [self.kernel.mm_alloc(), self.kernel.mm_alloc()]
            for cpu, mm in zip(self.kernel.cpus, made, strict=False):
                self.kernel.switch_mm(cpu, mm)
            return made

        who = "CPU 0 runs the first, CPU 1 the second" if len(self.numbers) > 1 else "CPU 0 runs the first"
        return self.act(f"two processes are created: each root table is a copy of init_mm's entries; {who}", make)


def own_depth(kernel: Kernel) -> int:
    """Return the deepest level at which each process has a table of its own for kernel addresses."""
    return int(kernel.arch.levels[0].prebuilt and not kernel.layout.shared_kernel_tables)


# ---- views


def view_of(kernel: Kernel, cpu: Cpu, place: str, address: int) -> CpuView:
    """Work out the view of a CPU at an address, without changing anything."""
    rights = Rights(kernel.arch)
    page, inside = address & -kernel.page_size, address & kernel.page_size - 1
    process = 0 if cpu.mm is None else cpu.mm.number
    slot = cpu.tlb.slot(page >> kernel.page_shift, process)
    walk, truth = cpu.mmu.walk(page), Mmu(kernel.arch, kernel.memory, kernel.init_mm.root).walk(page).physical
    tlb = int(cpu.tlb.physical[slot]) if slot >= 0 else None
    used, flags = (walk.physical, rights.of(walk)) if tlb is None else (tlb, int(cpu.tlb.flags[slot]))
    physical = None if used is None or used < 0 else used + inside
    line, dirty = _line(cpu, address, physical)
    memory = None
    if physical is not None and kernel.memory.place(physical) >= 0:
        memory = kernel.memory.read(physical, WORD)
    gives = line if line is not None and flags & CACHED else memory
    return CpuView(
        place=place,
        address=address,
        cpu=cpu.number,
        process=process,
        tlb=tlb,
        tables=walk.physical,
        line=line,
        dirty=dirty,
        memory=memory,
        gives=gives if physical is not None and flags & READ else None,
        stale=tlb is not None and tlb != (-1 if truth is None else truth),
    )


def _line(cpu: Cpu, address: int, physical: int | None) -> tuple[bytes | None, bool]:
    """Return the bytes a CPU's cache has for an address, and whether they are dirty."""
    cache = cpu.cache
    if cache is None or (physical is None and cache.kind.kind != "vivt"):
        return None, False
    data = cache.peek(address, WORD, physical or 0)
    if data is None:
        return None, False
    row = address // cache.line & cache.sets - 1
    key = address // cache.line if cache.kind.kind == "vivt" else (physical or 0) // cache.line
    return data, bool(cache.dirty[row][cache.keys[row] == key].any())
