"""The record that describes a machine: what the C file takes from ``asm/`` headers, as data.

To add a machine, write one `Architecture` and return it from a ``vmcore_architectures`` hook:

0. *Names*: ``name``, and as ``aliases`` what uname and distributions call the machine: an error translates them.
1. *Geometry*: ``word_bits``, ``page_shift`` and the real ``levels`` from root to leaf. A level that the
   kernel folds is simply absent. Levels are named as the kernel names them and must tile the address.
2. *Encoding*, per level: where the frame sits in an entry (``frame``), what is none, present and bad, and
   which flags a table entry gets. Bits are those Linux tests and writes.
3. *Protections*: ``page_kernel``, and ``page_kernel_exec`` if the machine defines it.
4. *Memory*: ``zones`` and a ``layout`` function from RAM, ``vmalloc=`` and platform to a `Layout`.
5. *Hardware view*, only where the MMU sees other tables, wider frames or more leaves than Linux does.
6. What is behaviour and not data (flushes, ``vmalloc_sync_all``, ``vmalloc_fault``): link hooks, see
   `vmcore.hookspecs`.

Sources: include/asm-*/pgtable*.h, page.h; include/linux/mmzone.h, vmalloc.h; mm/vmalloc.c:566, :587.
"""

from __future__ import annotations

from attrs import evolve, frozen

from vmcore.description import Description
from vmcore.errors import ArchitectureError, LayoutError, VmcoreError, choices
from vmcore.hardware import Cache, HardwareView, LinearMap, Mirror, Tlb
from vmcore.image import CpuNote, KernelImage
from vmcore.layout import Layout, LayoutRequest, Window, Zone, cut_banks
from vmcore.levels import ALWAYS, Access, Leaf, Level, Segment, Words
from vmcore.records import Flags, Pairs
from vmcore.validation import check_banks, check_layout, check_numbers, validate

#: Everything a record is made of; plugins find it here.
__all__ = [
    "ALWAYS", "Access", "Architecture", "Cache", "CpuNote", "Flags", "HardwareView", "KernelImage", "Layout",
    "LayoutRequest", "Leaf", "Level", "LinearMap", "Mirror", "Pairs", "Segment", "Tlb", "Window", "Words", "Zone",
    "cut_banks",
]  # fmt: skip


@frozen(kw_only=True)
class Architecture(Description):
    """One machine, complete, checked and frozen; see the module's page for how to write one.

    The fields are those of `vmcore.description.Description`.
    """

    def __attrs_post_init__(self) -> None:
        validate(self)

    def lay_out(self, request: LayoutRequest) -> Layout:
        """Ask the record's layout function and check its answer.

        Raises:
            LayoutError: the platform is unknown, RAM is too small, or the ranges contradict each other.
        """
        if request.platform is not None and request.platform not in self.platforms:
            valid = choices(request.platform, self.platforms, "valid")
            raise LayoutError(f"{self.name}: unknown platform {request.platform!r}: {valid}")
        if request.platform is None and self.platforms:
            request = evolve(request, platform=self.platforms[0])
        layout = self._ask_layout(request)
        check_numbers(self, layout)
        check_layout(self, layout)
        check_banks(self, layout)
        return layout

    def _ask_layout(self, request: LayoutRequest) -> Layout:
        try:
            layout: object = self.layout(request)
        except ArchitectureError as error:  # a field of the Layout is not of its type
            raise LayoutError(f"{self.name}: {error}") from error
        except VmcoreError:
            raise
        except Exception as error:  # a stranger's code ran: whatever it raised is the cause
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise LayoutError(f"{self.name}: the layout function raised {cause}, expected a Layout") from error
        if not isinstance(layout, Layout):
            raise LayoutError(f"{self.name}: the layout function returned {layout!r}, expected a Layout")
        return layout
