"""The checker beside a slow model of the bytes last stored: a load is reported exactly when a byte of it is old.

The model knows no cache and no TLB. It keeps, for every byte of a few frames, the value last stored, and where
each frame is mapped. Every store has values of its own, and frames have no value in common, so an old byte, or
one of another frame, always differs.
"""

import random

import pytest
from attrs import evolve
from vmcore_arches.arm import armv5, armv7

from tests.support.dropping import DROPPING, FLUSHES, linear
from vmcore.coherence.report import STALE_LINE, STALE_TRANSLATION
from vmcore.errors import PageFault
from vmcore.flags import GFP, GFP_KERNEL, VM

SEEDS = 2
FRAMES, VALUES = 3, 84  # values of one byte: a frame's own, and 0 for a page that the kernel cleared


def cached(record, **changes):
    """Return a record with another data cache: a small one, so that lines are driven out."""
    cache = evolve(record.hardware.cache, **{"size": 1 << 10, "ways": 2, **changes})
    return evolve(record, hardware=evolve(record.hardware, cache=cache))


VIPT = evolve(armv7.ARMV7, hardware=evolve(armv7.ARMV7.hardware, cache=armv7.ALIASING_VIPT))
CACHES = {
    "armv5": (armv5.ARMV5, 1),
    "small": (cached(armv5.ARMV5), 1),
    "by frame": (cached(armv5.ARMV5, writes_back_by="physical"), 1),
    "write allocate": (cached(armv5.ARMV5, write_allocate=True), 1),
    "colours": (cached(VIPT, size=16 << 10), 1),
    "colours, 2 CPUs": (cached(VIPT, size=16 << 10), 2),
    "colours, 2 CPUs, write allocate": (cached(VIPT, size=16 << 10, write_allocate=True), 2),
}


class Model:
    """What every byte of the frames must be, and which frames are mapped where."""

    def __init__(self, k, seed):
        self.k, self.random, self.page = k, random.Random(seed), k.page_size
        self.frames = k.alloc_pages(FRAMES, GFP_KERNEL, -1)
        self.bytes = {frame: bytearray(self.page) for frame in self.frames.tolist()}
        self.stores = dict.fromkeys(self.bytes, 0)
        self.maps = {}  # address: frames
        self.cleared = False

    def value(self, frame):
        """Return a value that no byte of any frame ever had."""
        self.stores[frame] += 1
        return 1 + VALUES * list(self.bytes).index(frame) + self.stores[frame]

    def span(self):
        """Choose bytes of a mapping; return the address, and (frame, first, end) of each page."""
        address = self.random.choice(sorted(self.maps))
        frames = self.maps[address]
        near = self.random.randrange(len(frames) + 1) * self.page + self.random.randint(-70, 70)
        start = min(max(near, 0), len(frames) * self.page - 1)
        size = min(self.random.choice([1, 4, 4, 8, 40, 100]), len(frames) * self.page - start)
        parts = []
        for n, frame in enumerate(frames):
            first, end = max(start - n * self.page, 0), min(start + size - n * self.page, self.page)
            if first < end:
                parts.append((frame, first, end))
        return address + start, parts

    def wanted(self, parts):
        return b"".join(bytes(self.bytes[frame][first:end]) for frame, first, end in parts)

    def fresh(self, parts):
        """Return bytes to store to parts: each of a value that is new in its frame."""
        return b"".join(bytes([self.value(frame)]) * (end - first) for frame, first, end in parts)

    def keep(self, parts, data):
        for frame, first, end in parts:
            self.bytes[frame][first:end], data = data[: end - first], data[end - first :]

    def full(self):
        return max(self.stores.values()) >= VALUES - FRAMES

    def map(self, prot):
        """Map one to three frames, perhaps one of them twice."""
        frames = self.random.choices(self.frames.tolist(), k=self.random.choice([1, 1, 2, 3]))
        self.maps[self.k.vmap(frames, len(frames), int(VM.MAP), prot)] = frames

    def unmap(self, address):
        self.k.vunmap(address)
        return self.maps.pop(address)


def reported(k, kind, act):
    """Return what an action returns, and whether the checker found a kind of fault in it."""
    before = k.coherence.found[kind]
    result = act()
    return result, k.coherence.found[kind] > before


