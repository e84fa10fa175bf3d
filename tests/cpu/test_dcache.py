"""Data caches found by virtual address: geometry, write-back, write-through, and what two mappings see."""

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from vmcore_arches.arm import armv5, armv7

from tests.support.dropping import linear
from vmcore.architecture import Cache
from vmcore.cpu.dcache import DataCache
from vmcore.errors import ArchitectureError
from vmcore.flags import GFP_KERNEL, VM
from vmcore.memory.physical import PhysicalMemory
from vmcore.units import Bank

RAM = 64 << 20
LINE = 32
WRITE_THROUGH, UNCACHED = 0x0EB, 0x0E3  # Linux' words without BUFFERABLE, without both


def cache(**changes):
    """Return a small cache over a page of memory that holds its own offsets, and the memory."""
    memory = PhysicalMemory((Bank(0, 1 << 16),), 12)
    memory.write(0, bytes(n >> 5 & 0xFF for n in range(1 << 16)))
    kind = evolve(Cache(kind="vivt", colours=0, size=1 << 10, ways=2), **changes)
    return DataCache(kind, 0, memory, lambda lines: lines), memory


def same(address, size):
    """Return the line addresses of an access whose virtual and physical addresses are equal."""
    return np.arange(address & -LINE, address + size, LINE)


def load(c, address, size):
    return c.load(address, size, same(address, size)).tobytes()


def store(c, address, data, write_back=True):
    c.store(address, np.frombuffer(data, np.uint8), same(address, len(data)), write_back)


def test_a_load_fetches_lines_and_later_ones_come_from_the_cache():
    c, memory = cache()
    assert load(c, 40, 60) == memory.read(40, 60)
    assert len(c) == 3
    memory.write(0, bytes(256))
    assert load(c, 40, 60) == bytes([1] * 24 + [2] * 32 + [3] * 4)
    assert load(c, 128, 4) == bytes(4)


def test_a_set_has_its_ways_and_the_oldest_goes_first():
    c, memory = cache()  # 16 sets of 2 ways: lines 512 bytes apart share a set
    for address in (0, 512, 1024):
        load(c, address, 1)
    memory.write(0, bytes(1 << 16))
    assert [load(c, a, 1)[0] for a in (512, 1024)] == [16, 32]
    assert load(c, 0, 1) == b"\0"  # was driven out; fetching it drives out 512
    assert load(c, 512, 1) == b"\0"


def test_a_store_stays_in_the_cache_until_it_is_written_back():
    c, memory = cache()
    load(c, 64, 1)
    store(c, 70, b"dirty")
    assert memory.read(70, 5) == bytes([2] * 5)
    assert (load(c, 70, 5), int(c.dirty.sum())) == (b"dirty", 1)
    assert c.clean_and_invalidate() == 1
    assert (memory.read(70, 5), len(c), int(c.dirty.sum())) == (b"dirty", 0, 0)


def test_a_store_that_misses_goes_to_memory_unless_lines_are_allocated():
    for allocate, held in ((False, 0), (True, 1)):
        c, memory = cache(write_allocate=allocate)
        store(c, 100, b"new")
        assert (len(c), int(c.dirty.sum())) == (held, held)
        assert memory.read(100, 3) == (bytes([3] * 3) if allocate else b"new")
        assert load(c, 96, 8) == bytes([3] * 4) + b"new" + b"\3"


def test_write_through_keeps_both():
    c, memory = cache()
    load(c, 0, 1)
    store(c, 1, b"both", write_back=False)
    assert (memory.read(1, 4), load(c, 1, 4), int(c.dirty.sum())) == (b"both", b"both", 0)


def test_a_dirty_line_that_is_driven_out_reaches_memory():
    c, memory = cache()
    load(c, 0, 1)
    store(c, 0, b"x")
    load(c, 512, 1)
    load(c, 1024, 1)
    assert memory.read(0, 1) == b"x"


