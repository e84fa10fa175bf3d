"""Time what CPUs do: words through a warm TLB, and long reads.

Run by ``tox run -e bench``; the ordinary tests leave this out.
"""

import statistics
import time

import pytest

from vmcore import Kernel

WORDS, MIB = 100_000, 1 << 20


def median(work, repeats=5):
    def once():
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return statistics.median(once() for _ in range(repeats))


@pytest.mark.parametrize("name", ["i386-highmem", "x86_64", "armv5", "armv7"])
def test_words_through_a_warm_tlb(name):
    k = Kernel(name)
    address, cpu = k.vmalloc(k.page_size), k.cpu

    def load():
        for _ in range(WORDS):
            cpu.load(address, 4)

    def store():
        for _ in range(WORDS):
            cpu.store(address, b"word")

    cpu.load(address, 4)
    cpu.store(address, b"word")
    rates = [WORDS / median(work) for work in (load, store)]
    print(f"\n{name}: {rates[0]:,.0f} loads and {rates[1]:,.0f} stores of a word per second; limit 200,000")
    assert min(rates) >= 200_000


@pytest.mark.parametrize("name", ["i386-highmem", "x86_64", "armv5", "armv7"])
def test_vread_of_16_mib(name):
    k = Kernel(name)
    address = k.vmalloc(16 * MIB)
    k.vwrite(address, bytes(range(256)) * (16 * MIB // 256))
    rate = 16 / median(lambda: k.vread(address, 16 * MIB))
    print(f"\n{name}: vread of 16 MiB at {rate:,.0f} MiB/s; limit 200")
    assert rate >= 200