class Lines(Model):
    """Frames with their linear mappings, and others, cached in all ways."""

    def __init__(self, k, seed):
        super().__init__(k, seed)
        self.stale = 0
        self.home = {linear(k, frame): [frame] for frame in self.bytes}
        self.maps.update(self.home)
        for address, (frame,) in self.home.items():
            parts = [(frame, 0, self.page)]
            k.cpu.store(address, data := self.fresh(parts))
            self.keep(parts, data)
        self.flush()
        self.prots = [k.page_kernel, k.page_kernel, k.page_kernel & ~0x4, k.page_kernel & ~0xC]

    def flush(self):
        for cpu in self.k.cpus:
            self.k.flush_cache_all(cpu.number)

    def step(self):
        k, others = self.k, sorted(self.maps.keys() - self.home.keys())
        choice = self.random.choices(
            ["load", "store", "map", "unmap", "flush", "clear", "switch"], [40, 40, 8, 6, 2, 1, 1]
        )[0]
        with k.on_cpu(self.random.choice(k.cpus)) as cpu:
            if choice == "load":
                address, parts = self.span()
                size = sum(end - first for _, first, end in parts)
                found, told = reported(k, STALE_LINE, lambda: cpu.load(address, size))
                assert told is (found != self.wanted(parts)), (hex(address), found, self.wanted(parts))
                self.stale += told
            elif choice == "store":
                address, parts = self.span()
                cpu.store(address, data := self.fresh(parts))
                self.keep(parts, data)
            elif choice == "map" and len(others) < 4:
                self.map(self.random.choice(self.prots))
            elif choice == "unmap" and others:
                self.unmap(self.random.choice(others))
            elif choice == "flush":
                k.flush_cache_all(cpu.number)
            elif choice == "clear" and not self.cleared:
                self.clear(self.random.randrange(FRAMES))
            elif choice == "switch":
                k.switch_mm(cpu, None)

    def clear(self, n):
        """Have the kernel clear a frame: free it, and allocate it zeroed."""
        self.cleared = True
        self.k.free_pages(self.frames[n : n + 1])
        again = self.k.alloc_pages(1, GFP_KERNEL | int(GFP.ZERO), -1)
        assert again == self.frames[n]
        self.bytes[int(again[0])] = bytearray(self.page)


@pytest.mark.parametrize("dropped", [None, "flush_cache_vmap", "flush_cache_vunmap", "both"])
@pytest.mark.parametrize("machine", CACHES)
def test_a_load_is_reported_exactly_when_a_byte_of_it_is_old(kernel, machine, dropped):
    record, cpus = CACHES[machine]
    names = {None: [], "both": FLUSHES[:2]}.get(dropped, [dropped])
    stale = 0
    for seed in range(SEEDS):
        k = kernel(record, ram=16 << 20, cpus=cpus, check_coherence=True, listeners=[DROPPING[n]() for n in names])
        work = Lines(k, seed)
        while not work.full():
            work.step()
        stale += work.stale
    assert stale > SEEDS


class Pages(Model):
    """Frames mapped and unmapped under TLBs, in processes; what is written goes where a TLB says."""

    def __init__(self, k, seed):
        super().__init__(k, seed)
        self.mms, self.gone, self.stale = [None, *(k.mm_alloc() for _ in range(2))], [], 0
        for frame, data in self.bytes.items():
            data[:] = bytes([self.value(frame)]) * self.page
            k.memory.write(frame << k.page_shift, bytes(data))

    def step(self):
        k = self.k
        choice = self.random.choices(["load", "store", "map", "unmap", "gone", "switch"], [30, 30, 8, 7, 20, 2])[0]
        with k.on_cpu(self.random.choice(k.cpus)) as cpu:
            if choice == "load" and self.maps:
                address, parts = self.span()
                size = sum(end - first for _, first, end in parts)
                found, told = reported(k, STALE_TRANSLATION, lambda: cpu.load(address, size))
                assert told is (found != self.wanted(parts))
                self.stale += told
            elif choice == "store" and self.maps:
                self.store(cpu, *self.span())
            elif choice == "map" and len(self.maps) < 4:
                self.map(k.page_kernel)
            elif choice == "unmap" and self.maps:
                address = self.random.choice(sorted(self.maps))
                self.gone.append((address, len(self.unmap(address)) * self.page))
            elif choice == "gone" and self.gone:
                self.use_after_unmapping(cpu)
            elif choice == "switch":
                k.switch_mm(cpu, self.random.choice(self.mms))

    def store(self, cpu, address, parts):
        """Store, and look in RAM where that went."""
        data = self.fresh(parts)
        _, told = reported(self.k, STALE_TRANSLATION, lambda: cpu.store(address, data))
        self.keep(parts, data)
        right = True
        for frame in self.bytes:
            ram = self.k.memory.read(frame << self.k.page_shift, self.page)
            right &= ram == bytes(self.bytes[frame])
            self.bytes[frame][:] = ram
        assert told is not right
        self.stale += told

    def use_after_unmapping(self, cpu):
        address, size = self.random.choice(self.gone)
        address += self.random.randrange(size)
        if any(a <= address < a + len(frames) * self.page for a, frames in self.maps.items()):
            return
        before = self.k.coherence.found[STALE_TRANSLATION]
        try:
            cpu.load(address, 1)
        except PageFault:
            assert self.k.coherence.found[STALE_TRANSLATION] == before
        else:
            assert self.k.coherence.found[STALE_TRANSLATION] == before + 1
            self.stale += 1


@pytest.mark.parametrize("dropped", [None, "flush_tlb_kernel_range"])
@pytest.mark.parametrize("machine", ["i386", "i386-pae", "x86_64", "armv7", "armv7-highmem"])
def test_a_translation_is_reported_exactly_when_it_leads_to_another_frame(kernel, machine, dropped):
    listeners = [DROPPING[dropped]()] if dropped else []
    k = kernel(machine, ram=64 << 20, cpus=2, check_coherence=True, listeners=listeners)
    work = Pages(k, 1)
    while not work.full():
        work.step()
    assert (work.stale > 0) is (dropped is not None)
    assert k.coherence.found.total() == 0 or dropped
    if dropped:
        assert {report.missing for report in k.coherence.reports} == {dropped}
