"""The record that describes a machine: the part that the C file takes from ``asm/`` headers, as data.

To add a machine, write one `Architecture` and return it from a ``vmcore_architectures`` hook:

0. *Names*: ``name``, and as ``aliases`` the names that uname and distributions use for the machine. If a user
   gives an alias, the error suggests the name.
1. *Geometry*: ``word_bits``, ``page_shift`` and the real ``levels`` from root to leaf. Leave out a level that the
   kernel folds. Levels have the kernel's names and must cover the address bits without gaps or overlaps.
2. *Encoding*, per level: the position of the frame in an entry (``frame``), the bits of none, present and bad, and
   the flags of a table entry. The bits are those that Linux tests and writes.
3. *Protections*: ``page_kernel``, and ``page_kernel_exec`` if the machine defines it.
4. *Memory*: ``zones`` and a ``layout`` function from RAM, ``vmalloc=`` and platform to a `Layout`.
5. *Hardware view*: needed only if the MMU sees other tables, wider frames or more leaves than Linux does.
6. *Symbols*: behaviour that is not data (flushes, ``vmalloc_sync_all``, ``vmalloc_fault``). Each is a function
   that receives a `vmcore.host.Host`. Link hooks (`vmcore.hookspecs`) define or wrap a symbol of another record.

Sources: include/asm-*/pgtable*.h, page.h; include/linux/mmzone.h, vmalloc.h; mm/vmalloc.c:566, :587.
"""

from __future__ import annotations

from vmcore.architecture.fields import Flags, Pairs
from vmcore.architecture.hardware import Cache, HardwareView, LinearMap, Mirror, Tlb
from vmcore.architecture.identity import CpuNote, KernelImage
from vmcore.architecture.layout import Layout, LayoutRequest, Window, Zone, cut_banks
from vmcore.architecture.levels import ALWAYS, Access, Leaf, Level, Segment, Words
from vmcore.architecture.record import Architecture
from vmcore.architecture.symbols import Symbols

#: All parts of a record. Plugins import them from here.
__all__ = [
    "ALWAYS", "Access", "Architecture", "Cache", "CpuNote", "Flags", "HardwareView", "KernelImage", "Layout",
    "LayoutRequest", "Leaf", "Level", "LinearMap", "Mirror", "Pairs", "Segment", "Symbols", "Tlb", "Window",
    "Words", "Zone", "cut_banks",
]  # fmt: skip