@pytest.mark.parametrize("ways", [1, 2, 4])
def test_an_access_longer_than_the_cache_leaves_its_end_there(ways):
    c, memory = cache(ways=ways)
    store(c, 0, b"y" * 5000)
    assert load(c, 0, 5000) == b"y" * 5000
    assert len(c) == 32
    assert sorted(c.virtual[c.keys >= 0].tolist()) == list(range(5000 // LINE - 31, 5000 // LINE + 1))
    assert load(c, 3, 40_000) == memory.read(3, 40_000)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["load", "store", "through", "flush"]),
            st.integers(0, 6000),
            st.binary(min_size=1, max_size=200),
        ),
        max_size=60,
    ),
    st.sampled_from(["vivt", "vipt aliasing"]),
    st.sampled_from([1, 2, 8]),
    st.booleans(),
)
def test_with_one_mapping_a_cache_is_never_seen(steps, kind, ways, allocate):
    c, memory = cache(kind=kind, ways=ways, write_allocate=allocate)
    wanted = bytearray(memory.read(0, 8192))
    for what, at, data in steps:
        if what == "load":
            assert load(c, at, len(data)) == bytes(wanted[at : at + len(data)])
        elif what == "flush":
            c.clean_and_invalidate()
            assert memory.read(0, 8192) == bytes(wanted)
        else:
            if not (what == "store" and len(data) < 8 and c.poke(at, data, at)):
                store(c, at, data, what == "store")
            wanted[at : at + len(data)] = data
        assert (found := c.peek(at, 4, at)) is None or found == bytes(wanted[at : at + 4])
        if len(data) % 2:
            assert (found := c.word(at, 4, at)) is None or found == bytes(wanted[at : at + 4])
    c.clean_and_invalidate()
    assert memory.read(0, 8192) == bytes(wanted)


# ---- on machines


def mapped(k, prot):
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    return k.vmap(frames, 1, int(VM.MAP), prot), int(frames[0]) << 12


def test_what_the_entry_says_about_caching_is_done(kernel):
    k = kernel("armv5", ram=RAM)
    for prot, held, dirty in ((k.page_kernel, 1, 1), (WRITE_THROUGH, 1, 0), (UNCACHED, 0, 0)):
        at, physical = mapped(k, prot)
        k.cpu.load(at, 1)
        k.cpu.store(at, b"word")
        assert (len(k.cpu.cache), int(k.cpu.cache.dirty.sum())) == (held, dirty)
        assert k.memory.read(physical, 4) == (bytes(4) if dirty else b"word")
        assert k.cpu.load(at, 4) == b"word"
        k.flush_cache_all(0)
        assert k.memory.read(physical, 4) == b"word"


def test_an_access_may_cross_from_cached_to_uncached(kernel):
    k = kernel("armv5", ram=RAM)
    frames = k.alloc_pages(2, GFP_KERNEL, -1)
    at = k.vmap(frames, 2, int(VM.MAP), k.page_kernel)
    k.init_mm.unmap(at + 0x1000, at + 0x2000)
    k.init_mm.map(at + 0x1000, at + 0x2000, frames[1:], UNCACHED)
    k.cpu.load(at, 0x2000)
    k.cpu.store(at + 0xFF0, b"a" * 16 + b"b" * 16)
    assert k.memory.read((int(frames[1]) << 12), 16) == b"b" * 16
    assert k.memory.read((int(frames[0]) << 12) + 0xFF0, 16) == bytes(16)
    assert k.cpu.load(at + 0xFF0, 32) == b"a" * 16 + b"b" * 16


def test_two_mappings_of_a_frame_hold_two_copies(kernel):
    k = kernel("armv5", ram=RAM)
    at, physical = mapped(k, k.page_kernel)
    home = linear(k, physical >> 12)
    assert (k.cpu.load(at, 4), k.cpu.load(home, 4)) == (bytes(4), bytes(4))
    k.cpu.store(at, b"here")
    assert (k.cpu.load(at, 4), k.cpu.load(home, 4), k.memory.read(physical, 4)) == (b"here", bytes(4), bytes(4))
    k.flush_cache_all(0)
    assert (k.cpu.load(at, 4), k.cpu.load(home, 4)) == (b"here", b"here")


def test_cpus_agree_on_lines_of_one_colour(kernel):
    record = evolve(armv7.ARMV7, hardware=evolve(armv7.ARMV7.hardware, cache=armv7.ALIASING_VIPT))
    k = kernel(record, ram=RAM, cpus=2)
    at, _ = mapped(k, k.page_kernel)
    one, two = k.cpus
    for n in range(4):
        assert one.load(at, 4) == two.load(at, 4)
        one.store(at, b"one%d" % n)
        assert two.load(at, 4) == b"one%d" % n
        two.store(at, b"two%d" % n)
        assert one.load(at, 4) == b"two%d" % n


def test_a_vivt_cache_is_cleaned_and_emptied_by_a_switch(kernel):
    k = kernel("armv5", ram=RAM)
    at, physical = mapped(k, k.page_kernel)
    mm = k.mm_alloc()
    k.cpu.load(at, 1)
    k.cpu.store(at, b"dirty")
    k.switch_mm(0, mm)
    assert (k.memory.read(physical, 5), len(k.cpu.cache)) == (b"dirty", 0)


