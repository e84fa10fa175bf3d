"""The whole plugin contract: every hook, and no code.

Three kinds. *Discovery* hooks are asked once per registry. *Link* hooks return a callable (or None to
decline) and are asked only when a machine is built, as a linker resolves a symbol; the call itself is a
plain call. A record brings its own definitions as `vmcore.architecture.Symbols`; a link hook defines or wraps a
symbol of another record. *Event* hooks are told of each event, once per run of pages, never per page.

Link symbols and events run under the locks the C code holds at that point. They must not call back into
vmalloc, nor take vmlist_lock where it is held (find_vm_area, vread): that is a `KernelBug`, "recursive
vmlist_lock". Any other exception of theirs reaches the caller as a `PluginError`. Arrays handed to an event are
read-only views, valid during the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import numpy as np
import pluggy

from vmcore.architecture import Architecture
from vmcore.events import Flush
from vmcore.host import Host

#: (major, minor). A plugin's ``vmcore_api`` must have this major and no newer minor.
API_VERSION: Final = (1, 2)

PROJECT: Final = "vmcore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

FlushSymbol: TypeAlias = Callable[[Host, int, int, int], None]
SyncSymbol: TypeAlias = Callable[[Host], None]
FaultSymbol: TypeAlias = Callable[[Host, int, int, int], bool]

# ---- discovery


@hookspec
def vmcore_architectures() -> Iterable[Architecture]:
    """Discovery: return the architectures this plugin brings.

    Called: once per registry.
    Default: none.
    Returns: `Architecture` records; names must be new.
    Added: contract 1.0.
    """


# ---- link: symbols the C file leaves to the architecture


@hookspec(firstresult=True)
def vmcore_flush_cache_vmap(arch: Architecture) -> FlushSymbol | None:
    """Link: return ``flush_cache_vmap(kernel, cpu, start, end)`` for *arch*, or None to decline.

    Called: the symbol, after entries were written, even when that failed half-way (mm/vmalloc.c:164).
    Default: does nothing (include/asm-generic/cacheflush.h).
    Returns: a callable that returns nothing. ``start``, ``end``: virtual addresses, bytes.
    Added: contract 1.0.
    """


@hookspec(firstresult=True)
def vmcore_flush_cache_vunmap(arch: Architecture) -> FlushSymbol | None:
    """Link: return ``flush_cache_vunmap(kernel, cpu, start, end)`` for *arch*, or None to decline.

    Called: the symbol, before entries are cleared, vmlist_lock held on removal (mm/vmalloc.c:80).
    Default: does nothing.
    Returns: a callable that returns nothing. The range includes the guard page.
    Added: contract 1.0.
    """


@hookspec(firstresult=True)
def vmcore_flush_tlb_kernel_range(arch: Architecture) -> FlushSymbol | None:
    """Link: return ``flush_tlb_kernel_range(kernel, cpu, start, end)`` for *arch*, or None to decline.

    Called: the symbol, after entries were cleared, vmlist_lock held on removal (mm/vmalloc.c:87).
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

    Called: the symbol, when an access of a CPU faults in the mm it runs (arch/*/mm/fault.c). The bits of
        ``error_code`` are those of x86 everywhere: 1 a page is there and does not allow it, 2 a store,
        4 user mode, 8 a reserved bit, 16 a fetch.
    Default: gives up.
    Returns: a callable; True: the entry was copied, try again; False: the fault is real.
    Added: contract 1.0.
    """


# ---- events: for tracers and reports


@hookspec
def vmcore_kmalloc(size: int, node: int, gfp: int, handle: int | None) -> None:
    """Event: kmalloc_node() was called.

    Called: per call; *handle* is None when it failed and 16 (ZERO_SIZE_PTR) for *size* 0, else a number
        that is never used again; *size* bytes; *node* -1: any.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_kfree(handle: int | None) -> None:
    """Event: kfree() was called.

    Called: per call; None for kfree(NULL), 16 for ZERO_SIZE_PTR.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_pages_allocated(node: int, gfp: int, zone: str, frames: np.ndarray, failed: bool) -> None:
    """Event: a run of pages was allocated.

    Called: per run; *frames* int64, in the order they were handed out; *zone* is the one asked for;
        *failed*: one more was asked for and refused.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_pages_freed(frames: np.ndarray) -> None:
    """Event: a run of pages was given back.

    Called: per run; *frames* int64, in the order they were freed.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_table_allocated(level: str, address: int, table: int | None) -> None:
    """Event: a page table was allocated, or could not be.

    Called: per table; *level* the table's own ("pte"), *address* the virtual address the walk is at,
        *table* its physical address, None: refused.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_range_mapped(address: int, entries: np.ndarray, frames: np.ndarray) -> None:
    """Event: last-level entries were written for consecutive pages from *address* on.

    Called: per run; *entries* Linux words, *frames* int64. A run ends at a new table, a warning, a failure.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_range_cleared(address: int, entries: np.ndarray) -> None:
    """Event: last-level entries that were not none were cleared for consecutive pages from *address* on.

    Called: per run; *entries* are the words before. A run ends at an entry that was none, or a warning.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_flush(flush: Flush) -> None:
    """Event: a flush symbol has run.

    Called: per call, after it; *flush* says symbol, cpu, range and the actions of the symbol.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_sync() -> None:
    """Event: vmalloc_sync_all() has run.

    Called: per call, after it.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_page_inserted(address: int, frames: np.ndarray, errno: int) -> None:
    """Event: vm_insert_page() was called for consecutive user pages from *address* on.

    Called: per run with one outcome; *errno* 0, or the negative number each call answered; *frames* int64,
        -1: NULL.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_area_added(address: int, size: int, flags: int) -> None:
    """Event: an area was put on vmlist.

    Called: per area, vmlist_lock held; *size* bytes, guard page included.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_area_removed(address: int, size: int, flags: int) -> None:
    """Event: an area was taken off vmlist.

    Called: per area, vmlist_lock held, its pages unmapped; *size* bytes, guard page included.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_printk(line: str) -> None:
    """Event: the kernel logged a line.

    Called: per line; *line* with its ``<n>`` level and newline.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_warn(condition: str, function: str) -> None:
    """Event: a WARN_ON fired.

    Called: per firing; the C text of the condition and the C function.
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
    """Event: the kernel made an access the machine cannot do. It is dead.

    Called: once, before `KernelOops` is raised; *access* "read", "write" or the kind of access.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.0.
    """


@hookspec
def vmcore_tlb_filled(cpu: int, addresses: np.ndarray, physical: np.ndarray) -> None:
    """Event: a CPU's TLB keeps pages from now on.

    Called: per access that missed; *addresses* uint64 and *physical* int64, of the pages' first bytes, in order.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.1.
    """


@hookspec
def vmcore_tlb_dropped(cpu: int, scope: str, start: int, end: int, entries: int) -> None:
    """Event: a CPU's TLB lost entries that were dropped.

    Called: per CPU that had some; *scope* "all", "pages" of ``start`` to ``end``, "switch" of the mm, or "mm":
        a process was freed.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.1.
    """


@hookspec
def vmcore_fault(cpu: int, address: int, access: str, repaired: bool) -> None:
    """Event: an access of a CPU faulted, and vmalloc_fault() has answered.

    Called: per fault; *access* "read", "write" or "execute"; *repaired*: it is tried again.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.1.
    """


@hookspec
def vmcore_ipi(cpu: int, targets: tuple[int, ...], reason: str) -> None:
    """Event: a CPU interrupts others and waits for them.

    Called: per interrupt; *targets* are the other CPUs, *reason* their task.
    Default: without listeners nothing is computed.
    Returns: ignored.
    Added: contract 1.1.
    """
