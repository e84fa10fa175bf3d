"""The properties of a machine's MMU and caches that Linux' own tables do not show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attrs import frozen

from vmcore.architecture.fields import typed
from vmcore.architecture.levels import Level


@frozen(field_transformer=typed)
class Mirror:
    """A second copy of the last level's entries, in the same table page and in the encoding of the MMU.

    Attributes:
        offset: byte offset of the hardware entries inside the table page.
        encode: function from Linux words, shape ``(n,)``, to hardware words of the same shape and type.
    """

    offset: int
    encode: Callable[[np.ndarray], np.ndarray]


@frozen(kw_only=True, field_transformer=typed)
class Cache:
    """The properties of a CPU's data cache that matter for coherence.

    The virtual address of a line gives its index. The tag is the line's virtual address ("vivt") or its physical
    address ("vipt aliasing", "vipt"). Only a "vivt" or "vipt aliasing" cache can hold a line twice, so only these
    two kinds are modelled. A cache without a known size is not modelled either.

    Attributes:
        kind: "vivt", "vipt aliasing", or "vipt".
        colours: number of page colours in which two mappings can differ (1: mappings never conflict; 0: they
            always conflict).
        size: bytes; 0 if it differs between the chips of the family.
        ways: associativity.
        line: bytes of a line.
        write_allocate: a store that misses fetches the line; otherwise the store goes to memory.
        writes_back_by: "virtual": the address of a line is translated when the line leaves the cache, and the line
            is lost if nothing is mapped there any more; "physical": the line remembers its frame.
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
        """Whether two mappings of one frame can hold different data in the cache, and its size is known."""
        return self.kind != "vipt" and self.size > 0


@frozen(kw_only=True, field_transformer=typed)
class Tlb:
    """A CPU's translation lookaside buffer.

    Attributes:
        entries: number of slots, a power of two from 2 up; a page belongs in slot ``page number % entries``.
        tagged: an entry that is not shared has the number of its address space, and stays in the TLB when the CPU
            switches to another one.
        keeps_absent: the TLB also caches that a page is not mapped.
    """

    entries: int = 512
    tagged: bool = False
    keeps_absent: bool = False


@frozen(kw_only=True, field_transformer=typed)
class HardwareView:
    """The differences between the MMU's view of the tables and that of Linux.

    The MMU tests an entry of its levels in this order:

    1. An entry that is not present (``present_mask``) maps nothing.
    2. A leaf maps memory.
    3. A bad entry (``bad_mask``) maps nothing. If the last level lists ``leaves``, an entry there that is no leaf
       maps nothing either.
    4. Any other entry points to a table.

    Attributes:
        levels: root to leaf; None if the MMU reads Linux' own levels.
        mirror: the hardware half of a last-level table page; None if there is only one encoding.
        canonical_bits: virtual address bits that must be sign-extended; 0: none.
        cache: the data cache; None if caches are physically tagged and coherent.
        tlb: the TLB of each CPU.
        domain_register: two bits per domain: 0 no access, 1 client (rights are checked), 3 manager (rights are
            not checked); None if entries have no domains.
    """

    levels: tuple[Level, ...] | None = None
    mirror: Mirror | None = None
    canonical_bits: int = 0
    cache: Cache | None = None
    tlb: Tlb = Tlb()
    domain_register: int | None = None


@frozen(kw_only=True, field_transformer=typed)
class LinearMap:
    """The mapping of lowmem that the kernel makes at boot, from PAGE_OFFSET up.

    Attributes:
        leaf: the name of a hardware `Leaf`; the rest is mapped by pages with PAGE_KERNEL.
        flags: the bits of the leaf's entries.
        kernel_flags: the bits of entries that map the kernel itself; None: the same as ``flags``.
        smp_flags: bits that are ORed in if the machine has more than one CPU.
        image: (first address, bytes, flags) of a second mapping of the kernel, at the top of the address space.
            It maps RAM from its beginning. None: there is no second mapping.
    """

    leaf: str
    flags: int
    kernel_flags: int | None = None
    smp_flags: int = 0
    image: tuple[int, int, int] | None = None
