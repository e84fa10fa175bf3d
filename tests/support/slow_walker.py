"""Page tables read back byte by byte from the numbers of a record; shares no code with the core's walk."""

import struct

from vmcore.memory.physical import PhysicalMemory
from vmcore.paging.tables import PageTables
from vmcore.units import Bank

ROOT, FIRST_TABLE, RAM_END = 0x300000, 0x400000, 1 << 30


class Oops(Exception):
    """The reporter's way out."""


class Bench:
    """Page tables on memory of their own, with a source and a reporter that write everything down."""

    def __init__(self, arch, tables=None, **listeners):
        self.arch, self.log = arch, []
        self.memory = PhysicalMemory((Bank(0, RAM_END),), arch.page_shift)
        self.handed_out, self.taken_back = [], []
        self._tables = iter(tables if tables is not None else range(FIRST_TABLE, RAM_END, arch.page_size))
        self.failing = 0  # the n-th table from now on is refused
        self.tables = PageTables(arch, self.memory, ROOT, self, self, **listeners)

    def alloc_table(self):
        self.failing -= 1
        table = None if self.failing == 0 else next(self._tables, None)
        if table is not None:
            self.handed_out.append(table)
        return table

    def free_table(self, table):
        self.taken_back.append(table)

    def warn_on(self, condition, function):
        self.log.append((condition, function))

    def printk(self, line):
        self.log.append(line)

    def oops(self, address, access):
        raise Oops(address, access)

    def word(self, at, size):
        return int.from_bytes(self.memory.read(at, size), "little")

    def scan(self):
        """Return {virtual address: last-level word} of every entry whose none bits are not all clear."""
        return dict(scan(self.memory, self.arch, ROOT))

    def table_bytes(self):
        """Return the root and every table handed out, as one string."""
        root = self.memory.read(ROOT, self.arch.root_bytes)
        return root + b"".join(self.memory.read(t, self.arch.page_size) for t in self.handed_out)


def decode(level, word):
    """Return the address in a word: each segment of bits put where it belongs."""
    address = 0
    for segment in level.frame:
        for bit in range(segment.width):
            address |= (word >> segment.entry_bit + bit & 1) << segment.address_bit + bit
    return address


def encode(level, address, flags):
    """Return the word for an address."""
    for segment in level.frame:
        for bit in range(segment.width):
            flags |= (address >> segment.address_bit + bit & 1) << segment.entry_bit + bit
    return flags


def words(memory, level, table):
    """Return the first word of every entry of a table."""
    raw = memory.read(table + level.offset, level.entry_bytes << level.bits)
    size = level.entry_bytes // (1 + len(level.repeat))
    every = struct.unpack(f"<{len(raw) // size}{'I' if size == 4 else 'Q'}", raw)
    return every[:: 1 + len(level.repeat)]


def scan(memory, arch, table, depth=0, above=0):
    """Yield (virtual address, word) of every last-level entry that is not none, by table index."""
    level = arch.levels[depth]
    top = arch.levels[0].shift + arch.levels[0].bits
    for index, word in enumerate(words(memory, level, table)):
        if not word & level.none_mask:
            continue
        address = above | index << level.shift
        if depth + 1 < len(arch.levels):
            yield from scan(memory, arch, decode(level, word), depth + 1, address)
        else:
            high = address >> top - 1 and (1 << arch.word_bits) - (1 << top)
            yield address | high, word


def entry_address(bench, address, depth):
    """Return the physical address of an entry, walking from the root; None below an empty one."""
    table = ROOT
    for level in bench.arch.levels[: depth + 1]:
        at = table + level.offset + (address >> level.shift) % (1 << level.bits) * level.entry_bytes
        word = bench.word(at, level.entry_bytes // (1 + len(level.repeat)))
        if level is bench.arch.levels[depth]:
            return at
        if not word & level.none_mask:
            return None
        table = decode(level, word)
    return None


def hardware(read, arch, root, address):
    """Translate as the MMU does, a bit at a time.

    ``read(at, size)`` is the word there or None. Return the physical address, or the name of the `End`.
    """
    bits = arch.hardware.canonical_bits
    if bits and address >> bits - 1 not in (0, (1 << arch.word_bits - bits + 1) - 1):
        return "NOT_CANONICAL"
    table = root
    for level in arch.hardware_levels:
        size = level.entry_bytes // (1 + len(level.repeat))
        at = table + level.offset + (address >> level.shift) % (1 << level.bits) * level.entry_bytes
        word = read(at, size)
        if word is None:
            return "NOT_IN_MEMORY"
        if not word & level.present_mask:
            return "NOT_PRESENT"
        last = level is arch.hardware_levels[-1]
        for leaf in level.leaves:
            if word & leaf.mask == leaf.value:
                return decode(leaf, word) >> leaf.shift << leaf.shift | address % (1 << leaf.shift)
        if last and not level.leaves:
            return decode(level, word) >> level.shift << level.shift | address % (1 << level.shift)
        if last or word & level.bad_mask != level.good_value:
            return "NO_TABLE"
        table = decode(level, word)
    raise AssertionError("the last level returns")
