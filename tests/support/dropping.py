"""Plugins that drop one flush, and a round of work in which every flush matters to somebody."""

import numpy as np

from vmcore.flags import GFP_KERNEL, VM
from vmcore.hookspecs import hookimpl

FLUSHES = ("flush_cache_vmap", "flush_cache_vunmap", "flush_tlb_kernel_range")


def nothing(kernel, cpu, start, end):
    """Flush nothing."""


class NoCacheFlushOnMap:
    @hookimpl(wrapper=True)
    def vmcore_flush_cache_vmap(self, arch):
        yield
        return nothing


class NoCacheFlushOnUnmap:
    @hookimpl(wrapper=True)
    def vmcore_flush_cache_vunmap(self, arch):
        yield
        return nothing


class NoTlbFlush:
    @hookimpl(wrapper=True)
    def vmcore_flush_tlb_kernel_range(self, arch):
        yield
        return nothing


DROPPING = dict(zip(FLUSHES, (NoCacheFlushOnMap, NoCacheFlushOnUnmap, NoTlbFlush), strict=True))


def linear(k, frame):
    """Return the address of a lowmem frame in the linear map."""
    return (frame << k.page_shift) - k.layout.phys_offset + k.layout.page_offset


def frames_apart(k):
    """Return two frames whose linear addresses and VMALLOC_START have TLB slots of their own."""
    mask, shift = k.arch.hardware.tlb.entries - 1, k.page_shift
    frames = k.alloc_pages(8, GFP_KERNEL, -1)
    taken: set[int] = {k.layout.vmalloc_start >> shift & mask}
    kept: list[int] = []
    for n, frame in enumerate(frames.tolist()):
        slot = linear(k, frame) >> shift & mask
        if slot not in taken and len(kept) < 2:
            taken.add(slot)
            kept.append(n)
    k.free_pages(np.delete(frames, kept))
    return frames[kept]


def write(cpu, address, data):
    """Store to a line that was loaded before, so that it may stay in the cache."""
    cpu.load(address, 1)
    cpu.store(address, data)


def work(k):
    """Hand two frames to and fro between their linear and their vmalloc addresses, on every CPU.

    Returns:
        What was read, and what a coherent machine reads.
    """
    read, wanted = [], []

    def expect(address, data):
        for cpu in k.cpus:
            with k.on_cpu(cpu):
                read.append(cpu.load(address, len(data)))
            wanted.append(data)

    frames = frames_apart(k)
    first, second = frames[:1], frames[1:]
    for n, frame in enumerate(frames.tolist()):
        write(k.cpu, linear(k, frame), b"linear %d" % n)
    at = k.vmap(first, 1, int(VM.MAP), k.page_kernel)
    expect(at, b"linear 0")
    write(k.cpu, at, b"vmapped!")
    expect(at, b"vmapped!")
    k.vunmap(at)
    expect(linear(k, int(frames[0])), b"vmapped!")
    assert k.vmap(second, 1, int(VM.MAP), k.page_kernel) == at
    expect(at, b"linear 1")
    k.vunmap(at)
    k.free_pages(frames)
    return read, wanted
