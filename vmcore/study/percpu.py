"""Percpu chunks of a traced kernel: their areas have no event, so the moment of each is found from other events.

pcpu_create_chunk() first allocates the chunk's maps. Those larger than a page are vmalloc events of one task, and
pcpu_get_vm_areas() follows them directly (mm/percpu-vm.c). /proc/vmallocinfo names the maps of the chunks that
still live. The sizes of such a run of events are the signature by which freed chunks are found. A freed chunk has
a free event at an address that no event allocated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from vmcore.placement.seam import Space
from vmcore.texts.tracepoints import ALLOC, Events
from vmcore.texts.vmallocinfo import VmallocinfoEntry

_MAPS = ("pcpu_mem_zalloc", "pcpu_create_chunk", "pcpu_alloc_chunk")  # inlining differs from kernel to kernel
_AREAS = "pcpu_get_vm_areas"
_HUGE = 2 << 20  # bytes: PMD_SIZE, the atom of a first chunk that is mapped by huge pages


class Chunks(NamedTuple):
    """Where percpu chunks are made.

    Attributes:
        after: numbers of the events behind which a chunk is made, ascending.
        size: bytes of a chunk's area, 0 if there is none.
        align: of the area, bytes.
    """

    after: tuple[int, ...]
    size: int
    align: int


def is_percpu_area(entry: VmallocinfoEntry) -> bool:
    """Tell whether a line of vmallocinfo is the area of a percpu chunk."""
    return entry.caller.startswith(_AREAS)


def find_chunks(events: Events, info: Sequence[VmallocinfoEntry], space: Space, freed: int) -> Chunks:
    """Find the moments at which chunks of one area each were made.

    Args:
        events: of the trace.
        info: /proc/vmallocinfo behind the trace.
        space: of the traced machine.
        freed: number of frees of addresses that no event allocated.
    """
    areas = [entry for entry in info if is_percpu_area(entry)]
    maps = {entry.start for entry in info if entry.caller.startswith(_MAPS)}
    if not areas or not maps:
        return Chunks((), 0, 0)
    size = areas[0].size
    huge = space.word_bits == 64 and size % _HUGE == 0 and all(area.start % _HUGE == 0 for area in areas)
    align = _HUGE if huge else space.page_size
    by_task: dict[int, list[int]] = defaultdict(list)
    last: dict[int, int] = {}
    for n, kind in enumerate(events.kind):
        if kind == ALLOC and not events.failed[n]:
            by_task[events.task[n]].append(n)
            if events.addr[n] in maps:
                last[events.addr[n]] = n
    made = sorted(last.values())[: max(1, len(last) // len(areas))]  # of the oldest chunk that lives
    if not made:
        return Chunks((), size, align)
    own = by_task[events.task[made[0]]]
    signature = [events.size[n] for n in own if made[0] <= n <= made[-1]]
    after = sorted(n for task in by_task.values() for n in _runs(task, events.size, signature))
    alive = [n for n in after if n in set(last.values())]
    gone = [n for n in after if n not in set(last.values())][:freed]
    return Chunks(tuple(sorted([*alive, *gone])), size, align)


def _runs(numbers: list[int], sizes: list[int], signature: list[int]) -> list[int]:
    """Return the last event of each run of a task's events with the sizes of the signature."""
    own, count = [sizes[n] for n in numbers], len(signature)
    found, at = [], 0
    while at + count <= len(own):
        if own[at] == signature[0] and own[at : at + count] == signature:
            found.append(numbers[at + count - 1])
            at += count
        else:
            at += 1
    return found
