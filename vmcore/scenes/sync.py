"""Scenes of processes whose root tables lack kernel mappings made after the processes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import numpy as np

from vmcore.flags import ANY_NODE, GFP_KERNEL
from vmcore.scenes.stage import Stage

_SYNC = "vmalloc_sync_all"
_CONTENT = (b"alice", b"bobby")


def lazy_sync(stage: Stage) -> None:
    """Map two pages after two processes were created, and touch the pages in each process."""
    kernel = stage.kernel
    stage.watch(kernel.layout.vmalloc_start)
    stage.run_processes()
    area = stage.allocate("page 1", "two pages; they are entered in init_mm's tables", 2)
    stage.addresses["page 2"] = area + kernel.page_size
    stage.watch(area)
    _fill(stage, [kernel.vmalloc_to_pfn(at) for at in stage.addresses.values()])
    _touch(stage)


def sync_all(stage: Stage) -> None:
    """Reserve an area with all its tables, sync, map pages there, and touch them in two processes."""
    kernel, page = stage.kernel, stage.kernel.page_size
    stage.watch(kernel.layout.vmalloc_start)
    stage.run_processes()
    text = f"CPU 0: alloc_vm_area({2 * page}): it makes the page tables, then calls vmalloc_sync_all()"
    area = stage.act(
        text,
        lambda: kernel.alloc_vm_area(2 * page),
        lambda made: f"the area is {made.addr:#x}",
        lambda: f"{_SYNC} is left out" if stage.left_out == _SYNC else statics_text(kernel.statics),
    )
    stage.addresses = {"page 1": area.addr, "page 2": area.addr + page}
    stage.watch(area.addr)
    frames = kernel.alloc_pages(2, GFP_KERNEL, ANY_NODE)
    _fill(stage, frames.tolist())
    text = "CPU 0: map_vm_area(): two frames are entered in init_mm's tables"
    stage.act(text, lambda: kernel.map_vm_area(area, kernel.page_kernel, np.array(frames)))
    _touch(stage)


def _fill(stage: Stage, frames: Iterable[int | None]) -> None:
    for frame, data in zip(frames, _CONTENT, strict=True):
        if frame is not None:
            stage.fill_frame(frame, data)


def _touch(stage: Stage) -> None:
    """Load from both pages in each process."""
    kernel = stage.kernel
    for n, mm in enumerate(kernel.pgd_list):
        cpu = n if n in stage.numbers else 0
        if kernel.current_mm(cpu) is not mm:
            stage.act(f"CPU {cpu} switches to process {mm.number}", lambda to=mm: kernel.switch_mm(0, to))  # type: ignore[misc]
        stage.load(cpu, "page 1")
        stage.load(cpu, "page 2")


def statics_text(statics: dict[str, object]) -> str:
    """Write the state that vmalloc_sync_all() keeps between calls, for example the entries it has copied."""
    parts = []
    for name, value in statics.items():
        short = name.rpartition(".")[2]
        if isinstance(value, set):
            parts.append(f"{short} {ranges(value) or 'empty'}")
        else:
            parts.append(f"{short} {value:#x}" if isinstance(value, int) else f"{short} {value}")
    return "vmalloc_sync_all keeps " + ", ".join(parts) if parts else "vmalloc_sync_all keeps nothing"


def ranges(numbers: set[int]) -> str:
    """Write a set of numbers as ranges."""
    runs = groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    ends = [[number for _, number in run] for _, run in runs]
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in ends)
