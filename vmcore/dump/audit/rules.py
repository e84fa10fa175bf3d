"""List the areas that a kernel leaves irregular on purpose, by their kind or their caller.

All pages of a regular area are mapped but the last, which is the guard page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vmcore.texts.vmallocinfo import VmallocinfoEntry

#: Irregularities: "none" or "some" of the pages are mapped, or the "guard" page is mapped or missing.
NONE, SOME, GUARD = "none", "some", "guard"


class Rule(NamedTuple):
    """Irregularities that are as they should be.

    Attributes:
        picks: Tells whether an area is meant.
        excused: Irregularities that such an area may have.
        why: The reason, for people.
    """

    picks: Callable[[VmallocinfoEntry], bool]
    excused: frozenset[str]
    why: str


def _made_by(*functions: str) -> Callable[[VmallocinfoEntry], bool]:
    return lambda entry: entry.caller.partition("+")[0] in functions


def _of_kind(*kinds: str) -> Callable[[VmallocinfoEntry], bool]:
    return lambda entry: not entry.kinds.isdisjoint(kinds)


def _reserved(entry: VmallocinfoEntry) -> bool:
    """Tell whether an area is only reserved: get_vm_area() was called, and no pages are known."""
    return entry.kinds <= {"ioremap"} and entry.phys is None and not entry.pages


#: In order: the first rule that picks an area and excuses its irregularities gives the reason.
RULES = (
    Rule(
        _of_kind("unpurged vm_area"),
        frozenset({NONE}),
        "freed and unmapped, its addresses wait for a purge (mm/vmalloc.c, __purge_vmap_area_lazy)",
    ),
    Rule(
        _of_kind("vm_map_ram"),
        frozenset({NONE, SOME, GUARD}),
        "vm_map_ram() takes addresses without a guard page and maps them piece by piece (mm/vmalloc.c)",
    ),
    Rule(
        _of_kind("sparse"),
        frozenset({NONE, SOME, GUARD}),
        "VM_SPARSE: its owner maps pages when they are needed (vm_area_map_pages, mm/vmalloc.c)",
    ),
    Rule(
        _made_by("pcpu_get_vm_areas"),
        frozenset({NONE, SOME, GUARD}),
        "a percpu chunk: populated when needed, without a guard page (mm/percpu-vm.c)",
    ),
    Rule(
        _made_by("paging_init", "map_kernel", "map_kernel_segment", "declare_vma", "declare_kernel_vmas"),
        frozenset({NONE, GUARD}),
        "part of the kernel's image: no guard page inside it, and init memory is freed after boot",
    ),
    Rule(
        _made_by("iotable_init", "vm_reserve_area_early", "pmd_empty_section_gap", "vm_area_register_early",
                 "vm_area_add_early"),
        frozenset({NONE, SOME, GUARD}),
        "reserved or mapped at boot, before vmalloc was there, without a guard page",
    ),
    Rule(
        _reserved,
        frozenset({NONE, SOME}),
        "a reservation (get_vm_area): it names no pages, its owner maps pages when they are needed",
    ),
)  # fmt: skip


def excuse(entry: VmallocinfoEntry, found: frozenset[str]) -> str | None:
    """Return why an area may have all irregularities that were found, or None if no rule excuses them."""
    return next((rule.why for rule in RULES if rule.picks(entry) and found <= rule.excused), None)
