"""The record that describes a machine: what the C file takes from ``asm/`` headers, as data.

To add a machine, write one `Architecture` and return it from a ``vmcore_architectures`` hook:

1. *Geometry*: ``word_bits``, ``page_shift`` and the real ``levels`` from root to leaf. A level that the
   kernel folds is simply absent. Levels are named as the kernel names them and must tile the address.
2. *Encoding*, per level: where the frame sits in an entry (``frame``), what is none, present and bad, and
   which flags a table entry gets. Bits are those Linux tests and writes.
3. *Protections*: ``page_kernel``, and ``page_kernel_exec`` if the machine defines it.
4. *Memory*: ``zones`` and a ``layout`` function from RAM, ``vmalloc=`` and platform to a `Layout`.
5. *Hardware view*, only where the MMU sees other tables, wider frames or more leaves than Linux does.
6. What is behaviour and not data (flushes, ``vmalloc_sync_all``, ``vmalloc_fault``): link hooks, see
   `vmcore.hookspecs`.

Sources: include/asm-*/pgtable*.h, page.h; include/linux/mmzone.h, vmalloc.h; mm/vmalloc.c:566, :587.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from attrs import Attribute, Converter, Factory, evolve, field, frozen

from vmcore.errors import ArchitectureError, LayoutError, VmcoreError, choices
from vmcore.flags import GFP, GFP_KERNEL
from vmcore.units import Bank, format_size

Words = np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]
Flags = tuple[tuple[str, int], ...]


@cache
def _hints(record: type) -> dict[str, Any]:
    return get_type_hints(record)


def _fits(value: object, kind: Any) -> bool:
    """Tell whether a value is of the type an annotation says."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_fits(value, choice) for choice in args)
    if origin is not tuple:
        return isinstance(value, origin or kind)
    if not isinstance(value, tuple):
        return False
    if args[-1] is Ellipsis:
        return all(_fits(item, args[0]) for item in value)
    return len(value) == len(args) and all(map(_fits, value, args))


def _convert(inner: Callable[[Any], Any] | None, value: Any, record: Any, into: Attribute[Any]) -> Any:
    """Convert a field of a record, and refuse what is not of its type before anything counts with it."""
    name = getattr(record, "name", None)
    kind = type(record).__name__.lower()
    subject = kind if name is None else name if kind == "architecture" else f"{kind} {name!r}"
    try:
        made = value if inner is None else inner(value)
    except (TypeError, ValueError, AttributeError) as error:
        raise ArchitectureError(subject, into.name, repr(value), str(into.type)) from error
    if not _fits(made, _hints(record.__class__)[into.name]):
        raise ArchitectureError(subject, into.name, repr(value), str(into.type))
    return made


def _typed(cls: type, fields: list[Attribute[Any]]) -> list[Attribute[Any]]:
    """Make every field of a class check its type, in order, so that defaults only see what fits."""

    def checked(field: Attribute[Any]) -> Attribute[Any]:
        def convert(value: Any, record: Any, into: Attribute[Any]) -> Any:
            return _convert(inner, value, record, into)

        inner: Any = field.converter
        return field.evolve(converter=Converter(convert, takes_self=True, takes_field=True))

    return [checked(field) for field in fields]


@frozen(field_transformer=_typed)
class Segment:
    """A run of address bits inside an entry: ``width`` bits from ``entry_bit`` are address bits from
    ``address_bit`` up.
    """  # noqa: D205

    entry_bit: int
    width: int
    address_bit: int

    @property
    def entry_mask(self) -> int:
        """The bits of the entry the segment occupies."""
        return ((1 << self.width) - 1) << self.entry_bit


def _segments(value: Iterable[Segment | tuple[int, int, int]]) -> tuple[Segment, ...]:
    return tuple(s if isinstance(s, Segment) else Segment(*s) for s in value)


def _flags(value: Mapping[str, int] | Iterable[tuple[str, int]]) -> Flags:
    return tuple(value.items() if isinstance(value, Mapping) else value)


@frozen(field_transformer=_typed)
class Leaf:
    """An entry that maps memory itself: ``entry & mask == value`` maps ``1 << shift`` bytes."""

    name: str
    mask: int
    value: int
    shift: int
    frame: tuple[Segment, ...] = field(converter=_segments)


