"""A data cache line by line: what each slot holds, where dirty ones go, and what other CPUs' caches do."""

import numpy as np
import pytest
from attrs import evolve

from vmcore.architecture import Cache
from vmcore.cpu.dcache import DataCache
from vmcore.memory.physical import PhysicalMemory
from vmcore.units import Bank

LINE, SETS, WAYS, SIZE = 32, 16, 2, 1 << 16
AWAY = 0x4000  # from a physical address to the virtual one used here
SKEW = 0x40  # two lines: virtual and physical line numbers fall into different sets


class Ram:
    """Memory whose bytes tell their address, and caches over it."""

    def __init__(self, size=SIZE, base=0):
        self.memory = PhysicalMemory((Bank(base, base + size),), 12)
        rng = np.random.default_rng(11)
        self.first = rng.integers(0, 256, size, np.uint8).tobytes()
        self.memory.write(base, self.first)
        self.base = base

    def cache(self, cpu=0, translate=None, **changes):
        kind = evolve(Cache(kind="vivt", colours=0, size=SETS * WAYS * LINE, ways=WAYS, line=LINE), **changes)
        return DataCache(kind, cpu, self.memory, translate or (lambda lines: lines - (AWAY >> 5)))

    def bytes_at(self, at, size):
        return self.memory.read(at, size)


def touched(address, size, away):
    return np.arange(address & -LINE, address + size, LINE) - away


def load(c, address, size, away=AWAY, **more):
    return c.load(address, size, touched(address, size, away), **more).tobytes()


def store(c, address, data, write_back=True, away=AWAY, **more):
    c.store(address, np.frombuffer(data, np.uint8), touched(address, len(data), away), write_back, **more)


def held(c):
    """Return (key, virtual line, physical line, dirty) of the slots in use, by set and way."""
    return {
        (s, w): (int(c.keys[s, w]), int(c.virtual[s, w]), int(c.physical[s, w]), bool(c.dirty[s, w]))
        for s, w in np.argwhere(c.keys >= 0).tolist()
    }


