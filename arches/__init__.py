"""The built-in architectures, imported as ``vmcore_arches``; they arrive like anybody else's."""

from __future__ import annotations

from vmcore.architecture import Architecture
from vmcore.hookspecs import FaultSymbol, FlushSymbol, SyncSymbol, hookimpl

from .arm import family as arm
from .arm.armv5 import ARMV5
from .arm.armv7 import ARMV7, ARMV7_HIGHMEM
from .x86 import family as x86
from .x86 import i386_pae, x86_64
from .x86.i386 import I386, I386_HIGHMEM
from .x86.i386_pae import I386_PAE, I386_PAE_HIGHMEM
from .x86.x86_64 import X86_64

vmcore_api = (1, 0)

I386_FAMILY = frozenset({I386.name, I386_HIGHMEM.name})
PAE_FAMILY = frozenset({I386_PAE.name, I386_PAE_HIGHMEM.name})
X86_FAMILY = I386_FAMILY | PAE_FAMILY | {X86_64.name}
ARM_FAMILY = frozenset({ARMV5.name, ARMV7.name, ARMV7_HIGHMEM.name})

# Symbols are found by name, because people evolve a record and keep its name.
_SYNC: dict[str, SyncSymbol] = {
    **dict.fromkeys(I386_FAMILY, x86.vmalloc_sync_all_32),
    **dict.fromkeys(PAE_FAMILY, i386_pae.vmalloc_sync_all),
    X86_64.name: x86_64.vmalloc_sync_all,
}
_FAULT: dict[str, FaultSymbol] = {
    **dict.fromkeys(I386_FAMILY | PAE_FAMILY, x86.vmalloc_fault_32),
    X86_64.name: x86_64.vmalloc_fault,
    **dict.fromkeys(ARM_FAMILY, arm.vmalloc_fault),
}
_FLUSH_TLB: dict[str, FlushSymbol] = {
    **dict.fromkeys(X86_FAMILY, x86.flush_tlb_kernel_range),
    ARMV5.name: arm.flush_tlb_kernel_range,
    **dict.fromkeys((ARMV7.name, ARMV7_HIGHMEM.name), arm.flush_tlb_kernel_range_v6),
}


@hookimpl
def vmcore_architectures() -> tuple[Architecture, ...]:
    """Bring the eight built-in records."""
    return I386, I386_HIGHMEM, I386_PAE, I386_PAE_HIGHMEM, X86_64, ARMV5, ARMV7, ARMV7_HIGHMEM


@hookimpl
def vmcore_flush_cache_vmap(arch: Architecture) -> FlushSymbol | None:
    """Define flush_cache_vmap for ARM; x86 caches are coherent."""
    return arm.flush_cache if arch.name in ARM_FAMILY else None


@hookimpl
def vmcore_flush_cache_vunmap(arch: Architecture) -> FlushSymbol | None:
    """Define flush_cache_vunmap for ARM; x86 caches are coherent."""
    return arm.flush_cache if arch.name in ARM_FAMILY else None


@hookimpl
def vmcore_flush_tlb_kernel_range(arch: Architecture) -> FlushSymbol | None:
    """Define flush_tlb_kernel_range for every built-in machine."""
    return _FLUSH_TLB.get(arch.name)


@hookimpl
def vmcore_vmalloc_sync_all(arch: Architecture) -> SyncSymbol | None:
    """Define vmalloc_sync_all for x86; ARM keeps the weak one."""
    return _SYNC.get(arch.name)


@hookimpl
def vmcore_vmalloc_fault(arch: Architecture) -> FaultSymbol | None:
    """Define vmalloc_fault for every built-in machine."""
    return _FAULT.get(arch.name)
