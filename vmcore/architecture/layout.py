"""The memory layout of one machine: zones, windows of virtual addresses, and RAM."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen

from vmcore.architecture.fields import typed
from vmcore.units import Bank, format_size


@frozen(field_transformer=typed)
class Zone:
    """A zone of physical memory, in zone order: the frames below the address ``below``, bytes (None: the rest).

    A HIGHMEM zone is the part that the linear map does not reach. The zones before it end where it begins.
    """

    name: str
    below: int | None = None


@frozen(field_transformer=typed)
class Window:
    """A range of virtual addresses: ``start <= va < end``."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes in the window."""
        return self.end - self.start


@frozen(kw_only=True)
class LayoutRequest:
    """The argument of a record's layout function.

    Attributes:
        ram: bytes, placed where the platform's RAM begins, or banks.
        vmalloc: bytes of ``vmalloc=``; None: it is not given.
        platform: a name from ``Architecture.platforms``; None: the first of them.
    """

    ram: int | tuple[Bank, ...]
    vmalloc: int | None = None
    platform: str | None = None

    def banks(self, phys_offset: int) -> tuple[Bank, ...]:
        """Return the banks. A plain size becomes one bank at ``phys_offset``."""
        if isinstance(self.ram, int):
            return (Bank(phys_offset, phys_offset + self.ram),)
        return self.ram


def as_banks(value: Iterable[Bank]) -> tuple[Bank, ...]:
    """Convert banks to a tuple."""
    return tuple(value)


@frozen(kw_only=True, field_transformer=typed)
class Layout:
    """The memory layout of one machine.

    Attributes:
        page_offset: PAGE_OFFSET, the first virtual address of the linear map.
        phys_offset: PHYS_OFFSET, the physical address that is mapped at PAGE_OFFSET.
        lowmem_end: physical end of the linear map, bytes.
        vmalloc_start: VMALLOC_START.
        vmalloc_end: VMALLOC_END, exactly as the C file sees it. Some headers define it as the last byte.
        modules: the window that modules are loaded into; None if ``module_alloc`` is ``vmalloc_exec``.
        swapper_pg_dir: physical address of init_mm's root table.
        kernel_end: physical address; the frames below it hold the kernel and are never allocated.
        first_kernel_pgd: index of the first root entry that a new mm copies from init_mm.
        banks: the RAM in use, without RAM that was cut off.
        notes: log lines about RAM that could not be used.
        regions: other named windows, for people.
        shared_kernel_tables: processes share the tables below the kernel's root entries (SHARED_KERNEL_PMD). If
            False, each process gets copies of those tables that are pre-built.
    """

    page_offset: int
    phys_offset: int
    lowmem_end: int
    vmalloc_start: int
    vmalloc_end: int
    swapper_pg_dir: int
    kernel_end: int
    first_kernel_pgd: int
    banks: tuple[Bank, ...] = field(converter=as_banks)
    modules: Window | None = None
    notes: tuple[str, ...] = ()
    regions: tuple[tuple[str, Window], ...] = ()
    shared_kernel_tables: bool = True

    @property
    def high_memory(self) -> int:
        """First virtual address above the linear map."""
        return self.lowmem_end - self.phys_offset + self.page_offset

    @property
    def vmalloc(self) -> Window:
        """The vmalloc window, [VMALLOC_START, VMALLOC_END)."""
        return Window(self.vmalloc_start, self.vmalloc_end)


def cut_banks(banks: tuple[Bank, ...], end: int, reason: str) -> tuple[tuple[Bank, ...], tuple[str, ...]]:
    """Cut off the RAM at and above ``end``, and write a log line about it, as kernels do.

    Returns:
        The banks that remain, and the log lines. There are no lines if nothing was cut off.
    """
    kept = tuple(Bank(b.start, min(b.end, end)) for b in banks if b.start < end)
    lost = sum(b.size for b in banks) - sum(b.size for b in kept)
    note = (f"<4>Warning: {format_size(lost)} of RAM above {end:#x} cannot be used: {reason}.\n",)
    return kept, note if lost else ()
