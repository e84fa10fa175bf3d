"""A level of page tables and the encoding of its entries. Linux' levels and the MMU's are described alike."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from attrs import field, frozen

from vmcore.architecture.fields import Flags, Pairs, as_flags, as_ints, as_pairs, typed

Words = np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]
ALWAYS: Pairs = ((0, 0),)


@frozen(field_transformer=typed)
class Segment:
    """A run of address bits inside an entry: ``width`` bits from ``entry_bit`` are address bits from
    ``address_bit`` up.
    """  # noqa: D205

    entry_bit: int
    width: int
    address_bit: int

    @property
    def entry_mask(self) -> int:
        """The bits of the entry that the segment occupies."""
        return ((1 << self.width) - 1) << self.entry_bit


def as_segments(value: Iterable[Segment | tuple[int, int, int]]) -> tuple[Segment, ...]:
    """Convert triples (entry bit, width, address bit) to segments."""
    return tuple(s if isinstance(s, Segment) else Segment(*s) for s in value)


def decode(frame: tuple[Segment, ...], entry: int) -> int:
    """Return the physical address (bytes) that a frame field of an entry holds."""
    return sum((entry & s.entry_mask) >> s.entry_bit << s.address_bit for s in frame)


def decode_many(frame: tuple[Segment, ...], entries: np.ndarray) -> np.ndarray:
    """Return the physical addresses that a frame field of many entries holds.

    Args:
        frame: the field.
        entries: any shape, unsigned.

    Returns:
        Bytes, uint64, the shape of ``entries``.
    """
    wide = entries.astype(np.uint64, copy=False)
    out = np.zeros(wide.shape, np.uint64)
    for s in frame:
        out |= (wide & np.uint64(s.entry_mask)) >> np.uint64(s.entry_bit) << np.uint64(s.address_bit)
    return out


def encode(frame: tuple[Segment, ...], address: int, flags: int) -> int:
    """Return an entry with a physical address (bytes) in its frame field and with flags."""
    for s in frame:
        flags |= (address >> s.address_bit & (1 << s.width) - 1) << s.entry_bit
    return flags


def encode_many(frame: tuple[Segment, ...], addresses: np.ndarray, flags: int) -> np.ndarray:
    """Return entries (uint64) for many physical addresses (bytes, uint64, any shape), all with the same flags."""
    out = np.full(addresses.shape, flags, np.uint64)
    for s in frame:
        part = addresses >> np.uint64(s.address_bit) & np.uint64((1 << s.width) - 1)
        out |= part << np.uint64(s.entry_bit)
    return out


@frozen(kw_only=True, field_transformer=typed)
class Access:
    """The rights that an entry gives to privileged code, and the bits that the MMU writes into the entry.

    A pair (mask, value) matches an entry if ``entry & mask == value``. Of several pairs one must match. An empty
    tuple never matches. For a right, every entry of a walk must match. The other pairs are compared only with the
    entry that maps the page.

    Attributes:
        read: pairs of entries that allow loads.
        write: pairs of entries that allow stores.
        execute: pairs of entries that allow fetches.
        shared: pairs of pages that are in every address space (x86: global; ARM: not nG).
        cached: pairs of pages that may be in a data cache.
        write_back: pairs of cached pages whose stores stay in the cache until they are written back.
        accessed: bits that the MMU sets in an entry that it uses.
        dirty: bits that the MMU sets in the entry of a page that is written.
        reserved: bits that must be 0; an access through an entry with one of them set faults.
        domain: the lowest of the four bits that hold the number of the entry's domain; None: it has no domain.
    """

    read: Pairs = field(default=ALWAYS, converter=as_pairs)
    write: Pairs = field(default=ALWAYS, converter=as_pairs)
    execute: Pairs = field(default=ALWAYS, converter=as_pairs)
    shared: Pairs = field(default=(), converter=as_pairs)
    cached: Pairs = field(default=ALWAYS, converter=as_pairs)
    write_back: Pairs = field(default=ALWAYS, converter=as_pairs)
    accessed: int = 0
    dirty: int = 0
    reserved: int = 0
    domain: int | None = None


@frozen(field_transformer=typed)
class Leaf:
    """A kind of entry that maps memory: an entry with ``entry & mask == value`` maps ``1 << shift`` bytes.

    ``access`` holds its rights. None means that they are those of the level.
    """

    name: str
    mask: int
    value: int
    shift: int
    frame: tuple[Segment, ...] = field(converter=as_segments)
    access: Access | None = None

    def encode_array(self, addresses: np.ndarray, flags: int) -> np.ndarray:
        """Return entries (uint64) for many physical addresses (bytes, uint64, shape ``(n,)``), with flags."""
        return encode_many(self.frame, addresses, flags)


def as_leaves(value: Iterable[Leaf]) -> tuple[Leaf, ...]:
    """Convert leaves to a tuple."""
    return tuple(value)


@frozen(kw_only=True, field_transformer=typed)
class Level:
    """One level of the page tables, and the encoding of its entries.

    Attributes:
        name: the kernel's name of the level: "pgd", "p4d", "pud", "pmd" or "pte".
        shift: log2 of the bytes that one entry covers.
        bits: log2 of the number of entries of a table.
        entry_bytes: bytes of one entry, repeated words included.
        frame: the bits that hold the physical address of the next table, or at the last level of the page.
        repeat: for each further word of an entry, the number that is added to the first word.
        none_mask: an entry is none if all these bits are clear; default: every bit of the word.
        present_mask: an entry is present if any of these bits is set.
        missing_mask: a table is allocated if all these bits are clear: ``none_mask`` (p?d_none) or
            ``present_mask`` (p?d_present); default: ``none_mask``.
        bad_mask: an entry is bad (p?d_bad) if ``entry & bad_mask != good_value``. If both are 0, no entry is bad.
        good_value: see ``bad_mask``.
        table_flags: the flags of an entry that points to a table.
        leaves: the large pages that the walker recognises, or at the last level the kinds of pages.
        prebuilt: the tables below the kernel's entries exist since boot, and vmalloc never makes them.
        offset: byte offset of the entries inside their table page.
        error_name: the name of the level in "bad ..." log lines; default: ``name``.
        flag_names: names of the bits, for people.
        access: the rights that its entries give to privileged code. They matter at the hardware's levels.
    """

    name: str
    shift: int
    bits: int
    entry_bytes: int
    frame: tuple[Segment, ...] = field(converter=as_segments)
    repeat: tuple[int, ...] = field(default=(), converter=as_ints)
    none_mask: int = field()
    present_mask: int = 1
    missing_mask: int = field()
    bad_mask: int = 0
    good_value: int = 0
    table_flags: int = 0
    leaves: tuple[Leaf, ...] = field(default=(), converter=as_leaves)
    prebuilt: bool = False
    offset: int = 0
    error_name: str = field()
    flag_names: Flags = field(default=(), converter=as_flags)
    access: Access = Access()

    @none_mask.default
    def _whole_word(self) -> int:
        return (1 << 8 * self.entry_bytes // (1 + len(self.repeat))) - 1

    @missing_mask.default
    def _none(self) -> int:
        return self.none_mask

    @error_name.default
    def _own_name(self) -> str:
        return self.name

    @property
    def entries(self) -> int:
        """Number of entries of one table."""
        return 1 << self.bits

    @property
    def word_bytes(self) -> int:
        """Bytes of one word of an entry. An entry without ``repeat`` is one word."""
        return self.entry_bytes // (1 + len(self.repeat))

    @property
    def table_bytes(self) -> int:
        """Bytes of one table."""
        return self.entry_bytes << self.bits

    @property
    def frame_mask(self) -> int:
        """The bits of an entry that hold the address."""
        return sum(segment.entry_mask for segment in self.frame)

    @property
    def physical_end(self) -> int:
        """The first physical address, bytes, that no entry can hold."""
        return 1 << max(s.address_bit + s.width for s in self.frame)

    def encode(self, address: int, flags: int) -> int:
        """Return the first word of an entry for a physical address (bytes), with flags."""
        return encode(self.frame, address, flags)

    def decode(self, entry: int) -> int:
        """Return the physical address, bytes, that an entry holds."""
        return decode(self.frame, entry)

    def encode_array(self, addresses: np.ndarray, flags: int) -> np.ndarray:
        """Return the words of entries for many physical addresses.

        Args:
            addresses: bytes, shape ``(n,)``, uint64.
            flags: bits that are ORed into each word.

        Returns:
            Shape ``(n,)``, unsigned, ``word_bytes`` wide.
        """
        return encode_many(self.frame, addresses, flags).astype(f"u{self.word_bytes}")

    def decode_array(self, entries: np.ndarray) -> np.ndarray:
        """Return the physical addresses (bytes, uint64) that entries of shape ``(n,)`` hold."""
        return decode_many(self.frame, entries)

    def names(self, entry: int) -> list[str]:
        """Return the names of the flag bits that are set in an entry."""
        return [name for name, mask in self.flag_names if entry & mask]