def _leaves(value: Iterable[Leaf]) -> tuple[Leaf, ...]:
    return tuple(value)


def _ints(value: Iterable[int]) -> tuple[int, ...]:
    return tuple(value)


@frozen(kw_only=True, field_transformer=_typed)
class Level:
    """One level of the page tables, and the encoding of its entries.

    Attributes:
        name: the kernel's name of it: "pgd", "p4d", "pud", "pmd", "pte".
        shift: log2 of the bytes one entry covers.
        bits: log2 of the number of entries.
        entry_bytes: bytes of one entry, repeated words included.
        frame: where the physical address of the next table (or of the page, at the last level) sits.
        repeat: for each further word of an entry, what it adds to the first.
        none_mask: an entry is none when all these bits are clear (default: every bit of the word).
        present_mask: an entry is present when any of these bits is set.
        missing_mask: a table is allocated when all these bits are clear: ``none_mask`` (p?d_none) or
            ``present_mask`` (p?d_present); default ``none_mask``.
        bad_mask: with ``good_value``, p?d_bad: ``entry & bad_mask != good_value``. 0/0 is never bad.
        good_value: see ``bad_mask``.
        table_flags: bits of an entry that points to a table.
        leaves: large pages (or, at the last level, page kinds) as the walker recognises them.
        prebuilt: the tables below the kernel's entries exist since boot; vmalloc never makes them.
        offset: byte offset of the entries inside their table page.
        error_name: the level's name in "bad ..." log lines, where the kernel uses another.
        flag_names: names of the bits, for people.
    """

    name: str
    shift: int
    bits: int
    entry_bytes: int
    frame: tuple[Segment, ...] = field(converter=_segments)
    repeat: tuple[int, ...] = field(default=(), converter=_ints)
    none_mask: int = field()
    present_mask: int = 1
    missing_mask: int = field()
    bad_mask: int = 0
    good_value: int = 0
    table_flags: int = 0
    leaves: tuple[Leaf, ...] = field(default=(), converter=_leaves)
    prebuilt: bool = False
    offset: int = 0
    error_name: str = field()
    flag_names: Flags = field(default=(), converter=_flags)

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
        """Bytes of one word of an entry; an entry without ``repeat`` is one word."""
        return self.entry_bytes // (1 + len(self.repeat))

    @property
    def table_bytes(self) -> int:
        """Bytes of one table."""
        return self.entry_bytes << self.bits

    @property
    def frame_mask(self) -> int:
        """The bits of an entry that hold the address."""
        return sum(segment.entry_mask for segment in self.frame)

    def encode(self, address: int, flags: int) -> int:
        """Make the (first) word of an entry for a physical address, bytes."""
        for s in self.frame:
            flags |= (address >> s.address_bit & (1 << s.width) - 1) << s.entry_bit
        return flags

    def decode(self, entry: int) -> int:
        """Return the physical address an entry holds, bytes."""
        return sum((entry & s.entry_mask) >> s.entry_bit << s.address_bit for s in self.frame)

    def encode_array(self, addresses: np.ndarray, flags: int) -> np.ndarray:
        """Make words for many physical addresses.

        Args:
            addresses: bytes, shape ``(n,)``, uint64.
            flags: ORed into each word.

        Returns:
            Shape ``(n,)``, unsigned, ``word_bytes`` wide.
        """
        out = np.full(len(addresses), flags, np.uint64)
        for s in self.frame:
            part = addresses >> np.uint64(s.address_bit) & np.uint64((1 << s.width) - 1)
            out |= part << np.uint64(s.entry_bit)
        return out.astype(f"u{self.word_bytes}")

    def decode_array(self, entries: np.ndarray) -> np.ndarray:
        """Return the physical addresses (bytes, uint64) that entries of shape ``(n,)`` hold."""
        wide = entries.astype(np.uint64)
        out = np.zeros(len(wide), np.uint64)
        for s in self.frame:
            out |= (wide & np.uint64(s.entry_mask)) >> np.uint64(s.entry_bit) << np.uint64(s.address_bit)
        return out

    def names(self, entry: int) -> list[str]:
        """Return the names of the flag bits set in an entry."""
        return [name for name, mask in self.flag_names if entry & mask]


