"""A plugin of the core that defines the symbols of records, see `vmcore.architecture.Symbols`.

A definition of a record is strong. A link hook that defines the same symbol is a second definition, which is a
`vmcore.errors.LinkError`.
"""

from __future__ import annotations

from vmcore.architecture import Architecture
from vmcore.hookspecs import API_VERSION, FaultSymbol, FlushSymbol, SyncSymbol, hookimpl

vmcore_api = API_VERSION


@hookimpl
def vmcore_flush_cache_vmap(arch: Architecture) -> FlushSymbol | None:
    """Define the record's flush_cache_vmap."""
    return arch.symbols.flush_cache_vmap


@hookimpl
def vmcore_flush_cache_vunmap(arch: Architecture) -> FlushSymbol | None:
    """Define the record's flush_cache_vunmap."""
    return arch.symbols.flush_cache_vunmap


@hookimpl
def vmcore_flush_tlb_kernel_range(arch: Architecture) -> FlushSymbol | None:
    """Define the record's flush_tlb_kernel_range."""
    return arch.symbols.flush_tlb_kernel_range


@hookimpl
def vmcore_vmalloc_sync_all(arch: Architecture) -> SyncSymbol | None:
    """Define the record's vmalloc_sync_all."""
    return arch.symbols.vmalloc_sync_all


@hookimpl
def vmcore_vmalloc_fault(arch: Architecture) -> FaultSymbol | None:
    """Define the record's vmalloc_fault."""
    return arch.symbols.vmalloc_fault
