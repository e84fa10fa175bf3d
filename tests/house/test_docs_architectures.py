"""The tables of docs/architectures.md are what the records say."""

import re
from pathlib import Path

import pytest
import vmcore_arches
from vmcore_arches.arm import family as arm
from vmcore_arches.x86 import family as x86
from vmcore_arches.x86 import i386_pae, x86_64

from vmcore.architecture import LayoutRequest
from vmcore.linking import weak
from vmcore.linking.link import link
from vmcore.linking.registry import load
from vmcore.units import format_size

RECORDS = vmcore_arches.vmcore_architectures()
PAGE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")

FLUSHES = {
    weak.flush_nothing: "none",
    arm.flush_cache: "whole cache, this CPU",
    x86.flush_tlb_kernel_range: "whole TLB, every CPU",
    arm.flush_tlb_kernel_range: "page by page; SMP: every CPU",
    arm.flush_tlb_kernel_range_v6: "page by page; SMP: every CPU",
}
SYNCS = {
    weak.vmalloc_sync_all: "weak: nothing",
    i386_pae.vmalloc_sync_all: "returns at once where the pmd is shared",
    x86.vmalloc_sync_all_32: "all kernel root entries",
    x86_64.vmalloc_sync_all: "root entries of the vmalloc window",
}


def row(*cells):
    return f"| {' | '.join(cells)} |\n"


def machine_row(arch):
    layout = arch.lay_out(LayoutRequest(ram=arch.default_ram))
    levels = ", ".join(f"{at.name} {at.shift}/{at.entries}" for at in arch.levels)
    window = f"{layout.vmalloc_start:#x} - {layout.vmalloc_end:#x} ({format_size(layout.vmalloc.size)})"
    return row(
        f"`{arch.name}`", f"{arch.word_bits}", levels, format_size(arch.page_size), format_size(arch.default_ram),
        window, str(arch.ioremap_max_order), ", ".join(arch.zone_names),
    )  # fmt: skip


def behaviour_row(arch):
    registry = load(points=())
    registry.add(vmcore_arches, "builtin")
    symbols = link(registry.manager, arch)
    smp = f"{arch.page_kernel | arch.smp_flags:#x}" if arch.smp_flags else "same"
    executable = "not defined" if arch.page_kernel_exec is None else f"{arch.page_kernel_exec:#x}"
    return row(
        f"`{arch.name}`", f"{arch.page_kernel:#x}", smp, executable, FLUSHES[symbols.flush_cache_vmap],
        FLUSHES[symbols.flush_tlb_kernel_range], SYNCS[symbols.vmalloc_sync_all],
    )  # fmt: skip


def cpu_row(arch):
    view, cache = arch.hardware, arch.hardware.cache
    modelled = "not modelled"
    if cache is not None and cache.modelled:
        modelled = f"{cache.kind}, {format_size(cache.size)}, {cache.ways} ways of {cache.line}-byte lines"
    register = "none" if view.domain_register is None else f"{view.domain_register:#x}"
    kept = "kept, tagged" if view.tlb.tagged else "dropped"
    return row(f"`{arch.name}`", str(view.tlb.entries), kept, modelled, register, arch.linear_map.leaf)


@pytest.mark.parametrize("arch", RECORDS, ids=lambda arch: arch.name)
def test_the_cpu_of_each_machine(arch):
    assert cpu_row(arch) in PAGE


def platform_row(name):
    found = arm.PLATFORMS[name]
    return row(
        f"`{name}`", f"{found.phys_offset:#010x}", f"{found.vmalloc_end:#010x}", f"{found.page_offset:#010x}"
    )


@pytest.mark.parametrize("arch", RECORDS, ids=lambda arch: arch.name)
@pytest.mark.parametrize("make", [machine_row, behaviour_row])
def test_the_support_tables_say_what_the_record_says(arch, make):
    assert make(arch) in PAGE


@pytest.mark.parametrize("name", arm.PLATFORMS)
def test_the_platform_table_says_what_the_record_says(name):
    assert platform_row(name) in PAGE


def test_the_tables_have_no_row_too_many():
    named = re.findall(r"^\| `([a-z0-9_-]+)` \|", PAGE, re.MULTILINE)
    assert sorted(named) == sorted([arch.name for arch in RECORDS] * 3 + list(arm.PLATFORMS))
