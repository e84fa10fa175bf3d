"""Physical memory: sparse, byte exact, with banks and holes."""

import mmap
import resource
from pathlib import Path

import numpy as np
import pytest

from vmcore.errors import BusError
from vmcore.memory import physical as module
from vmcore.memory.physical import PhysicalMemory
from vmcore.units import Bank

MIB, GIB = 1 << 20, 1 << 30
BANKS = (Bank(0x1000, 0x5000), Bank(0x8000, 0x9000), Bank(0x20000, 0x24000))


@pytest.fixture(params=[False, True], ids=["whole span", "packed"])
def memory(request):
    return PhysicalMemory(BANKS, 12, packed=request.param)


def resident():
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_64_gib_cost_what_is_touched():
    before = resident()
    memory = PhysicalMemory((Bank(0, 64 * GIB),), 12)
    memory.write(0x123456, b"low")
    memory.write(64 * GIB - 4, b"last")
    assert memory.read(64 * GIB - 4, 4) == b"last"
    assert memory.read(32 * GIB, 4096) == bytes(4096)
    assert resident() - before < 16 * MIB


def test_new_memory_is_zero(memory):
    for bank in BANKS:
        assert memory.read(bank.start, bank.size) == bytes(bank.size)


def test_the_last_byte_of_every_bank_is_its_own(memory):
    for n, bank in enumerate(BANKS):
        memory.write(bank.start, bytes([n + 1]))
        memory.write(bank.end - 1, bytes([n + 0x11]))
    found = [(memory.read(b.start, 1)[0], memory.read(b.end - 1, 1)[0]) for b in BANKS]
    assert found == [(1, 0x11), (2, 0x12), (3, 0x13)]


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0, 1),
        (0xFFF, 1),
        (0x5000, 1),
        (0x7FFF, 1),
        (0x4FFF, 2),
        (0x24000, 1),
        (0x8800, 0x1000),
        (1 << 70, 1),
        (-1, 1),
    ],
)
def test_a_hole_is_a_bus_error_that_names_the_banks(memory, address, length):
    text = (
        f"physical address {address:#x}: no RAM there; the banks are 0x1000-0x5000, 0x8000-0x9000, 0x20000-0x24000"
    )
    with pytest.raises(BusError) as read:
        memory.read(address, length)
    with pytest.raises(BusError) as write:
        memory.write(address, bytes(length))
    assert (str(read.value), str(write.value)) == (text, text)


def test_offsets_of_many_addresses_are_those_of_each(memory):
    addresses = np.array([0x1000, 0x4FFF, 0x8000, 0x23FFF, 0x20008], np.int64)
    assert memory.offsets(addresses).tolist() == [memory.offset(int(a)) for a in addresses]


@pytest.mark.parametrize("bad", [0, 0x5000, 0x7FFF, 0x24000])
def test_one_bad_address_among_many_is_a_bus_error(memory, bad):
    with pytest.raises(BusError, match=f"physical address {bad:#x}: no RAM"):
        memory.offsets(np.array([0x1000, bad, 0x8000], np.int64))


@pytest.mark.parametrize("bad", [0xFFF, 0x2000])
def test_one_bad_address_in_a_single_bank_is_a_bus_error(bad):
    memory = PhysicalMemory((Bank(0x1000, 0x2000),), 12)
    with pytest.raises(BusError, match=f"{bad:#x}: no RAM there; the banks are 0x1000-0x2000"):
        memory.offsets(np.array([0x1000, bad], np.int64))


def test_frames_that_are_ram(memory):
    frames = np.array([0, 1, 4, 5, 7, 8, 9, 0x1F, 0x20, 0x23, 0x24, -1, 1 << 40], np.int64)
    expected = [False, True, True, False, False, True, False, False, True, True, False, False, False]
    assert (memory.places(frames << memory.page_shift) >= 0).tolist() == expected


def test_rows_of_pages_are_frames(memory):
    memory.pages[memory.page_rows(np.array([0x21, 8, 2], np.int64))] = np.array([[1], [2], [3]], np.uint8)
    assert [memory.read(a, 4096) for a in (0x21000, 0x8000, 0x2000)] == [b"\1" * 4096, b"\2" * 4096, b"\3" * 4096]


