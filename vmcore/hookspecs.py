"""The whole plugin contract: every hook, and no code.

There are three kinds of hooks:

- *Discovery* hooks are called once per registry.
- *Link* hooks return a callable, or None to decline. They are called only when a machine is built, as a linker
  resolves a symbol. The machine then calls the symbol as a plain function. A record brings its own definitions as
  `vmcore.architecture.Symbols`. A link hook defines or wraps a symbol of another record.
- *Event* hooks are called for each event: once per run of pages, never once per page.

Link symbols and events run under the locks that the C code holds at that point. They must not call back into
vmalloc. They must not take vmlist_lock (find_vm_area, vread) where it is held, because that is a `KernelBug`,
"recursive vmlist_lock". Any other exception that they raise reaches the caller as a `PluginError`. The arrays of
an event are read-only views. They are valid only during the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import numpy as np
import pluggy

from vmcore.architecture import Architecture
from vmcore.events import Flush
from vmcore.host import Host
from vmcore.placement.seam import Generation

#: (major, minor). A plugin's ``vmcore_api`` must have this major number and no greater minor number.
API_VERSION: Final = (1, 3)

PROJECT: Final = "vmcore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

FlushSymbol: TypeAlias = Callable[[Host, int, int, int], None]
SyncSymbol: TypeAlias = Callable[[Host], None]
FaultSymbol: TypeAlias = Callable[[Host, int, int, int], bool]

# ---- discovery


@hookspec
def vmcore_architectures() -> Iterable[Architecture]:
    """Discovery: return the architectures that this plugin brings.

    Called: once per registry.
    Default: none.
    Returns: `Architecture` records; names must be new.
    Added: contract 1.0.
    """


@hookspec
def vmcore_placements() -> Iterable[Generation]:
    """Discovery: return the placement generations that this plugin brings.

    Called: once per registry.
    Default: the built-in ones, from 2.6.23 to 6.16.
    Returns: `vmcore.placement.seam.Generation` records; names must be new.
    Added: contract 1.3.
    """


# ---- link: symbols that the C file leaves to the architecture


@hookspec(firstresult=True)
def vmcore_flush_cache_vmap(arch: Architecture) -> FlushSymbol | None:
    """Link: return ``flush_cache_vmap(kernel, cpu, start, end)`` for *arch*, or None to decline.

    Called: the symbol, after entries were written, also if that failed half-way (mm/vmalloc.c:164).
    Default: does nothing (include/asm-generic/cacheflush.h).
    Returns: a callable that returns nothing. ``start`` and ``end`` are virtual addresses, bytes.
    Added: contract 1.0.
    """


@hookspec(firstresult=True)
def vmcore_flush_cache_vunmap(arch: Architecture) -> FlushSymbol | None:
    """Link: return ``flush_cache_vunmap(kernel, cpu, start, end)`` for *arch*, or None to decline.

    Called: the symbol, before entries are cleared (mm/vmalloc.c:80). On removal vmlist_lock is held.
    Default: does nothing.
    Returns: a callable that returns nothing. The range includes the guard page.
    Added: contract 1.0.
    """


@hookspec(firstresult=True)
def vmcore_flush_tlb_kernel_range(arch: Architecture) -> FlushSymbol | None:
    """Link: return ``flush_tlb_kernel_range(kernel, cpu, start, end)`` for *arch*, or None to decline.

    Called: the symbol, after entries were cleared (mm/vmalloc.c:87). On removal vmlist_lock is held.
    Default: does nothing.
    Returns: a callable that returns nothing.
    Added: contract 1.0.
    """


@hookspec(firstresult=True)
def vmcore_vmalloc_sync_all(arch: Architecture) -> SyncSymbol | None:
    """Link: return the strong ``vmalloc_sync_all(kernel)`` for *arch*, or None to decline.

    Called: the symbol, by alloc_vm_area after the tables exist (mm/vmalloc.c:811).
    Default: the weak empty function (mm/vmalloc.c:769).
    Returns: a callable that returns nothing.
    Added: contract 1.0.
    """


@hookspec(firstresult=True)
def vmcore_vmalloc_fault(arch: Architecture) -> FaultSymbol | None:
    """Link: return ``vmalloc_fault(kernel, cpu, address, error_code)`` for *arch*, or None to decline.

    Called: the symbol, when an access of a CPU faults in the mm that it runs (arch/*/mm/fault.c). On every
        architecture ``error_code`` has the bits of x86: 1 the page is present but does not allow the access,
        2 a store, 4 user mode, 8 a reserved bit, 16 a fetch.
    Default: gives up.
    Returns: a callable. It returns True if it copied the entry, so that the access is tried again, and False if
        the fault is real.
    Added: contract 1.0.
    """


# ---- events: for tracers and reports


@hookspec
def vmcore_kmalloc(size: int, node: int, gfp: int, handle: int | None) -> None:
    """Event: kmalloc_node() was called.

    Called: per call. *handle* is None if the call failed and 16 (ZERO_SIZE_PTR) for *size* 0. Otherwise it is a
        number that is never used again. *size* is in bytes. *node* is -1 for any node.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_kfree(handle: int | None) -> None:
    """Event: kfree() was called.

    Called: per call. *handle* is None for kfree(NULL) and 16 for ZERO_SIZE_PTR.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_pages_allocated(node: int, gfp: int, zone: str, frames: np.ndarray, failed: bool) -> None:
    """Event: a run of pages was allocated.

    Called: per run. *frames* (int64) are in the order of allocation. *zone* is the requested zone. *failed* is
        true if one more page was requested and refused.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_pages_freed(frames: np.ndarray) -> None:
    """Event: a run of pages was freed.

    Called: per run. *frames* (int64) are in the order in which they were freed.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_table_allocated(level: str, address: int, table: int | None) -> None:
    """Event: a page table was allocated, or its allocation failed.

    Called: per table. *level* is the table's own level, for example "pte". *address* is the virtual address that
        the walk has reached. *table* is the physical address of the table, or None if the allocation failed.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_range_mapped(address: int, entries: np.ndarray, frames: np.ndarray) -> None:
    """Event: last-level entries were written for consecutive pages from *address* on.

    Called: per run. *entries* are Linux words, *frames* are int64. A run ends at a new table, a warning or a
        failure.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_range_cleared(address: int, entries: np.ndarray) -> None:
    """Event: last-level entries that were not none were cleared for consecutive pages from *address* on.

    Called: per run. *entries* are the words before they were cleared. A run ends at an entry that was none, or at
        a warning.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_flush(flush: Flush) -> None:
    """Event: a flush symbol has run.

    Called: after each call. *flush* has the symbol, the CPU, the range and the actions of the symbol.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_sync() -> None:
    """Event: vmalloc_sync_all() has run.

    Called: after each call.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_page_inserted(address: int, frames: np.ndarray, errno: int) -> None:
    """Event: vm_insert_page() was called for consecutive user pages from *address* on.

    Called: per run of calls with one outcome. *errno* is 0, or the negative number that each call returned.
        *frames* are int64; -1 is a NULL page.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_area_added(address: int, size: int, flags: int) -> None:
    """Event: an area was put on vmlist.

    Called: per area, with vmlist_lock held. *size* is in bytes and includes the guard page.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_area_removed(address: int, size: int, flags: int) -> None:
    """Event: an area was taken off vmlist.

    Called: per area, with vmlist_lock held, after its pages were unmapped. *size* is in bytes and includes the
        guard page.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_printk(line: str) -> None:
    """Event: the kernel logged a line.

    Called: per line. *line* has its ``<n>`` level and its newline.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_warn(condition: str, function: str) -> None:
    """Event: a WARN_ON fired.

    Called: each time. *condition* is its C text, and *function* is the C function that contains it.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_bug(condition: str, function: str) -> None:
    """Event: a BUG_ON fired. The kernel is dead.

    Called: once, before `KernelBug` is raised.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_oops(address: int, access: str) -> None:
    """Event: the kernel made an access that the machine cannot do. The kernel is dead.

    Called: once, before `KernelOops` is raised. *access* is "read", "write" or another kind of access.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_tlb_filled(cpu: int, addresses: np.ndarray, physical: np.ndarray) -> None:
    """Event: a CPU's TLB was filled with translations of pages.

    Called: per access that missed. *addresses* (uint64) and *physical* (int64) are those of the pages' first
        bytes, in order.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.1.
    """


@hookspec
def vmcore_tlb_dropped(cpu: int, scope: str, start: int, end: int, entries: int) -> None:
    """Event: entries of a CPU's TLB were dropped.

    Called: per CPU that had such entries. *scope* is "all", "pages" for those of ``start`` to ``end``, "switch"
        for a switch of the mm, or "mm" if a process was freed.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.1.
    """


@hookspec
def vmcore_fault(cpu: int, address: int, access: str, repaired: bool) -> None:
    """Event: an access of a CPU faulted, and vmalloc_fault() has returned.

    Called: per fault. *access* is "read", "write" or "execute". *repaired* is true if the access is tried again.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.1.
    """


@hookspec
def vmcore_ipi(cpu: int, targets: tuple[int, ...], reason: str) -> None:
    """Event: a CPU interrupts others and waits for them.

    Called: per interrupt. *targets* are the numbers of the other CPUs, and *reason* is their task.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.1.
    """
