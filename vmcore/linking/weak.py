"""A plugin of the core with the weak definitions, which hold for symbols that no architecture defines."""

from __future__ import annotations

from vmcore.architecture import Architecture
from vmcore.hookspecs import API_VERSION, FaultSymbol, FlushSymbol, SyncSymbol, hookimpl

vmcore_api = API_VERSION


def flush_nothing(kernel: object, cpu: int, start: int, end: int) -> None:
    """Do nothing (include/asm-generic/cacheflush.h: an empty macro)."""


def vmalloc_sync_all(kernel: object) -> None:
    """Do nothing (mm/vmalloc.c:769, ``__attribute__((weak))``)."""


def vmalloc_fault(kernel: object, cpu: int, address: int, error_code: int) -> bool:
    """Give up, because kernel mappings need no repair on this machine."""
    return False


@hookimpl(trylast=True)
def vmcore_flush_cache_vmap(arch: Architecture) -> FlushSymbol:
    """Define the weak flush_cache_vmap."""
    return flush_nothing


@hookimpl(trylast=True)
def vmcore_flush_cache_vunmap(arch: Architecture) -> FlushSymbol:
    """Define the weak flush_cache_vunmap."""
    return flush_nothing


@hookimpl(trylast=True)
def vmcore_flush_tlb_kernel_range(arch: Architecture) -> FlushSymbol:
    """Define the weak flush_tlb_kernel_range."""
    return flush_nothing


@hookimpl(trylast=True)
def vmcore_vmalloc_sync_all(arch: Architecture) -> SyncSymbol:
    """Define the weak vmalloc_sync_all."""
    return vmalloc_sync_all


@hookimpl(trylast=True)
def vmcore_vmalloc_fault(arch: Architecture) -> FaultSymbol:
    """Define the weak vmalloc_fault."""
    return vmalloc_fault