@pytest.mark.parametrize(("size", "value"), [(4, 0x89ABCDEF), (8, 0x0123456789ABCDEF)])
def test_words_are_little_endian(memory, size, value):
    memory.store(0x8010, value, size)
    assert memory.read(0x8010, 8) == value.to_bytes(size, "little") + bytes(8 - size)
    assert memory.load(0x8010, size) == value
    memory.write(0x23FF8, bytes(range(8)))
    assert memory.load(0x23FF8, size) == int.from_bytes(bytes(range(size)), "little")


@pytest.mark.parametrize("size", [4, 8])
def test_a_word_in_a_hole_is_a_bus_error(memory, size):
    with pytest.raises(BusError, match="0x6000: no RAM"):
        memory.load(0x6000, size)
    with pytest.raises(BusError, match="0x6000: no RAM"):
        memory.store(0x6000, 1, size)


def test_arrays_and_words_are_the_same_memory(memory):
    memory.store(0x1008, 0x1122334455667788, 8)
    at = memory.offset(0x1008)
    assert (memory.array32[at >> 2], memory.array64[at >> 3]) == (0x55667788, 0x1122334455667788)
    assert (memory.words32[at + 4 >> 2], memory.words64[at >> 3]) == (0x11223344, 0x1122334455667788)


def test_packed_banks_take_no_room_for_holes():
    packed = PhysicalMemory(BANKS, 12, packed=True)
    assert (len(packed.buffer), packed.pages.shape) == (0x9000, (9, 4096))
    assert len(PhysicalMemory(BANKS, 12).buffer) == 0x23000


def test_a_span_the_host_refuses_is_packed():
    far = PhysicalMemory((Bank(0, 0x1000), Bank((1 << 62), (1 << 62) + 0x2000)), 12)
    far.write((1 << 62) + 0x1FFF, b"x")
    assert (len(far.buffer), far.buffer[-1:]) == (0x3000, b"x")


def test_more_ram_than_the_host_can_reserve():
    with pytest.raises(MemoryError, match=r"cannot reserve .* of address space for RAM: .*; ask for less"):
        PhysicalMemory((Bank(0, 1 << 62),), 12)


def test_no_bank():
    with pytest.raises(BusError, match="found no bank, expected at least one"):
        PhysicalMemory((), 12)


@pytest.mark.parametrize("page_shift", [12, 13])
@pytest.mark.parametrize("step", [1, -1, 3])
@pytest.mark.parametrize("count", [1, 3, 64])
def test_zeroed_frames_and_no_others(page_shift, step, count):
    pages = 256
    memory = PhysicalMemory((Bank(0, pages << page_shift),), page_shift)
    memory.pages[:] = 0xA5
    frames = np.arange(20, 20 + count, dtype=np.int64)[::step]
    if step == 3:
        frames = np.arange(20, 20 + 3 * count, 3, dtype=np.int64)
    memory.zero_frames(frames)
    zero = (memory.pages == 0).all(axis=1)
    assert np.flatnonzero(zero).tolist() == sorted(frames.tolist())
    assert (memory.pages[~zero] == 0xA5).all()


def test_zeroed_frames_across_banks(memory):
    memory.pages[:] = 0xFF
    memory.zero_frames(np.array([8, 0x20, 2], np.int64))
    zero = [f for f in (1, 2, 3, 4, 8, 0x20, 0x21, 0x22, 0x23) if memory.read(f << 12, 4096) == bytes(4096)]
    assert zero == [2, 8, 0x20]


def test_a_long_run_gives_its_memory_back():
    memory = PhysicalMemory((Bank(0, 256 * MIB),), 12)
    memory.pages[:] = 1
    full = resident()
    memory.zero_frames(np.arange(memory.pages.shape[0], dtype=np.int64))
    assert full - resident() > 200 * MIB
    assert memory.read(128 * MIB, 16) == bytes(16)


def test_where_python_has_no_name_for_it_the_memory_is_still_not_reserved():
    assert getattr(mmap, "MAP_NORESERVE", 0x4000) == module._NORESERVE
