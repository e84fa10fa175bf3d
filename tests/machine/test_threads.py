"""Eight threads on one kernel: the list, the tables and the allocators stay whole."""

import random
import sys
import threading

import pytest

from vmcore.flags import VM

THREADS, OPERATIONS = 8, 10_000


@pytest.fixture
def _eager():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def work(k, number):
    """Do random operations on areas of this thread's own, and free them all."""
    rng, page = random.Random(number), k.arch.page_size
    mine, mapped = [], []
    mark = bytes([number + 1]) * 64
    for _ in range(OPERATIONS):
        choice = rng.random()
        if choice < 0.35 and len(mine) < 40:
            addr = k.vmalloc(rng.randrange(1, 5 * page))
            assert k.vwrite(addr + page - 32, mark) >= 32
            k.vwrite(addr, mark)
            mine.append(addr)
        elif choice < 0.65 and mine:
            addr = mine.pop(rng.randrange(len(mine)))
            assert k.vread(addr, 64) == mark
            k.vfree(addr)
        elif choice < 0.75 and mine and len(mapped) < 10:
            frames = k.find_vm_area(mine[-1]).pages
            mapped.append((k.vmap(frames, 1, VM.MAP, k.page_kernel), frames[0], mine[-1]))
        elif choice < 0.85 and mapped:
            addr, frame, behind = mapped.pop()
            if behind in mine and k.vmalloc_to_pfn(behind) == frame:  # it was not freed in between
                assert k.vread(addr, 64) == mark
            k.vunmap(addr)
        elif mine:
            addr = rng.choice(mine)
            assert k.vread(addr, 64) == mark
            assert k.vmalloc_to_pfn(addr) == k.find_vm_area(addr).pages[0]
    for addr, _, _ in mapped:
        k.vunmap(addr)
    for addr in mine:
        k.vfree(addr)


@pytest.mark.usefixtures("_eager")
def test_eight_threads(kernel):
    k = kernel("i386-highmem", ram="512M")
    failures = []

    def run(number):
        try:
            work(k, number)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    k.check()
    assert (len(k.vmlist), k.slab.live_objects, k.slab.live_bytes) == (0, 0, 0)
    assert k.pages.pages_in_use == sum(k.init_mm.tables.values())
    assert (len(k.init_mm.entries()[0]), k.dmesg, k.warnings, k.dead) == (0, [], [], None)
    counts = k.flush_counts
    assert counts["flush_cache_vunmap"].calls == counts["flush_tlb_kernel_range"].calls
    assert counts["flush_cache_vmap"].calls == counts["flush_cache_vunmap"].calls > THREADS * OPERATIONS / 4