def test_32_ways(kernel):
    k = kernel(evolve(armv5.ARMV5, hardware=armv5.XSCALE), ram=RAM)
    at = k.vmalloc(40 * 0x1000)
    data = bytes(range(256)) * 16 * 40
    k.vwrite(at, data)
    assert k.vread(at, len(data)) == data
    assert len(k.cpu.cache) == 1024


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "pipt"}, "cache.kind"),
        ({"line": 24}, "cache.line"),
        ({"line": 8192}, "cache.line"),
        ({"ways": 0}, "cache.ways"),
        ({"size": 3 << 10}, "cache.size"),
        ({"size": 1000}, "cache.size"),
        ({"writes_back_by": "magic"}, "cache.writes_back_by"),
    ],
)
def test_a_geometry_that_cannot_be(changes, field):
    hardware = armv5.ARM926
    with pytest.raises(ArchitectureError) as caught:
        evolve(armv5.ARMV5, hardware=evolve(hardware, cache=evolve(hardware.cache, **changes)))
    assert field in str(caught.value)


@pytest.mark.parametrize("entries", [0, 3, -4])
def test_a_tlb_that_cannot_be(entries):
    hardware = armv5.ARM926
    with pytest.raises(ArchitectureError, match=r"tlb\.entries.*a power of two"):
        evolve(armv5.ARMV5, hardware=evolve(hardware, tlb=evolve(hardware.tlb, entries=entries)))


# ---- what the kernel does past the caches


@pytest.mark.parametrize("colours", [False, True])
def test_a_page_that_is_cleared_is_zero_whatever_was_in_the_cache(kernel, colours):
    record = evolve(armv7.ARMV7, hardware=evolve(armv7.ARMV7.hardware, cache=armv7.ALIASING_VIPT))
    for check in (False, True):
        k = kernel(record if colours else "armv5", ram=RAM, check_coherence=check)
        (frame,) = k.alloc_pages(1, GFP_KERNEL, -1).tolist()
        for at in range(0, 4096, 8):
            k.cpu.load(linear(k, frame) + at, 1)
            k.cpu.store(linear(k, frame) + at, b"SECRET!!")
        k.free_pages(np.array([frame]))
        address = k.vmalloc_user(4096)
        k.flush_cache_all(0)
        assert k.cpu.load(linear(k, k.vmalloc_to_pfn(address)), 4096) == bytes(4096)
        assert k.vread(address, 4096) == bytes(4096)
        assert not check or k.coherence.reports == []
        k.check()


def test_a_page_that_becomes_a_table_is_not_written_over(kernel):
    k = kernel("armv5", ram=RAM)
    frames = k.alloc_pages(8, GFP_KERNEL, -1)
    for frame in frames.tolist():
        k.cpu.load(linear(k, frame), 1)
        k.cpu.store(linear(k, frame), b"\xaa" * 64)
    k.free_pages(frames)
    address = k.vmalloc(2 * 4096)
    k.flush_cache_all(0)
    k.check()
    assert len(k.vread(address, 8192)) == 8192


@pytest.mark.parametrize("kind", ["armv5", "colours"])
def test_a_frame_that_comes_twice_in_one_access_is_in_the_cache_once_for_each_colour(kernel, kind):
    record = evolve(armv7.ARMV7, hardware=evolve(armv7.ARMV7.hardware, cache=armv7.ALIASING_VIPT))
    k = kernel(record if kind == "colours" else "armv5", ram=RAM)
    frames = k.alloc_pages(4, GFP_KERNEL, -1)
    ring = k.vmap(frames[[0, 1, 2, 3, 0]], 5, int(VM.MAP), k.page_kernel)
    k.cpu.load(ring, 5 * 4096)
    held = k.cpu.cache.physical[k.cpu.cache.keys >= 0]
    copies = 0 if kind == "colours" else 4096 // LINE  # of the frame that comes twice
    assert (len(held), len(held) - len(np.unique(held))) == (4 * 4096 // LINE + copies, copies)
    data = bytes(n % 251 for n in range(4 * 4096 + 40))
    k.cpu.store(ring, data)
    k.flush_cache_all(0)
    if kind == "colours":
        assert k.cpu.load(ring, 40) == data[-40:]
        assert k.cpu.load(ring + 40, 4 * 4096 - 40) == data[40:-40]


def test_words_that_miss_are_fetched_and_stored_one_by_one(kernel):
    k, slow = kernel("armv5", ram=RAM), kernel("armv5", ram=RAM, check_coherence=True)
    rng = np.random.default_rng(5)
    base = [m.vmalloc(64 * 4096) for m in (k, slow)]
    for n in rng.integers(0, 64 * 1024, 3000).tolist():
        store = n % 3 == 0
        found = []
        for m, at in zip((k, slow), base, strict=True):
            if store:
                m.cpu.store(at + 4 * n, n.to_bytes(4, "little"))
            found.append(m.cpu.load(at + 4 * n, 4))
        assert found[0] == found[1]
    assert np.array_equal(k.cpu.cache.keys, slow.cpu.cache.keys)
    assert np.array_equal(k.cpu.cache.dirty, slow.cpu.cache.dirty)
