"""The link symbols that a record brings: the parts of an architecture that are behaviour and not data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from vmcore.architecture.fields import typed


@frozen(kw_only=True, field_transformer=typed)
class Symbols:
    """The strong definitions of one machine. A symbol that is None is left to a link hook or its weak definition.

    ``kernel`` is the kernel that calls the symbol, a `vmcore.host.Host`. ``cpu`` is the number of the CPU that
    runs the symbol. `vmcore.hookspecs` describes each symbol.

    Attributes:
        flush_cache_vmap: ``(kernel, cpu, start, end)``; runs after a range was mapped.
        flush_cache_vunmap: ``(kernel, cpu, start, end)``; runs before a range is unmapped.
        flush_tlb_kernel_range: ``(kernel, cpu, start, end)``; runs after a range was unmapped.
        vmalloc_sync_all: ``(kernel)``; brings the root tables of all processes up to date.
        vmalloc_fault: ``(kernel, cpu, address, error_code)``; repairs a kernel fault. True: try again.
    """

    flush_cache_vmap: Callable[[Any, int, int, int], None] | None = None
    flush_cache_vunmap: Callable[[Any, int, int, int], None] | None = None
    flush_tlb_kernel_range: Callable[[Any, int, int, int], None] | None = None
    vmalloc_sync_all: Callable[[Any], None] | None = None
    vmalloc_fault: Callable[[Any, int, int, int], bool] | None = None
