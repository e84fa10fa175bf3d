"""What entries allow: one walk and many say the same, and both say what the manuals say."""

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from vmcore_arches.arm import armv5, armv7
from vmcore_arches.x86.i386_pae import I386_PAE
from vmcore_arches.x86.x86_64 import X86_64

from vmcore.memory.physical import PhysicalMemory
from vmcore.paging.mmu import End, Mmu
from vmcore.paging.rights import EXECUTE, READ, RESERVED, RIGHTS, WRITE, Rights
from vmcore.units import Bank

NX = 1 << 63
CLIENT = 0x1D  # the kernel's domain: client
ROOT, TABLES = 0x4000, (0x8000, 0x9000, 0xA000)

MACHINES = {
    "pae": I386_PAE,
    "four levels": X86_64,
    "v5 client": evolve(armv5.ARMV5, hardware=evolve(armv5.ARM926, domain_register=CLIENT)),
    "v7 manager": armv7.ARMV7,
    "v7 client": evolve(armv7.ARMV7, hardware=evolve(armv7.ARMV7.hardware, domain_register=CLIENT)),
}


def walk_of(arch, words, address=0):
    """Build a walk whose entry at each level is the next of some words; table addresses are filled in."""
    memory = PhysicalMemory((Bank(0, 1 << 20),), 12)
    table = ROOT
    for level, word, below in zip(arch.hardware_levels, words, (*TABLES, 0), strict=False):
        last = level is arch.hardware_levels[-1]
        if not last and not any(word & leaf.mask == leaf.value for leaf in level.leaves):
            entry = level.encode(below, word & ~level.frame_mask)
        else:
            entry = word
        memory.store(table, entry, level.word_bytes)
        table = below
    mmu = Mmu(arch, memory, ROOT)
    return mmu.walk(address), mmu.walk_many(np.array([address], np.uint64))


def rights(arch, *words):
    one, many = walk_of(arch, words)
    found = Rights(arch).of(one)
    assert Rights(arch).of_many(many).tolist() == [found]
    return found


@pytest.mark.parametrize("name", MACHINES)
@given(
    words=st.lists(st.integers(0, (1 << 64) - 1), min_size=4, max_size=4),
    low=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_one_and_many_agree_on_any_words(name, words, low):
    arch = MACHINES[name]
    limit = [(1 << 8 * level.word_bytes) - 1 for level in arch.hardware_levels]
    chosen = [(word & ~3 | bits) & most for word, bits, most in zip(words, low, limit, strict=False)]
    one, many = walk_of(arch, chosen)
    assert (one.end, -1 if one.physical is None else one.physical) == (many.end[0], many.physical[0])
    assert Rights(arch).of(one) == Rights(arch).of_many(many)[0]
    assert Rights(arch).shifts(many)[0] == (
        (one.steps[-1].leaf or one.steps[-1].level).shift if one.end == End.MAPPED else many_shift(arch, many)
    )


def many_shift(arch, many):
    return arch.hardware_levels[many.depth[0]].shift


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ((0x67, 0x67, 0x67, 0x163), READ | WRITE | EXECUTE),
        ((0x67, 0x67, 0x67, NX | 0x163), READ | WRITE),
        ((0x67, 0x67, 0x67, 0x161), READ | EXECUTE),
        ((0x65, 0x67, 0x67, 0x163), READ | EXECUTE),  # a table entry without RW takes it from everything below
        ((0x67, NX | 0x67, 0x67, 0x163), READ | WRITE),
        ((0x67, 0x67, 0x1E3), READ | WRITE | EXECUTE),
        ((0x67, 0x67, 0x1E1), READ | EXECUTE),
    ],
)
def test_rights_of_four_levels(words, allowed):
    assert rights(X86_64, *words) & RIGHTS == allowed
    assert rights(X86_64, *words[:-1], words[-1] & ~1) == 0


@pytest.mark.parametrize(("bit", "reserved"), [(12, False), (13, True), (20, True), (21, False)])
def test_reserved_bits_of_a_large_page(bit, reserved):
    assert (rights(X86_64, 0x67, 0x67, 0x1E3 | 1 << bit) == RESERVED) is reserved


def test_the_pointer_table_of_pae_has_no_say():
    assert rights(I386_PAE, 0x001, 0x67, 0x163) & RIGHTS == READ | WRITE | EXECUTE
    assert rights(I386_PAE, 0x001, 0x65, 0x163) & RIGHTS == READ | EXECUTE


#: (APX, AP) to what the kernel may do: ARM ARM DDI 0406C, table B3-8
AP = {0b000: 0, 0b001: READ | WRITE, 0b010: READ | WRITE, 0b011: READ | WRITE, 0b100: 0, 0b101: READ, 0b110: READ,
      0b111: READ}  # fmt: skip


@pytest.mark.parametrize(("bits", "allowed"), AP.items())
def test_rights_of_an_extended_small_page(bits, allowed):
    page = 0x2 | (bits & 3) << 4 | bits >> 2 << 9
    fetched = EXECUTE if allowed & READ else 0
    assert rights(MACHINES["v7 client"], 0x11, page) & RIGHTS == allowed | fetched
    assert rights(MACHINES["v7 client"], 0x11, page | 1) & RIGHTS == allowed
    assert rights(MACHINES["v7 manager"], 0x11, page | 1) & RIGHTS == RIGHTS
    section = 0x2 | (bits & 3) << 10 | bits >> 2 << 15
    assert rights(MACHINES["v7 client"], section) & RIGHTS == allowed | fetched
    assert rights(MACHINES["v7 client"], section | 0x10) & RIGHTS == allowed


@pytest.mark.parametrize(
    ("register", "domain", "allowed"),
    [(0x1F, 0, RIGHTS), (0x1F, 1, RIGHTS), (0x1F, 2, READ | EXECUTE), (0x1F, 3, 0), (0x1D, 0, READ | EXECUTE)],
)
def test_the_domain_is_that_of_the_table(register, domain, allowed):
    arch = evolve(armv5.ARMV5, hardware=evolve(armv5.ARM926, domain_register=register))
    assert rights(arch, 0x11 | domain << 5, 0x2) & RIGHTS == allowed  # AP 0: read only, with the S bit
    assert rights(arch, 0x12 | domain << 5) & RIGHTS == allowed


def test_a_supersection_is_in_domain_0():
    assert rights(MACHINES["v7 manager"], 0x40002 | 0xF << 5) & RIGHTS == RIGHTS