@frozen(field_transformer=_typed)
class Mirror:
    """A second encoding of the last level that the MMU reads, in the same table page.

    Attributes:
        offset: byte offset of the mirrored entries inside the table page.
        encode: from Linux words, shape ``(n,)``, to hardware words of the same shape and type.
    """

    offset: int
    encode: Callable[[np.ndarray], np.ndarray]


@frozen(kw_only=True, field_transformer=_typed)
class Cache:
    """A data cache, as far as coherence depends on it.

    Attributes:
        kind: "vivt", "vipt aliasing", or "vipt".
        colours: page colours two mappings can differ in (1: never conflict; 0: always conflict).
        size: bytes; 0 where the family leaves it to the chip.
        ways: associativity.
        line: bytes of a line.
    """

    kind: str
    colours: int
    size: int = 0
    ways: int = 1
    line: int = 32


@frozen(kw_only=True, field_transformer=_typed)
class HardwareView:
    """What the MMU sees, where it differs from what Linux sees.

    At the MMU's levels an entry is read in this order: not present (``present_mask``): nothing; a leaf: memory;
    bad (``bad_mask``), or no leaf at a last level that lists ``leaves``: nothing; else a table.

    Attributes:
        levels: root to leaf; None where the MMU reads Linux' own levels.
        mirror: the hardware half of a last-level table page; None where there is one encoding.
        canonical_bits: virtual address bits that must be sign-extended; 0: none.
        cache: None where caches are physically tagged and coherent.
    """

    levels: tuple[Level, ...] | None = None
    mirror: Mirror | None = None
    canonical_bits: int = 0
    cache: Cache | None = None


@frozen(field_transformer=_typed)
class Zone:
    """A zone of physical memory, in zone order; frames below ``below`` bytes (None: the rest).

    HIGHMEM, where it is declared, is what the linear map does not reach; the zones before it end there.
    """

    name: str
    below: int | None = None


@frozen(field_transformer=_typed)
class Window:
    """Virtual addresses ``start <= va < end``."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes in the window."""
        return self.end - self.start


@frozen(kw_only=True)
class LayoutRequest:
    """What a `Layout` is asked for.

    Attributes:
        ram: bytes, to be placed where the platform's RAM begins, or banks.
        vmalloc: bytes of ``vmalloc=``, or None.
        platform: a name from ``Architecture.platforms``, or None for the first.
    """

    ram: int | tuple[Bank, ...]
    vmalloc: int | None = None
    platform: str | None = None

    def banks(self, phys_offset: int) -> tuple[Bank, ...]:
        """Return the banks; a plain size becomes one bank at ``phys_offset``."""
        if isinstance(self.ram, int):
            return (Bank(phys_offset, phys_offset + self.ram),)
        return self.ram


def _banks(value: Iterable[Bank]) -> tuple[Bank, ...]:
    return tuple(value)


@frozen(kw_only=True, field_transformer=_typed)
class Layout:
    """Where everything is on one machine.

    Attributes:
        page_offset: PAGE_OFFSET, first virtual address of the linear map.
        phys_offset: PHYS_OFFSET, the physical address mapped there.
        lowmem_end: physical end of what the linear map reaches.
        vmalloc_start: VMALLOC_START.
        vmalloc_end: VMALLOC_END, exactly as the C file sees it (some headers give the last byte).
        modules: the window modules are loaded in; None where ``module_alloc`` is ``vmalloc_exec``.
        swapper_pg_dir: physical address of init_mm's root table.
        kernel_end: frames below it hold the kernel and are never handed out.
        first_kernel_pgd: index of the first root entry that a new mm copies from init_mm.
        banks: RAM in use, after cuts.
        notes: log lines about RAM that could not be used.
        regions: other named windows, for people.
    """

    page_offset: int
    phys_offset: int
    lowmem_end: int
    vmalloc_start: int
    vmalloc_end: int
    swapper_pg_dir: int
    kernel_end: int
    first_kernel_pgd: int
    banks: tuple[Bank, ...] = field(converter=_banks)
    modules: Window | None = None
    notes: tuple[str, ...] = ()
    regions: tuple[tuple[str, Window], ...] = ()

    @property
    def high_memory(self) -> int:
        """First virtual address above the linear map."""
        return self.lowmem_end - self.phys_offset + self.page_offset

    @property
    def vmalloc(self) -> Window:
        """The vmalloc window, [VMALLOC_START, VMALLOC_END)."""
        return Window(self.vmalloc_start, self.vmalloc_end)


