"""The MMU and the caches of a machine, as far as Linux' own tables do not show them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attrs import frozen

from vmcore.architecture.fields import typed
from vmcore.architecture.levels import Level


@frozen(field_transformer=typed)
class Mirror:
    """A second encoding of the last level that the MMU reads, in the same table page.

    Attributes:
        offset: byte offset of the mirrored entries inside the table page.
        encode: from Linux words, shape ``(n,)``, to hardware words of the same shape and type.
    """

    offset: int
    encode: Callable[[np.ndarray], np.ndarray]


@frozen(kw_only=True, field_transformer=typed)
class Cache:
    """A CPU's data cache, as far as coherence depends on it.

    A line is looked for at the index its virtual address gives, and known by its virtual ("vivt") or its
    physical address ("vipt aliasing", "vipt"). Only the first two can hold a line twice, and only they are
    modelled; and none whose size is left to the chip.

    Attributes:
        kind: "vivt", "vipt aliasing", or "vipt".
        colours: page colours two mappings can differ in (1: never conflict; 0: always conflict).
        size: bytes; 0 where the family leaves it to the chip.
        ways: associativity.
        line: bytes of a line.
        write_allocate: a store that misses fetches the line; else it goes to memory.
        writes_back_by: "virtual": a line that leaves is translated then, and lost where nothing is mapped any
            more; "physical": it remembers its frame.
    """

    kind: str
    colours: int
    size: int = 0
    ways: int = 1
    line: int = 32
    write_allocate: bool = False
    writes_back_by: str = "physical"

    @property
    def modelled(self) -> bool:
        """Whether two mappings of one frame can disagree in it."""
        return self.kind != "vipt" and self.size > 0


@frozen(kw_only=True, field_transformer=typed)
class Tlb:
    """A CPU's translation lookaside buffer.

    Attributes:
        entries: slots, a power of two from 2 up; a page belongs in slot ``page number % entries``.
        tagged: an entry that is not shared carries its address space's number, and stays when the CPU runs
            another.
        keeps_absent: also keeps that a page is not mapped.
    """

    entries: int = 512
    tagged: bool = False
    keeps_absent: bool = False


@frozen(kw_only=True, field_transformer=typed)
class HardwareView:
    """The view of the MMU, where it differs from that of Linux.

    At the MMU's levels an entry is read in this order: not present (``present_mask``): nothing; a leaf: memory;
    bad (``bad_mask``), or no leaf at a last level that lists ``leaves``: nothing; else a table.

    Attributes:
        levels: root to leaf; None where the MMU reads Linux' own levels.
        mirror: the hardware half of a last-level table page; None where there is one encoding.
        canonical_bits: virtual address bits that must be sign-extended; 0: none.
        cache: None where caches are physically tagged and coherent.
        tlb: of each CPU.
        domain_register: two bits a domain: 0 no access, 1 client (rights are checked), 3 manager (they are
            not); None where entries have no domains.
    """

    levels: tuple[Level, ...] | None = None
    mirror: Mirror | None = None
    canonical_bits: int = 0
    cache: Cache | None = None
    tlb: Tlb = Tlb()
    domain_register: int | None = None


@frozen(kw_only=True, field_transformer=typed)
class LinearMap:
    """How the kernel maps lowmem at boot, from PAGE_OFFSET up.

    Attributes:
        leaf: the name of a hardware `Leaf`; the rest is mapped by pages with PAGE_KERNEL.
        flags: bits of its entries.
        kernel_flags: bits of those that map the kernel itself; None: the same.
        smp_flags: ORed in when the machine has more than one CPU.
        image: (first address, bytes, flags) of a second mapping of the kernel, from the beginning of RAM on, at
            the top of the address space; None: there is none.
    """

    leaf: str
    flags: int
    kernel_flags: int | None = None
    smp_flags: int = 0
    image: tuple[int, int, int] | None = None
