"""The fields of a machine's record, and the numbers that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import Factory, field, frozen

from vmcore.architecture.fields import Flags, as_flags, as_names, typed
from vmcore.architecture.hardware import HardwareView, LinearMap
from vmcore.architecture.identity import KernelImage
from vmcore.architecture.layout import Layout, LayoutRequest, Zone
from vmcore.architecture.levels import Level
from vmcore.architecture.symbols import Symbols
from vmcore.errors import ArchitectureError, choices
from vmcore.flags import GFP, GFP_KERNEL

_AS_LINUX = HardwareView()
_WEAK = Symbols()


def _levels(value: Iterable[Level]) -> tuple[Level, ...]:
    return tuple(value)


def _zones(value: Iterable[Zone | str]) -> tuple[Zone, ...]:
    return tuple(Zone(z) if isinstance(z, str) else z for z in value)


@frozen(kw_only=True, field_transformer=typed)
class Parameters:
    """One machine, complete and frozen. `vmcore.architecture` explains how to write one.

    Attributes:
        name: lower case; users type it.
        aliases: other names of the machine, lower case, as uname or distributions use them. ``vmcore`` does not
            accept an alias, but its error suggests the record's name.
        description: one line for people.
        word_bits: BITS_PER_LONG, 32 or 64.
        page_shift: PAGE_SHIFT.
        levels: the real levels, root first, as Linux sees them.
        page_kernel: PAGE_KERNEL, in the encoding of the last level.
        page_kernel_exec: PAGE_KERNEL_EXEC; None if the headers do not define it.
        smp_flags: bits that are ORed into kernel protections if the machine has more than one CPU.
        supported_pte_mask: bits that a page-table entry may have (``__supported_pte_mask``).
        protections: other named protections ("PAGE_KERNEL_RO", "IOREMAP", ...).
        ioremap_max_order: IOREMAP_MAX_ORDER; default 7 + PAGE_SHIFT (include/linux/vmalloc.h).
        zones: the zones, in zone order; NORMAL is always one of them.
        layout: function from a `LayoutRequest` to a `Layout`; it raises `LayoutError`.
        platforms: the valid values of ``platform=``, the default first; empty if there is no choice.
        default_ram: bytes of RAM if the user gives none.
        max_cpus: the greatest number of CPUs that the machine can have.
        hardware: the MMU's view.
        linear_map: the mapping of lowmem; None: it is unknown, and lowmem is not in the tables.
        symbols: the link symbols, which are the parts that are behaviour and not data.
        era: the version of the kernel whose view ``levels`` shows.
        image: the VMCOREINFO of its kernels; None: the root of a dump must be given.
    """

    name: str
    aliases: tuple[str, ...] = field(default=(), converter=as_names)
    description: str
    word_bits: int
    page_shift: int
    levels: tuple[Level, ...] = field(converter=_levels)
    page_kernel: int
    page_kernel_exec: int | None = None
    smp_flags: int = 0
    supported_pte_mask: int = (1 << 64) - 1
    protections: Flags = field(default=(), converter=as_flags)
    ioremap_max_order: int = Factory(lambda self: 7 + self.page_shift, takes_self=True)
    zones: tuple[Zone, ...] = field(converter=_zones)
    layout: Callable[[LayoutRequest], Layout]
    platforms: tuple[str, ...] = field(default=(), converter=as_names)
    default_ram: int = 1 << 30
    max_cpus: int = 32
    hardware: HardwareView = _AS_LINUX
    linear_map: LinearMap | None = None
    symbols: Symbols = _WEAK
    era: str = "2.6.24"
    image: KernelImage | None = None

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
    def frames_end(self) -> int:
        """The first frame that no last-level entry can hold."""
        return self.levels[-1].physical_end >> self.page_shift

    @property
    def frame_mask(self) -> int:
        """The bits of a last-level entry in which Linux or the MMU finds the frame."""
        return self.levels[-1].frame_mask | self.hardware_levels[-1].frame_mask

    @property
    def entry_end(self) -> int:
        """The first number that is too large for a last-level entry."""
        return 1 << 8 * self.levels[-1].word_bytes

    @property
    def zone_names(self) -> tuple[str, ...]:
        """Names of the configured zones, in zone order."""
        return tuple(zone.name for zone in self.zones)

    @property
    def gfp_vmalloc32(self) -> int:
        """GFP_VMALLOC32 (mm/vmalloc.c:587): DMA32, else DMA, on 64 bit. Plain GFP_KERNEL on 32."""
        if self.word_bits == 64 and "DMA32" in self.zone_names:
            return GFP_KERNEL | int(GFP.DMA32)
        if self.word_bits == 64 and "DMA" in self.zone_names:
            return GFP_KERNEL | int(GFP.DMA)
        return GFP_KERNEL

    @property
    def hardware_levels(self) -> tuple[Level, ...]:
        """The levels that the MMU walks, root first."""
        return self.levels if self.hardware.levels is None else self.hardware.levels

    @property
    def root_bytes(self) -> int:
        """The number of bytes that Linux allocates for a root table."""
        return max(self.levels[0].table_bytes, 1)

    def protection(self, name: str) -> int:
        """Return a protection by its kernel name.

        Raises:
            ArchitectureError: the record has no protection of that name.
        """
        known = {"PAGE_KERNEL": self.page_kernel, **dict(self.protections)}
        known["PAGE_KERNEL_EXEC"] = self.page_kernel if self.page_kernel_exec is None else self.page_kernel_exec
        if name not in known:
            raise ArchitectureError(self.name, "protection", repr(name), choices(name, known, "one of"))
        return known[name]
