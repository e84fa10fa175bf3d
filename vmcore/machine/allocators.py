"""The allocators as the port calls them: with injected failures and events in front of their sources."""

from __future__ import annotations

from operator import index

import numpy as np

from vmcore.arrays import readonly
from vmcore.errors import ArgumentError, KernelDead
from vmcore.flags import ZERO_SIZE_PTR
from vmcore.linking.link import Events
from vmcore.machine.faults import Faults
from vmcore.machine.life import BAD_ARGUMENT, Life
from vmcore.memory.slab import KmallocSource
from vmcore.memory.zones import PageSource, gfp_zone
from vmcore.paging.tables import TableSource


class Allocators:
    """alloc_page(), kmalloc() and their opposites, and the pages of kernel page tables."""

    def __init__(
        self,
        life: Life,
        faults: Faults,
        events: Events,
        pages: PageSource,
        tables: TableSource,
        slab: KmallocSource,
        zone_names: tuple[str, ...],
    ) -> None:
        self._life, self._faults, self._events = life, faults, events
        self._pages, self._tables, self._slab, self._zone_names = pages, tables, slab, zone_names

    # The same lines stand in each primitive: a call of their own would slow the one-page path, which
    # tests/bench/test_bench.py times.

    def kmalloc(self, size: int, gfp: int, node: int) -> int | None:
        """Allocate as kmalloc_node() does.

        Args:
            size: bytes.
            gfp: `vmcore.flags.GFP` bits.
            node: NUMA node, any if it is negative.

        Returns:
            A handle, ZERO_SIZE_PTR for 0 bytes, or None if no memory is left.

        Raises:
            ArgumentError: ``size`` is negative.
            ConfigurationError: this machine has no such node; any negative one means any.
            KernelDead: the kernel has ended.
        """
        if size.__class__ is not int or size < 0:
            size = _count(size, "kmalloc", "bytes")
        life, faults = self._life, self._faults
        if life.dead is not None:
            raise KernelDead(life.dead)
        if node > 0:
            self._pages.check_node(node)
        life.steps += 1
        try:
            failing = faults.kmalloc == 1
            if faults.kmalloc:
                faults.kmalloc -= 1
            handle = None if failing else self._slab.alloc(size, gfp, node)
            if self._events.kmalloc is not None:
                self._events.kmalloc(size=size, node=node, gfp=gfp, handle=handle)
            return handle
        except BaseException as error:
            life.interrupted("kmalloc", error, BAD_ARGUMENT)
            raise

    def kfree(self, handle: int | None) -> None:
        """Free an object. None is NULL.

        Raises:
            KernelDead: the kernel has ended.
        """
        life = self._life
        if life.dead is not None:
            raise KernelDead(life.dead)
        life.steps += 1
        try:
            if self._events.kfree is not None:
                self._events.kfree(handle=handle)
            if handle is not None and handle != ZERO_SIZE_PTR:
                self._slab.free(handle)
        except BaseException as error:
            life.interrupted("kfree", error, BAD_ARGUMENT)
            raise

    def alloc_pages(self, count: int, gfp: int, node: int) -> np.ndarray:
        """Allocate pages one after the other, as a loop over alloc_page() or alloc_pages_node() does.

        Returns:
            Frames, int64; fewer than ``count`` if one was refused.

        Raises:
            ArgumentError: ``count`` is negative.
            ConfigurationError: this machine has no such node; any negative one means any.
            KernelDead: the kernel has ended.
        """
        if count.__class__ is not int or count < 0:
            count = _count(count, "alloc_pages", "pages")
        life, faults = self._life, self._faults
        if life.dead is not None:
            raise KernelDead(life.dead)
        life.steps += 1
        try:
            allowed = min(count, faults.alloc_page - 1) if faults.alloc_page else count
            frames = self._pages.alloc(allowed, gfp, node)
            if faults.alloc_page:
                calls = len(frames) + (len(frames) < count)
                faults.alloc_page = max(0, faults.alloc_page - calls)
            if self._events.pages_allocated is not None and count:
                self._events.pages_allocated(
                    node=node,
                    gfp=gfp,
                    zone=gfp_zone(gfp, self._zone_names),
                    frames=readonly(frames),
                    failed=len(frames) < count,
                )
            return frames
        except BaseException as error:
            life.interrupted("alloc_pages", error, BAD_ARGUMENT)
            raise

    def free_pages(self, frames: np.ndarray) -> None:
        """Give pages back, in this order, with __free_page() for each.

        Raises:
            KernelDead: the kernel has ended.
        """
        life = self._life
        if life.dead is not None:
            raise KernelDead(life.dead)
        life.steps += 1
        try:
            if self._events.pages_freed is not None and len(frames):
                self._events.pages_freed(frames=readonly(frames))
            self._pages.free(frames)
        except BaseException as error:
            life.interrupted("free_pages", error, BAD_ARGUMENT)
            raise

    def node(self, node: int) -> int:
        """Return a caller's NUMA node as an integer.

        Raises:
            ConfigurationError: this machine has no such node.
        """
        node = index(node)
        self._pages.check_node(node)
        return node

    # ---- as the source of page tables

    def alloc_table(self) -> int | None:
        """Return the physical address of a zeroed page for a kernel page table, or None if no memory is left."""
        faults = self._faults
        if faults.pgtable:
            faults.pgtable -= 1
            if not faults.pgtable:
                return None
        return self._tables.alloc_table()

    def free_table(self, table: int) -> None:
        """Take back a table that another CPU was faster to install."""
        self._tables.free_table(table)


def _count(value: int, function: str, unit: str) -> int:
    """Return a caller's number of things.

    Raises:
        ArgumentError: it is negative.
    """
    number = index(value)
    if number < 0:
        raise ArgumentError(f"{function}: found {number} {unit}, expected 0 or more")
    return number
