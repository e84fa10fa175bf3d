"""Damaged dumps: mutated headers and tables, files cut anywhere; a clear error or an honest partial dump.

500 mutations of each capture; ``VMCORE_MUTATIONS=10000`` for more, ``VMCORE_MUTATIONS_SEED`` for others.
"""

import gzip
import lzma
import os
import random
import resource
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from tests.support.dumps import RECORDS, capture
from vmcore.dump import open_dump
from vmcore.dump.root import find_root
from vmcore.errors import DumpError, RootError
from vmcore.paging.mmu import End, Mmu

MUTATIONS = int(os.environ.get("VMCORE_MUTATIONS", "500"))
SEED = int(os.environ.get("VMCORE_MUTATIONS_SEED", "1"))
SECONDS = 1.0  #: that any one may take; most take milliseconds
ROOM = 1 << 30  #: bytes of address space that reading damaged files may need
NUMBERS = (0, 1, 7, 0x38, 0xFFF, 0x1000, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 52, 1 << 60, 1 << 63, (1 << 64) - 1)


@contextmanager
def little_room():
    """Refuse memory beyond `ROOM` more than there is now."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Victim:
    """A capture's ELF file that is damaged and repaired in place."""

    def __init__(self, name, path, registry):
        found = capture(name)
        self.path, self.root, self.original = path, found.root, found.unpacked()
        self.arch = registry.architectures.get(RECORDS[name]) or registry.get("i386-pae")
        self.addresses = np.array([v for v, _ in found.rows()], np.uint64)[::7]
        path.write_bytes(self.original)
        with open_dump(path) as dump:
            self.places = np.concatenate([np.arange(b.start, b.end, 256) for b in dump.banks])
            self.expected = dump.words(self.places, 8)[0]
            self.headers_end = min(int(b) for b in (dump.runs.starts + dump.runs.deltas))
        self.file = path.open("r+b", buffering=0)

    def headers(self, rng):
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            width = rng.choice((1, 2, 4, 8, 8))
            end = 64 if rng.random() < 0.3 else self.headers_end  # the ELF header, or any
            at = rng.randrange(0, end - 8) & -width
            kind = rng.random()
            if kind < 0.4:
                data = (rng.choice(NUMBERS) & (1 << 8 * width) - 1).to_bytes(width, "little")
            elif kind < 0.7:
                data = rng.randbytes(width)
            else:
                data = bytes(b ^ (1 << rng.randrange(8)) for b in self.original[at : at + width])
            self.put(at, data)

    def tables(self, rng):
        """Change entries: to anything, to their own table, to the root, far away."""
        for _ in range(rng.choice((1, 4, 64))):
            at = rng.randrange(self.headers_end, len(self.original) - 8) & -8
            word = int.from_bytes(self.original[at : at + 8], "little")
            target = rng.choice((self.root, int(rng.choice(self.places)) & -4096, rng.getrandbits(52)))
            flags = rng.choice((word, 0x67, 0x1, 0x811, 0xE3)) & 0xFFF
            self.put(at, rng.choice((rng.getrandbits(64), target & ~0xFFF | flags)).to_bytes(8, "little"))

    def put(self, at, data):
        os.pwrite(self.file.fileno(), data, at)

    def cut(self, rng):
        self.file.truncate(rng.randrange(1, len(self.original)))

    def repair(self):
        self.put(0, self.original)

    def exercise(self):
        """Read what can be read in every way; return the dump's problems, or None where it is refused."""
        try:
            dump = open_dump(self.path)
        except DumpError:
            return None
        with dump:
            assert 0 < dump.size == sum(b.size for b in dump.banks)
            assert dump.size <= len(self.original) or dump.problems
            words, there = dump.words(self.places, 8)
            assert not words[~there].any()
            first = dump.banks[0]
            assert len(dump.read(first.start, min(first.size, 9))) == min(first.size, 9)
            rows, whole = dump.rows(self.places[:64] & -4096, 4096, 8)
            assert not rows[~whole].any()
            mmu = Mmu(self.arch, dump, self.root)
            walks = mmu.walk_many(self.addresses)
            for number in range(0, len(self.addresses), 29):
                walk = mmu.walk(int(self.addresses[number]))
                assert (walk.physical is None) == (walks.end[number] != End.MAPPED)
                assert mmu.translate(int(self.addresses[number])) == walk.physical
            with suppress(RootError):
                find_root(dump, self.arch, root=self.root)
            return dump.problems, words, there


@pytest.fixture
def victim(registry, tmp_path):
    """Return a function that makes a `Victim` of a capture."""
    made = []

    def make(name):
        made.append(Victim(name, tmp_path / "ram.elf", registry))
        return made[-1]

    yield make
    for one in made:
        one.file.close()


@pytest.mark.parametrize("name", RECORDS)
def test_random_mutations_give_a_clear_error_or_a_partial_dump(name, victim):
    one, slowest = victim(name), 0.0
    outcomes = {"refused": 0, "partial": 0, "read": 0}
    with little_room():
        for seed in range(SEED * 1_000_000, SEED * 1_000_000 + MUTATIONS):
            rng = random.Random(seed)
            for damage in rng.choice(((one.headers,), (one.headers,), (one.tables,), (one.headers, one.cut))):
                damage(rng)
            start = time.perf_counter()
            try:
                result = one.exercise()
            except Exception as error:
                raise AssertionError(f"{name}, seed {seed}: {error!r}") from error
            slowest = max(slowest, time.perf_counter() - start)
            outcomes["refused" if result is None else "partial" if result[0] else "read"] += 1
            one.repair()
    assert slowest < SECONDS
    assert min(outcomes.values()) > MUTATIONS // 50, outcomes


@pytest.mark.parametrize("name", RECORDS)
def test_a_file_cut_anywhere_never_gives_other_words(name, victim):
    one = victim(name)
    with open_dump(one.path) as dump:
        bounds = [int(x) for x in (dump.runs.starts + dump.runs.deltas)]
    # inside and after the ELF header, inside and between program headers, at and inside pages
    steps = {1, 4, 5, 15, 16, 17, 52, 63, 64, 65, 119, 120, 121, one.headers_end - 1, len(one.original) - 1}
    cuts = steps | {b + d for b in bounds for d in (-1, 0, 1, 5, 8, 4095)}
    for cut in sorted(c for c in cuts if 0 < c < len(one.original)):
        one.file.truncate(cut)
        result = one.exercise()
        one.repair()
        if result is None:
            assert cut <= one.headers_end, hex(cut)
            continue
        problems, words, there = result
        assert problems, hex(cut)
        assert (words[there] == one.expected[there]).all(), hex(cut)
        assert cut < one.headers_end + 4096 or there.any()


@pytest.mark.parametrize("name", ["i386-pae", "arm-short"])
@pytest.mark.parametrize("kind", ["gz", "xz"])
def test_a_packed_file_damaged_anywhere(name, kind, victim, tmp_path):
    one = victim(name)
    packed = (gzip.compress if kind == "gz" else lzma.compress)(one.original)
    whole = 0
    for seed in range(60):
        rng = random.Random(seed)
        damaged = bytearray(packed)
        if seed % 2:
            del damaged[rng.randrange(7, len(damaged)) :]
        else:
            damaged[rng.randrange(7, len(damaged))] ^= 1 << rng.randrange(8)
        one.path.write_bytes(damaged)
        result = one.exercise()
        if result is not None:
            whole += not result[0]
            if result[0]:
                assert (result[1][result[2]] == one.expected[result[2]]).all() or "damaged or cut" in result[0][0]
    assert whole <= 6  # bits that mean nothing: a time stamp, padding
