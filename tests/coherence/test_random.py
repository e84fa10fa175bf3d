"""Ten thousand random operations on three processes and every CPU: with all flushes in place nobody is stale."""

import random

import numpy as np
import pytest
from attrs import evolve
from vmcore_arches.arm import armv7

from tests.support.dropping import linear
from vmcore.errors import PageFault
from vmcore.flags import GFP_KERNEL, VM
from vmcore.linking import weak

OPERATIONS = 10_000


class Work:
    """Random operations, and what every byte that was stored must be."""

    def __init__(self, k, seed):
        self.k, self.random = k, random.Random(seed)
        self.areas, self.gone = {}, []  # address: (vmap'ed frames or None, expected bytes)
        # without a vmalloc_fault of its own, a machine cannot give processes what is mapped later
        repairs = k.linked.vmalloc_fault is not weak.vmalloc_fault
        self.mms = [k.mm_alloc() for _ in range(3)] if repairs else []
        for cpu in k.cpus:
            k.switch_mm(cpu, self.random.choice([None, *self.mms]))

    def step(self):
        choice = self.random.random()
        with self.k.on_cpu(self.random.choice(self.k.cpus)):
            if choice < 0.12 and len(self.areas) < 60:
                self.allocate()
            elif choice < 0.16 and len(self.areas) < 60:
                self.map()
            elif choice < 0.26 and self.areas:
                self.release()
            elif choice < 0.34:
                self.k.switch_mm(self.k.cpu, self.random.choice([None, *self.mms]))
            elif choice < 0.36:
                self.k.free_vm_area(self.k.alloc_vm_area(self.k.page_size))
            elif choice < 0.40 and self.gone:
                self.use_after_free()
            elif self.areas:
                self.access()

    def allocate(self):
        size = self.random.choice([1, 1, 2, 3, 20]) * self.k.page_size
        address = self.k.vmalloc(size)
        self.areas[address] = None, bytearray(self.k.cpu.load(address, size))

    def map(self):
        """Fill frames by their linear addresses, and map them elsewhere."""
        k = self.k
        frames = k.alloc_pages(self.random.choice([1, 2]), GFP_KERNEL, -1)
        data = b""
        for frame in frames.tolist():
            data += (at := bytes(self.random.randbytes(k.page_size)))
            if k.arch.linear_map is not None:
                k.cpu.load(linear(k, frame), 1)
                k.cpu.store(linear(k, frame), at)
            else:
                k.memory.write(frame << k.page_shift, at)
        self.areas[k.vmap(frames, len(frames), int(VM.MAP), k.page_kernel)] = frames, bytearray(data)

    def release(self):
        k, address = self.k, self.random.choice(sorted(self.areas))
        frames, data = self.areas.pop(address)
        if frames is None:
            k.vfree(address)
        else:
            k.vunmap(address)
            for n, frame in enumerate(frames.tolist()):
                wanted = bytes(data[n * k.page_size : (n + 1) * k.page_size])
                if k.arch.linear_map is not None:
                    assert k.cpu.load(linear(k, frame), k.page_size) == wanted
            k.free_pages(frames)
        self.gone = [*self.gone[-20:], (address, len(data))]

    def use_after_free(self):
        address, size = self.random.choice(self.gone)
        address += self.random.randrange(size)
        if not any(start <= address < start + len(data) for start, (_, data) in self.areas.items()):
            with pytest.raises(PageFault):
                self.k.cpu.load(address, 1)

    def access(self):
        address = self.random.choice(sorted(self.areas))
        _, data = self.areas[address]
        at = self.random.randrange(len(data))
        size = self.random.choice([1, 4, 4, 8, 100, 5000])
        size = min(size, len(data) - at)
        if self.random.random() < 0.5:
            assert self.k.cpu.load(address + at, size) == data[at : at + size]
        else:
            new = self.random.randbytes(size)
            self.k.cpu.store(address + at, new)
            data[at : at + size] = new


def play(k, seed):
    work = Work(k, seed)
    for _ in range(OPERATIONS):
        work.step()
    for address, (_, data) in work.areas.items():
        assert k.vread(address, len(data)) == bytes(data)
    k.flush_cache_all(0)
    k.check()
    return work


def test_nothing_is_reported_with_every_flush_in_place(arch, kernel):
    k = kernel(arch, ram=64 << 20, cpus=min(arch.max_cpus, 4), check_coherence=True)
    play(k, seed=1)
    assert (k.coherence.reports, k.coherence.repeated) == ([], 0)
    faults = [cpu.faults for cpu in k.cpus]
    assert all(f.taken >= f.repaired for f in faults)


def test_nothing_is_reported_where_processes_have_tables_of_their_own(kernel):
    k = kernel("i386-pae", ram=64 << 20, cpus=4, platform="paravirt", check_coherence=True)
    play(k, seed=2)
    assert k.coherence.reports == []
    assert sum(cpu.faults.repaired for cpu in k.cpus) >= 1


def test_nothing_is_reported_with_page_colours_on_one_cpu(kernel):
    record = evolve(armv7.ARMV7, hardware=evolve(armv7.ARMV7.hardware, cache=armv7.ALIASING_VIPT))
    k = kernel(record, ram=64 << 20, check_coherence=True)
    play(k, seed=3)
    assert k.coherence.reports == []


def test_the_same_work_unwatched_reads_the_same(arch, kernel):
    k, watched = (
        kernel(arch, ram=64 << 20, cpus=min(arch.max_cpus, 4), check_coherence=check) for check in (False, True)
    )
    works = play(k, seed=4), play(watched, seed=4)
    assert works[0].areas.keys() == works[1].areas.keys()
    for machine in (k, watched):
        for cpu in machine.cpus:
            machine.flush_cache_all(cpu.number)
    assert np.array_equal(k.memory.pages, watched.memory.pages)