def cut_banks(banks: tuple[Bank, ...], end: int, reason: str) -> tuple[tuple[Bank, ...], tuple[str, ...]]:
    """Drop RAM at and above ``end``; say so in a log line, as kernels do.

    Returns:
        The banks that are left and the log lines (none if nothing was cut).
    """
    kept = tuple(Bank(b.start, min(b.end, end)) for b in banks if b.start < end)
    lost = sum(b.size for b in banks) - sum(b.size for b in kept)
    note = (f"<4>Warning: {format_size(lost)} of RAM above {end:#x} cannot be used: {reason}.\n",)
    return kept, note if lost else ()


def _levels(value: Iterable[Level]) -> tuple[Level, ...]:
    return tuple(value)


def _zones(value: Iterable[Zone | str]) -> tuple[Zone, ...]:
    return tuple(Zone(z) if isinstance(z, str) else z for z in value)


def _names(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


def _lines(value: Mapping[str, Iterable[str]] | Iterable[tuple[str, Iterable[str]]]) -> ImageLines:
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple((key, tuple(values)) for key, values in pairs)


ImageLines = tuple[tuple[str, tuple[str, ...]], ...]


@frozen(kw_only=True, field_transformer=_typed)
class CpuNote:
    """The note a hypervisor writes per CPU into its ELF dumps, as far as it leads to the tables.

    Attributes:
        name: owner of the note; ``size``: bytes of its description, at least.
        root_at: byte offset of the 8-byte register with the root's address; ``root_mask``: its address bits.
        checks: (byte offset, mask, value, meaning of another value) of 8-byte registers.
    """

    name: str
    size: int
    root_at: int
    root_mask: int
    checks: tuple[tuple[int, int, int, str], ...] = ()


@frozen(kw_only=True, field_transformer=_typed)
class KernelImage:
    """What a saved machine's kernel says about itself (VMCOREINFO), and how that leads to the root table.

    A symbol's physical address is ``symbol - base + physical``: ``base`` is where the mapping of the kernel
    begins, ``physical`` what is mapped there. Symbols in VMCOREINFO are relocated already: KERNELOFFSET
    is not added (kernel/crash_core.c, Documentation/admin-guide/kdump/vmcoreinfo.rst).

    Attributes:
        machine: e_machine of ELF cores.
        roots: names of init_mm's root table, the first that is there counts.
        root_align: bytes; the address bits below are flags of the register that holds it.
        bases: what ``base`` may be, the usual first; ``base_number``: NUMBER() that says it.
        physical_number: NUMBER() that says ``physical``; ``offset_number``: NUMBER() that says base - physical.
        physical: where neither is there; None: where RAM begins.
        linear: the kernel lies in the linear map, so ``base`` is PAGE_OFFSET.
        lines: lines of VMCOREINFO and the values this record's kernels print; "": no such line.
        cpu: where a CPU's registers are.
    """

    machine: int
    roots: tuple[str, ...] = field(default=("swapper_pg_dir",), converter=_names)
    root_align: int = 4096
    bases: tuple[int, ...] = field(converter=_ints)
    base_number: str = "PAGE_OFFSET"
    physical_number: str = "PHYS_OFFSET"
    offset_number: str | None = None
    physical: int | None = None
    linear: bool = True
    lines: ImageLines = field(default=(), converter=_lines)
    cpu: CpuNote | None = None

    def __attrs_post_init__(self) -> None:
        align = self.root_align
        if align < 1 or align & align - 1:
            raise ArchitectureError("kernelimage", "root_align", f"{align:#x}", "a power of two, bytes")
        for name in ("bases", "roots"):
            if not getattr(self, name):
                raise ArchitectureError("kernelimage", name, "empty", "at least one")


@frozen(kw_only=True, field_transformer=_typed)
class Architecture:
    """One machine, complete and frozen; see the module's page for how to write one.

    Attributes:
        name: lower case; what users type.
        description: one line for people.
        word_bits: BITS_PER_LONG, 32 or 64.
        page_shift: PAGE_SHIFT.
        levels: the real levels, root first, as Linux sees them.
        page_kernel: PAGE_KERNEL, in the encoding of the last level.
        page_kernel_exec: PAGE_KERNEL_EXEC; None where the headers do not define it.
        smp_flags: ORed into kernel protections when the machine has more than one CPU.
        supported_pte_mask: bits a page-table entry may have (``__supported_pte_mask``).
        protections: other named protections ("PAGE_KERNEL_RO", "IOREMAP", ...).
        ioremap_max_order: IOREMAP_MAX_ORDER; default 7 + PAGE_SHIFT (include/linux/vmalloc.h).
        zones: in zone order; NORMAL always there.
        layout: from a `LayoutRequest` to a `Layout`; raises `LayoutError`.
        platforms: names ``platform=`` may take, the default first; empty where there is no choice.
        default_ram: bytes, where the user gives none.
        max_cpus: most CPUs the machine can have.
        hardware: what the MMU sees.
        era: the kernel whose view ``levels`` is.
        image: what its kernels say in VMCOREINFO; None: a dump's root must be given.
    """

    name: str
    description: str
    word_bits: int
    page_shift: int
    levels: tuple[Level, ...] = field(converter=_levels)
    page_kernel: int
    page_kernel_exec: int | None = None
    smp_flags: int = 0
    supported_pte_mask: int = (1 << 64) - 1
    protections: Flags = field(default=(), converter=_flags)
    ioremap_max_order: int = Factory(lambda self: 7 + self.page_shift, takes_self=True)
    zones: tuple[Zone, ...] = field(converter=_zones)
    layout: Callable[[LayoutRequest], Layout]
    platforms: tuple[str, ...] = field(default=(), converter=_names)
    default_ram: int = 1 << 30
    max_cpus: int = 32
    hardware: HardwareView = HardwareView()
    era: str = "2.6.24"
    image: KernelImage | None = None

    def __attrs_post_init__(self) -> None:
        _validate(self)

    @property
    def page_size(self) -> int:
        """PAGE_SIZE, bytes."""
        return 1 << self.page_shift

    @property
    def word_mask(self) -> int:
        """All ones in an ``unsigned long``."""
        return (1 << self.word_bits) - 1

    @property
    def pointer_bytes(self) -> int:
        """``sizeof(struct page *)``."""
        return self.word_bits // 8

    @property
    def sizeof_vm_struct(self) -> int:
        """``sizeof(struct vm_struct)``: seven words (include/linux/vmalloc.h)."""
        return 7 * self.pointer_bytes

    @property
    def zone_names(self) -> tuple[str, ...]:
        """Names of the configured zones, in zone order."""
        return tuple(zone.name for zone in self.zones)

    @property
    def gfp_vmalloc32(self) -> int:
        """GFP_VMALLOC32 (mm/vmalloc.c:587): DMA32, else DMA, on 64 bit; plain GFP_KERNEL on 32."""
        if self.word_bits == 64 and "DMA32" in self.zone_names:
            return GFP_KERNEL | int(GFP.DMA32)
        if self.word_bits == 64 and "DMA" in self.zone_names:
            return GFP_KERNEL | int(GFP.DMA)
        return GFP_KERNEL

    @property
    def hardware_levels(self) -> tuple[Level, ...]:
        """The levels the MMU walks, root first."""
        return self.levels if self.hardware.levels is None else self.hardware.levels

    @property
    def root_bytes(self) -> int:
        """Bytes of a root table, as Linux allocates it."""
        return max(self.levels[0].table_bytes, 1)

    def protection(self, name: str) -> int:
        """Return a protection by its kernel name.

        Raises:
            ArchitectureError: the record has none of that name.
        """
        known = {"PAGE_KERNEL": self.page_kernel, **dict(self.protections)}
        known["PAGE_KERNEL_EXEC"] = self.page_kernel if self.page_kernel_exec is None else self.page_kernel_exec
        if name not in known:
            raise ArchitectureError(self.name, "protection", repr(name), choices(name, known, "one of"))
        return known[name]

    def lay_out(self, request: LayoutRequest) -> Layout:
        """Ask the record's layout function and check its answer.

        Raises:
            LayoutError: the platform is unknown, RAM is too small, or the ranges contradict each other.
        """
        if request.platform is not None and request.platform not in self.platforms:
            valid = choices(request.platform, self.platforms, "valid")
            raise LayoutError(f"{self.name}: unknown platform {request.platform!r}: {valid}")
        if request.platform is None and self.platforms:
            request = evolve(request, platform=self.platforms[0])
        layout = self._ask_layout(request)
        _check_numbers(self, layout)
        _check_layout(self, layout)
        _check_banks(self, layout)
        return layout

    def _ask_layout(self, request: LayoutRequest) -> Layout:
        try:
            layout: object = self.layout(request)
        except ArchitectureError as error:  # a field of the Layout is not of its type
            raise LayoutError(f"{self.name}: {error}") from error
        except VmcoreError:
            raise
        except Exception as error:  # a stranger's code ran: whatever it raised is the cause
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise LayoutError(f"{self.name}: the layout function raised {cause}, expected a Layout") from error
        if not isinstance(layout, Layout):
            raise LayoutError(f"{self.name}: the layout function returned {layout!r}, expected a Layout")
        return layout


def _check_numbers(arch: Architecture, layout: Layout) -> None:
    """Check each number of a layout for itself."""
    for name in ("phys_offset", "page_offset", "kernel_end", "swapper_pg_dir", "vmalloc_start"):
        value = getattr(layout, name)
        if value < 0 or value % arch.page_size:
            raise LayoutError(
                f"{arch.name}: {name} is {value:#x}, expected a multiple of {arch.page_size:#x}, not negative"
            )
    last = arch.levels[0].entries - 1
    if not 0 <= layout.first_kernel_pgd <= last:
        raise LayoutError(
            f"{arch.name}: first_kernel_pgd is {layout.first_kernel_pgd}, "
            f"expected 0 to {last}, an entry of the root"
        )


def _check_layout(arch: Architecture, layout: Layout) -> None:
    """Check that the windows of a layout agree with each other."""

    def fail(subject: str, found: str, expected: str) -> None:
        raise LayoutError(f"{arch.name}: {subject} is {found}, expected {expected}")

    usable = sum(b.size for b in layout.banks)
    need = layout.kernel_end - layout.phys_offset
    if usable <= need:
        fail("RAM", format_size(usable), f"more than the {format_size(need)} the kernel itself takes")
    if layout.vmalloc_end > arch.word_mask or layout.vmalloc_start >= layout.vmalloc_end:
        window = f"{layout.vmalloc_start:#x}..{layout.vmalloc_end:#x}"
        fail("the vmalloc window", window, f"a window that is not empty within {arch.word_bits} bits; "
             "give less RAM or another vmalloc=")  # fmt: skip
    if layout.vmalloc_start < layout.high_memory and layout.page_offset <= layout.vmalloc_start:
        fail("vmalloc_start", f"{layout.vmalloc_start:#x}", f"high_memory {layout.high_memory:#x} or above")
    if layout.lowmem_end <= layout.kernel_end:
        fail("the end of lowmem", f"{layout.lowmem_end:#x}", f"one above {layout.kernel_end:#x}, where the kernel "
             "ends; give more RAM or a smaller vmalloc=")  # fmt: skip
    root, end = layout.swapper_pg_dir, layout.swapper_pg_dir + arch.root_bytes
    if not any(bank.start <= root and end <= bank.end for bank in layout.banks):
        fail("swapper_pg_dir", f"{root:#x}..{end:#x}", "a place inside one bank of RAM")
    if layout.kernel_end < end:
        fail("kernel_end", f"{layout.kernel_end:#x}", f"{end:#x} or above, where the root table ends")


def _check_banks(arch: Architecture, layout: Layout) -> None:
    """Check that banks are in order and made of whole pages."""

    def fail(subject: str, found: str, expected: str) -> None:
        raise LayoutError(f"{arch.name}: {subject} is {found}, expected {expected}")

    for bank, above in pairwise(layout.banks):
        if above.start < bank.end:
            fail(f"RAM bank {above}", "out of order", f"one that starts at {bank.end:#x} or above, after {bank}")
    for bank in layout.banks:
        if bank.start % arch.page_size or bank.end % arch.page_size:
            fail(f"RAM bank {bank}", "not page aligned", f"bounds that are multiples of {arch.page_size:#x}")


_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
_ZONE_ORDER = ("DMA", "DMA32", "NORMAL", "HIGHMEM")


def _validate(arch: Architecture) -> None:
    def need(ok: bool, name: str, found: object, expected: str) -> None:
        if not ok:
            raise ArchitectureError(arch.name or "architecture", name, found, expected)

    need(bool(_NAME.fullmatch(arch.name)), "name", repr(arch.name), "lower case words joined by - or _")
    need(arch.word_bits in (32, 64), "word_bits", arch.word_bits, "32 or 64")
    need(10 <= arch.page_shift <= 24, "page_shift", arch.page_shift, "10 to 24")
    need(2 <= len(arch.levels) <= 5, "levels", f"{len(arch.levels)} levels", "2 to 5 real levels")
    need(arch.max_cpus >= 1, "max_cpus", arch.max_cpus, "at least 1")
    need(arch.default_ram > 0, "default_ram", arch.default_ram, "a positive number of bytes")
    need(arch.page_shift <= arch.ioremap_max_order < arch.word_bits, "ioremap_max_order",
         arch.ioremap_max_order, f"{arch.page_shift} to {arch.word_bits - 1}")  # fmt: skip
    known = [name for name in _ZONE_ORDER if name in arch.zone_names]
    need(list(arch.zone_names) == known and "NORMAL" in known, "zones", arch.zone_names,
         f"NORMAL and any of the others once each, in the order {', '.join(_ZONE_ORDER)}")  # fmt: skip
    _validate_levels(arch, arch.levels, "levels")
    _validate_levels(arch, arch.hardware_levels, "hardware.levels")
    _validate_tables(arch)
    _validate_protections(arch)
    _validate_mirror(arch)
    canonical = arch.hardware.canonical_bits
    need(canonical == 0 or arch.levels[0].shift < canonical <= arch.word_bits, "hardware.canonical_bits",
         canonical, f"0, or {arch.levels[0].shift + 1} to {arch.word_bits}")  # fmt: skip


def _validate_protections(arch: Architecture) -> None:
    """Check that protections fit the last level's entries, and that PAGE_KERNEL makes one present."""

    def need(ok: bool, name: str, found: str, expected: str) -> None:
        if not ok:
            raise ArchitectureError(arch.name, name, found, expected)

    last = arch.levels[-1]
    limit = (1 << 8 * last.word_bytes) - 1
    for name, value in (("page_kernel", arch.page_kernel), ("page_kernel_exec", arch.page_kernel_exec),
                        ("smp_flags", arch.smp_flags), *arch.protections):  # fmt: skip
        need(value is None or (0 <= value <= limit and not value & last.frame_mask), name,
             f"{value:#x}" if value is not None else "", "bits of the last level outside the frame")  # fmt: skip
    need(bool(arch.page_kernel & last.present_mask), "page_kernel", f"{arch.page_kernel:#x}",
         f"a bit of present_mask {last.present_mask:#x}")  # fmt: skip
    present = arch.page_kernel & last.present_mask
    need(not present & ~arch.supported_pte_mask, "supported_pte_mask", f"{arch.supported_pte_mask:#x}",
         f"one that keeps {present:#x}, the present bits of page_kernel")  # fmt: skip


def _validate_mirror(arch: Architecture) -> None:
    """Check that the hardware half lies beside the Linux half, and that a cleared entry is clear in both."""
    mirror, last = arch.hardware.mirror, arch.levels[-1]
    if mirror is None:
        return
    fits = 0 <= mirror.offset <= arch.page_size - last.table_bytes
    if not fits or abs(mirror.offset - last.offset) < last.table_bytes:
        raise ArchitectureError(f"{arch.name}, hardware.mirror", "offset", f"{mirror.offset:#x}",
                                "a place in the table page beside the level's own entries")  # fmt: skip
    cleared = mirror.encode(np.zeros(1, f"u{last.word_bytes}"))
    if cleared.any():
        raise ArchitectureError(f"{arch.name}, hardware.mirror", "encode(0)", f"{int(cleared[0]):#x}", "0")


def _validate_levels(arch: Architecture, levels: tuple[Level, ...], where: str) -> None:
    """Check what holds for Linux' and the MMU's levels alike: they tile the address, masks fit the word."""
    below = arch.page_shift
    names = [level.name for level in levels]
    for level in reversed(levels):
        subject = f"{arch.name}, {where} {level.name!r}"

        def need(ok: bool, name: str, found: object, expected: str, subject: str = subject) -> None:
            if not ok:
                raise ArchitectureError(subject, name, found, expected)

        need(names.count(level.name) == 1, "name", repr(level.name), "a name no other level has")
        need(level.shift == below, "shift", level.shift, f"{below}, where the level below ends")
        need(level.bits >= 1, "bits", level.bits, "at least 1 (leave a folded level out)")
        below = level.shift + level.bits
        need(below <= arch.word_bits, "bits", level.bits, f"levels that end within {arch.word_bits} bits")
        need(level.entry_bytes in (4, 8) and level.word_bytes in (4, 8), "entry_bytes", level.entry_bytes,
             "4 or 8 bytes, in words of 4 or 8")  # fmt: skip
        limit = (1 << 8 * level.word_bytes) - 1
        for name in ("none_mask", "present_mask", "missing_mask", "bad_mask", "good_value", "table_flags"):
            value = getattr(level, name)
            need(0 <= value <= limit, name, f"{value:#x}", f"at most {limit:#x}, the entry's word")
        for name in ("none_mask", "missing_mask"):
            need(getattr(level, name) != 0, name, "0x0", "at least one bit, or every entry passes the test")
        need(level.offset >= 0, "offset", level.offset, "0 or more bytes")
        need(bool(level.frame), "frame", "empty", "at least one (entry bit, width, address bit)")
        used = 0
        for segment in level.frame:
            mask = segment.entry_mask
            need(segment.width > 0 and mask <= limit and not mask & used, "frame", segment,
                 "segments inside the word that do not overlap")  # fmt: skip
            used |= mask
        need(not level.good_value & ~level.bad_mask, "good_value", f"{level.good_value:#x}",
             f"bits of bad_mask {level.bad_mask:#x}")  # fmt: skip


def _validate_tables(arch: Architecture) -> None:
    """Check that a table entry as Linux writes it is neither missing, bad nor a leaf, and that tables fit."""
    for position, level in enumerate(arch.levels):

        def need(ok: bool, name: str, found: object, expected: str, level: Level = level) -> None:
            if not ok:
                raise ArchitectureError(f"{arch.name}, levels {level.name!r}", name, found, expected)

        room = arch.page_size if position else max(arch.page_size, level.table_bytes)
        # tables may be two to a page, as long as they lie at multiples of their size
        below = arch.levels[position + 1 : position + 2]
        lowest = min([arch.page_shift, *(deeper.table_bytes.bit_length() - 1 for deeper in below)])
        for segment in level.frame:
            need(segment.address_bit >= lowest, "frame", segment,
                 f"address bits from {lowest} up, where a page or table begins")  # fmt: skip
        need(level.offset + level.table_bytes <= room, "bits", level.bits,
             f"a table that fits its page of {arch.page_size:#x} bytes")  # fmt: skip
        if level is arch.levels[-1]:
            need(not level.prebuilt, "prebuilt", level.prebuilt, "False, there are no tables below the last level")
            continue
        flags = level.table_flags
        need(not flags & level.frame_mask, "table_flags", f"{flags:#x}", "bits outside the frame")
        need(bool(flags & level.present_mask), "table_flags", f"{flags:#x}",
             f"a bit of present_mask {level.present_mask:#x}")  # fmt: skip
        need(flags & level.bad_mask == level.good_value, "table_flags", f"{flags:#x}",
             f"a value that is not bad: & {level.bad_mask:#x} == {level.good_value:#x}")  # fmt: skip
        for leaf in level.leaves:
            need(flags & leaf.mask != leaf.value, "leaves", leaf.name,
                 f"a test that the table entry {flags:#x} does not pass")  # fmt: skip