KINDS = ["vivt", "vipt aliasing"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_says_by_which_address_it_was_filled_and_from_where(kind):
    c = Ram().cache(kind=kind)
    at = 0x6000 + SKEW * 3 + 8
    assert load(c, at, 40, SKEW) == Ram().first[at - SKEW : at - SKEW + 40]
    v = at >> 5
    assert c.sets == SETS
    assert held(c) == {(n & SETS - 1, 0): (n if kind == "vivt" else n - 2, n, n - 2, False) for n in (v, v + 1)}
    load(c, at + SETS * LINE, 1, SKEW)
    n = v + SETS
    assert held(c)[v & SETS - 1, 1] == (n if kind == "vivt" else n - 2, n, n - 2, False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ways", [1, 2, 4])
def test_words_and_loads_leave_the_same_lines(kind, ways):
    """`word` is the fast path of `load`, `poke` of `store`: keys, order of replacement and bytes are the same."""
    plain, fast = Ram(), Ram()
    slow_cache, fast_cache = plain.cache(kind=kind, ways=ways), fast.cache(kind=kind, ways=ways)
    rng = np.random.default_rng(ways)
    for n, at in enumerate((rng.integers(0, 2048, 600) * 4 + 0x6000).tolist()):
        assert fast_cache.word(at, 4, at - SKEW) == load(slow_cache, at, 4, SKEW)
        if n % 3 == 0:
            data = n.to_bytes(4, "little")
            assert fast_cache.poke(at, data, at - SKEW) is True
            store(slow_cache, at, data, away=SKEW)
        assert held(fast_cache) == held(slow_cache)
        assert fast_cache.peek(at, 4, at - SKEW) == load(slow_cache, at, 4, SKEW)
    assert plain.bytes_at(0, SIZE) == fast.bytes_at(0, SIZE) != plain.first
    assert fast_cache.clean_and_invalidate() == slow_cache.clean_and_invalidate() > 0
    assert plain.bytes_at(0, SIZE) == fast.bytes_at(0, SIZE)


@pytest.mark.parametrize("base", [0, 0x100000])
def test_words_of_memory_that_does_not_begin_at_zero(base):
    ram = Ram(base=base)
    c, at = ram.cache(), 0xC000_0040
    assert c.word(at + 4, 8, base + 0x44) == ram.first[0x44:0x4C]
    assert c.poke(at + LINE, b"missed", base + 0x40 + LINE) is True
    assert ram.bytes_at(base + 0x60, 6) == b"missed"
    assert load(c, at, 64, at - 0x40 - base) == ram.first[0x40:0x60] + b"missed" + ram.first[0x66:0x80]


# ---- one line at a time


def test_peek_fetches_nothing_and_ends_at_the_line():
    ram = Ram()
    c = ram.cache()
    assert c.peek(0x6000, 4, 0x2000) is None
    assert len(c) == 0
    load(c, 0x6000, 64)
    assert c.peek(0x6000, 32, 0x2000) == ram.first[0x2000:0x2020]
    assert c.peek(0x601F, 1, 0x201F) == ram.first[0x201F:0x2020]
    assert c.peek(0x6004, 28, 0x2004) == ram.first[0x2004:0x2020]
    assert c.peek(0x6004, 29, 0x2004) is None
    assert c.peek(0x6040, 1, 0x2040) is None
    assert len(c) == 2


def test_a_word_of_two_lines_is_not_taken():
    c = Ram().cache()
    for address, size in ((0x601E, 4), (0x601F, 2), (0x6001, 32)):
        assert c.word(address, size, address - AWAY) is None
    assert len(c) == 0
    assert c.word(0x601C, 4, 0x201C) == Ram().first[0x201C:0x2020]
    assert c.word(0x6020, 1, 0x2020) == Ram().first[0x2020:0x2021]
    assert (c.word(0x601E, 4, 0x201E), len(c)) == (None, 2)


@pytest.mark.parametrize("allocate", [False, True])
def test_a_poke_is_of_one_line_and_stays_in_it(allocate):
    ram = Ram()
    c = ram.cache(write_allocate=allocate)
    assert c.poke(0x601E, b"four", 0x201E) is False
    assert c.poke(0x601F, b"ab", 0x201F) is False
    assert ram.bytes_at(0, SIZE) == ram.first
    assert c.poke(0x601C, b"four", 0x201C) is not allocate
    assert ram.bytes_at(0x201C, 4) == (ram.first[0x201C:0x2020] if allocate else b"four")
    assert len(c) == 0
    load(c, 0x6000, 1)
    assert not c.dirty.any()
    assert c.poke(0x601E, b"four", 0x201E) is False
    assert not c.dirty.any()
    assert c.poke(0x601C, b"five", 0x201C) is True
    assert [dirty for *_, dirty in held(c).values()] == [True]
    assert c.peek(0x6018, 8, 0x2018) == ram.first[0x2018:0x201C] + b"five"
    assert ram.bytes_at(0x201C, 4) == (ram.first[0x201C:0x2020] if allocate else b"four")


def test_a_line_under_another_colour_is_not_here():
    ram = Ram()
    c = ram.cache(kind="vipt aliasing")
    load(c, 0x6000, 4)
    assert c.peek(0x6020, 4, 0x2000) is None
    assert c.word(0x6024, 4, 0x2004) == ram.first[0x2004:0x2008]
    assert c.poke(0x6024, b"mine", 0x2004)
    assert c.peek(0x6004, 4, 0x2004) == ram.first[0x2004:0x2008]
    assert sorted((v << 5, dirty) for _, v, _, dirty in held(c).values()) == [(0x6000, False), (0x6020, True)]


def test_only_the_slot_that_was_poked_is_dirty():
    ram = Ram()
    c = ram.cache()
    for at in (0x6000, 0x6200, 0x6020):
        load(c, at, 1)
    assert c.poke(0x6204, b"x", 0x2204)
    assert [key << 5 for key, *_, dirty in held(c).values() if dirty] == [0x6200]
    assert c.clean_and_invalidate() == 3
    assert ram.bytes_at(0x2204, 1) == b"x"
    assert ram.bytes_at(0, 0x2204) == ram.first[:0x2204]
    assert ram.bytes_at(0x2205, 0x1000) == ram.first[0x2205:0x3205]


def test_an_empty_cache_has_nothing_to_write_back():
    c = Ram().cache()
    assert (c.clean_and_invalidate(), len(c)) == (0, 0)
    c.word(0x6000, 1, 0x2000)
    assert (c.clean_and_invalidate(), len(c)) == (1, 0)
    assert c.clean_and_invalidate() == 0
    load(c, 0x6000, 33)
    assert (c.clean_and_invalidate(), c.clean_and_invalidate()) == (2, 0)


def test_slots_in_which_nothing_is_say_so():
    ram = Ram()
    c = ram.cache()
    assert {name: set(getattr(c, name).ravel().tolist()) for name in ("keys", "virtual", "physical")} == {
        "keys": {-1}, "virtual": {-1}, "physical": {-1},
    }  # fmt: skip
    load(c, 0x6000, 100)
    c.clean_and_invalidate()
    assert set(c.keys.ravel().tolist()) == {-1}


@pytest.mark.parametrize("kind", KINDS)
def test_line_0_is_a_line_like_any_other(kind):
    for away in (0, -0x4000) if kind == "vivt" else (0,):
        ram = Ram()
        c = ram.cache(kind=kind, writes_back_by="physical")
        store(c, 0, b"x", away=away)
        load(c, 0, 1, away)
        store(c, 0, b"dirty", away=away)
        assert (len(c), c.clean_and_invalidate(), len(c)) == (1, 1, 0)
        assert ram.bytes_at(-away, 6) == b"dirty" + ram.first[5 - away : 6 - away]
        load(c, 0, 1, away)
        store(c, 0, b"DIRTY", away=away)
        c.forget(np.array([-away >> 12]), 12, away)
        assert (len(c), ram.bytes_at(-away, 5)) == (0, b"dirty")


# ---- many lines


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("write_back", [True, False])
@pytest.mark.parametrize("allocate", [True, False])
def test_a_store_over_lines_that_are_here_and_lines_that_are_not(kind, write_back, allocate):
    ram = Ram()
    c = ram.cache(kind=kind, write_allocate=allocate)
    load(c, 0x6020, 32)
    load(c, 0x6080, 32)
    data = bytes(range(200, 255)) * 3
    store(c, 0x600A, data, write_back)
    wanted = bytearray(ram.first)
    wanted[0x200A : 0x200A + len(data)] = data
    assert load(c, 0x6000, 0xC0) == bytes(wanted[0x2000:0x20C0])
    if not write_back:
        assert ram.bytes_at(0, SIZE) == bytes(wanted)
        assert not c.dirty.any()
    elif not allocate:
        assert sorted(v << 5 for _, v, _, dirty in held(c).values() if dirty) == [0x6020, 0x6080]
        wanted[0x2020:0x2040], wanted[0x2080:0x20A0] = ram.first[0x2020:0x2040], ram.first[0x2080:0x20A0]
        assert ram.bytes_at(0, SIZE) == bytes(wanted)
    else:
        assert int(c.dirty.sum()) == 6
        assert ram.bytes_at(0, SIZE) == ram.first


@pytest.mark.parametrize("skip", [0, 5])
def test_an_access_of_more_lines_than_one_step(skip):
    size = 1 << 20
    ram = Ram(size)
    c = ram.cache()
    more = (1 << 19) + 100
    assert load(c, AWAY + skip, more) == ram.first[skip : skip + more]
    assert len(c) == SETS * WAYS
    data = np.random.default_rng(1).integers(0, 256, more, np.uint8).tobytes()
    store(c, AWAY + skip, data)
    assert load(c, AWAY + skip, more) == data
    c.clean_and_invalidate()
    assert ram.bytes_at(0, size) == ram.first[:skip] + data + ram.first[skip + more :]


def test_a_frame_that_comes_twice_is_taken_line_by_line():
    ram = Ram()
    c = ram.cache(kind="vipt aliasing")
    physical = np.tile(np.arange(0x2000, 0x2040, LINE), 2)
    data = np.arange(128, dtype=np.uint8)
    for at in (0x6000, 0x6004):
        lines = physical if at == 0x6000 else np.append(physical, 0x2000)
        c.load(at, len(data), lines, True)
        c.store(at, data, lines, True, True)
    c.clean_and_invalidate()
    assert ram.bytes_at(0x2000, 4) in (bytes(data[-4:]), bytes(data[:4]))
    assert ram.bytes_at(0x2040, 64) == ram.first[0x2040:0x2080]


def test_the_ways_of_a_set_are_replaced_in_turn_also_by_long_loads():
    c = Ram().cache(ways=4, size=4 * SETS * LINE)
    stride = SETS * LINE
    for n in range(3):
        load(c, 0x6000 + n * stride, 1)
    load(c, 0x6000 + 3 * stride, 2 * stride + LINE)  # the set's lines 3, 4 and 5; of other sets 2 lines each
    assert [int(v) - 0x6000 // LINE for v in c.virtual[0]] == [4 * SETS, 5 * SETS, 2 * SETS, 3 * SETS]
    load(c, 0x6000 + 6 * stride, 1)
    assert [int(v) - 0x6000 // LINE for v in c.virtual[0]] == [4 * SETS, 5 * SETS, 6 * SETS, 3 * SETS]
    assert [(int(v) - 0x6020 // LINE) // SETS for v in c.virtual[1]] == [3, 4, -49, -49]


def test_of_a_long_access_the_end_stays_with_lines_that_were_here_before():
    c = Ram().cache()
    end = 0x6000 + 4 * SETS * WAYS * LINE
    for at in (end - LINE, end - SETS * LINE):
        load(c, at, 1)
    load(c, 0x6000, end - 0x6000)
    assert sorted(v << 5 for _, v, _, _ in held(c).values()) == list(range(end - SETS * WAYS * LINE, end, LINE))


# ---- where dirty lines go


@pytest.mark.parametrize(
    ("kind", "by", "follows"),
    [("vivt", "virtual", True), ("vivt", "physical", False), ("vipt aliasing", "virtual", False)],
)
def test_a_dirty_line_goes_where_its_address_leads_or_where_it_came_from(kind, by, follows):
    ram, leads = Ram(), {}

    def now(lines):
        return np.array([leads[n] for n in lines.tolist()])

    c = ram.cache(kind=kind, writes_back_by=by, translate=now)
    load(c, 0x6000, 96)
    store(c, 0x6000, b"A" * 32 + b"B" * 32 + b"C" * 32)
    leads |= {0x6000 >> 5: 0x5000 >> 5, 0x6020 >> 5: -1, 0x6040 >> 5: 0x5040 >> 5}
    assert c.clean_and_invalidate() == 3
    assert not c.dirty.any()
    wanted = bytearray(ram.first)
    if follows:
        wanted[0x5000:0x5020], wanted[0x5040:0x5060] = b"A" * 32, b"C" * 32
    else:
        wanted[0x2000:0x2060] = b"A" * 32 + b"B" * 32 + b"C" * 32
    assert ram.bytes_at(0, SIZE) == bytes(wanted)


def test_a_line_that_drives_out_a_dirty_one_does_not_take_its_bytes():
    for fetch in (lambda c, at: c.word(at, 1, at - AWAY), lambda c, at: load(c, at, 1)):
        ram = Ram()
        c = ram.cache(ways=1, size=SETS * LINE)
        load(c, 0x6000, 1)
        store(c, 0x6003, b"dirty")
        assert fetch(c, 0x6200) == ram.first[0x2200:0x2201]
        assert ram.bytes_at(0x2000, 9) == ram.first[0x2000:0x2003] + b"dirty" + ram.first[0x2008:0x2009]
        assert held(c) == {(0, 0): (0x6200 >> 5, 0x6200 >> 5, 0x2200 >> 5, False)}


# ---- frames the kernel clears


def test_forget_drops_the_lines_under_the_kernels_own_address():
    c = Ram().cache(size=8 << 10)
    for at, away in ((0x6000, AWAY), (0x6FE0, AWAY), (0x7000, AWAY), (0x9040, 0x7000)):
        load(c, at, 1, away)
        store(c, at, b"x", away=away)
    c.forget(np.array([2, 9]), 12, AWAY)
    kept = sorted((v << 5, dirty) for _, v, _, dirty in held(c).values())
    assert kept == [(0x7000, True), (0x9040, True)]  # of frame 3, and of frame 2 by another address
    assert int(c.dirty.sum()) == 2
    c.forget(np.array([3]), 12, AWAY)
    assert [v << 5 for _, v, _, _ in held(c).values()] == [0x9040]


def test_forget_drops_the_lines_of_the_same_colour():
    c = Ram().cache(kind="vipt aliasing", size=32 << 10)  # 512 sets: four colours of pages
    for at in (0x6000, 0xA020, 0x7040):
        load(c, at, 1, at - (0x2000 + (at & 0xFFF)))
        store(c, at, b"x", away=at - (0x2000 + (at & 0xFFF)))
    c.forget(np.array([1, 3]), 12, AWAY)
    assert len(c) == 3
    c.forget(np.array([2]), 12, AWAY)
    assert [(v << 5, dirty) for _, v, _, dirty in held(c).values()] == [(0x7040, True)]
    c.forget(np.array([2]), 12, 0x2000)
    assert len(c) == 1
    c.forget(np.array([2]), 12, 0x5000)
    assert len(c) == 0


# ---- other CPUs


def pair(**changes):
    ram = Ram()
    one, two = (ram.cache(cpu, **{"kind": "vipt aliasing", **changes}) for cpu in (0, 1))
    one.others, two.others = [two], [one]
    return ram, one, two


def test_a_load_has_the_others_write_back_only_what_it_lacks():
    ram, one, two = pair()
    load(one, 0x6020, 1)
    load(two, 0x6000, 96)
    store(two, 0x6000, b"new!")
    store(two, 0x6040, b"more")
    assert ram.bytes_at(0, SIZE) == ram.first
    assert load(one, 0x6000, 4) == b"new!"
    assert ram.bytes_at(0x2000, 4) == b"new!"
    assert ram.bytes_at(0x2040, 4) == ram.first[0x2040:0x2044]
    assert sorted(v << 5 for _, v, _, dirty in held(two).values() if dirty) == [0x6040]
    assert len(two) == 3
    assert load(one, 0x6000, 96)[64:68] == b"more"
    assert not two.dirty.any()


@pytest.mark.parametrize("allocate", [False, True])
def test_a_store_takes_the_lines_from_the_others(allocate):
    ram, one, two = pair(write_allocate=allocate)
    load(two, 0x6000, 128)
    store(two, 0x6000, b"new!")
    store(one, 0x6004, b"own " + bytes(24) + b"next")
    assert sorted(v << 5 for _, v, _, _ in held(two).values()) == [0x6040, 0x6060]
    assert not two.dirty.any()
    for c in (two, one):
        assert load(c, 0x6000, 40) == b"new!own " + bytes(24) + b"next" + ram.first[0x2024:0x2028]


def test_words_leave_it_to_loads_where_others_must_agree():
    ram, one, two = pair()
    assert one.word(0x6000, 4, 0x2000) is None
    assert len(one) == 0
    load(two, 0x6000, 1)
    assert one.poke(0x6000, b"x", 0x2000) is False
    assert ram.bytes_at(0, SIZE) == ram.first
    assert two.word(0x6000, 4, 0x2000) == ram.first[0x2000:0x2004]
    assert two.poke(0x6000, b"x", 0x2000) is True
    assert one.poke(0x6020, b"x", 0x2020) is True
    assert ram.bytes_at(0x2020, 1) == b"x"


def test_lines_of_another_colour_are_nobodys():
    """A copy in another set is not found by its physical line: that is the incoherence that flushes are for."""
    ram, one, two = pair()
    load(two, 0x6000, 1)
    store(two, 0x6000, b"dirty")
    assert load(one, 0x6020, 5, 0x4020) == ram.first[0x2000:0x2005]
    assert [dirty for *_, dirty in held(two).values()] == [True]


# ---- what the watcher is told


class Witness:
    """A watcher that writes down everything, arrays copied."""

    def __init__(self, c):
        self.told, c.watcher = [], self

    def lines_read(self, cache, virtual, physical, slots, data, asked):
        at = np.flatnonzero(asked)
        self.told.append(
            ("read", virtual.tolist(), physical.tolist(), slots.tolist(), data[asked].tobytes(), at.tolist())
        )

    def lines_fetched(self, cache, slots):
        self.told.append(("fetched", slots.tolist()))

    def lines_stored(self, cache, physical, slots, skip, data):
        self.told.append(("stored", physical.tolist(), slots.tolist(), skip, data.tobytes()))

    def lines_written_back(self, cache, slots, physical):
        self.told.append(("written back", slots.tolist(), physical.tolist()))


def slots_of(c, lines):
    """Return the slot of each virtual line."""
    found = c.virtual.ravel().tolist()
    return [found.index(line) for line in lines]


def test_the_watcher_hears_of_lines_that_are_here_first_and_then_of_those_that_are_fetched():
    ram = Ram()
    c = ram.cache()
    load(c, 0x6020, 32)
    store(c, 0x6020, b"dirty")
    witness = Witness(c)
    got = load(c, 0x6018, 80)  # 8 bytes, two whole lines, and 8 bytes
    first, lines = 0x6000 >> 5, [0x6000 >> 5, 0x6040 >> 5, 0x6060 >> 5]
    here = slots_of(c, [first + 1])
    missing = [line for line in lines if line << 5 < 0x6018 + 80]
    data = got[:8] + got[40:]
    inside = [*range(24, 32), *range(32, 64), *range(64, 64 + 8)]
    away = AWAY >> 5
    assert witness.told == [
        ("read", [first + 1], [first + 1 - away], here, got[8:40], list(range(32))),
        ("fetched", slots_of(c, missing)),
        ("read", missing, [line - away for line in missing], [-1] * len(missing), data, inside),
    ]
    witness.told.clear()
    assert load(c, 0x6018, 80) == got
    four = [first, first + 1, *missing[1:]]
    assert witness.told == [
        ("read", four, [line - away for line in four], slots_of(c, four), got, list(range(24, 104)))
    ]


def test_the_watcher_hears_of_stores_in_slots_and_in_memory():
    c = Ram().cache()
    load(c, 0x6020, 32)
    witness = Witness(c)
    store(c, 0x6010, bytes(range(40)))
    slot, away = slots_of(c, [0x6020 >> 5])[0], AWAY >> 5
    lines = [(0x6000 >> 5) - away, (0x6020 >> 5) - away]
    assert witness.told == [("stored", lines, [-1, slot], 16, bytes(range(40)))]
    c.clean_and_invalidate()
    assert witness.told[1:] == [("written back", [slot], lines[1:])]


@pytest.mark.parametrize("repeats", [False, True])
def test_the_watcher_hears_of_what_goes_past_the_cache(repeats):
    c, data = Ram().cache(), np.arange(40, dtype=np.uint8)
    physical = touched(0x6010, 40, AWAY)
    c.loaded_past(0x6010, data, physical)  # nobody to tell
    c.stored_past(0x6010, data, physical, repeats)
    witness = Witness(c)
    c.loaded_past(0x6010, data, physical)
    lines, of = [0x6000 >> 5, 0x6020 >> 5], [0x2000 >> 5, 0x2020 >> 5]
    assert witness.told == [("read", lines, of, [-1, -1], data.tobytes(), list(range(16, 56)))]
    witness.told.clear()
    c.stored_past(0x6010, data, physical, repeats)
    one_by_one = [
        ("stored", of[:1], [-1], 16, data[:16].tobytes()),
        ("stored", of[1:], [-1], 0, data[16:].tobytes()),
    ]
    assert witness.told == (one_by_one if repeats else [("stored", of, [-1, -1], 16, data.tobytes())])
    assert (len(c), c.load(0x6010, 1, physical[:1])[0]) == (0, Ram().first[0x2010])
