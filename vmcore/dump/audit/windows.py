"""Find the windows of an audit: addresses in which every mapping must have an area.

VMCOREINFO seldom has both ends of the vmalloc range. An end that only the listed areas give moves outwards over
the mappings next to it, so that an area that is missing from the list is found there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vmcore.paging.mappings import Mappings, find_mappings
from vmcore.paging.mmu import Mmu
from vmcore.texts.vmallocinfo import VmallocinfoEntry

APART = 1 << 30  #: size from which on a hole between areas separates two windows
#: Holes that a window grows across. Kernels leave larger ones between the linear map and the vmalloc range
#: (VMALLOC_OFFSET, 8 MiB), and smaller ones between areas that follow each other.
NEAR = 1 << 20
_STEPS = 256  # a window grows this often at most, each time by up to NEAR

SPANNED = "spanned by listed areas"
_FOLLOW = "VMALLOC_START to the end of the areas that follow it"
_GROWN = ", and what is mapped next to them"
_NO_CHUNK = ", and the next mappings above: no percpu chunk, which would be the last area, is listed"


class AuditWindow(NamedTuple):
    """Addresses in which every mapping must have an area.

    Attributes:
        start: First address.
        last: Last address.
        how: How they are known, for people.
    """

    start: int
    last: int
    how: str


def find_windows(
    areas: Sequence[VmallocinfoEntry],
    most: int,
    bounds: tuple[int, int] | None,
    vmalloc: tuple[int | None, int | None],
) -> tuple[AuditWindow, ...]:
    """Return the windows of an audit, in order of address.

    They are the caller's, or else VMALLOC_START to VMALLOC_END and the spans of the other areas. Where
    VMALLOC_END is not known, the end of the last percpu chunk takes its place, because chunks come from the top.

    Args:
        areas: The areas, in order of address.
        most: Last address of the address space.
        bounds: First address and end that the caller gives, or None.
        vmalloc: VMALLOC_START and VMALLOC_END, each None where it is not known.
    """
    if bounds is not None:
        return (AuditWindow(bounds[0], bounds[1] - 1, "as given"),)
    windows, rest = [], list(areas)
    start, end = vmalloc
    if start is not None and 0 <= start <= most:
        window = _vmalloc_window(areas, start, end, most)
        windows.append(window)
        rest = [entry for entry in areas if not window.start <= entry.start <= window.last]
    groups: list[tuple[int, int]] = []
    for entry in rest:
        inside = groups and any(window.start > groups[-1][0] and window.start <= entry.start for window in windows)
        if groups and entry.start - groups[-1][1] <= APART and not inside:
            groups[-1] = groups[-1][0], max(groups[-1][1], entry.end)
        else:
            groups.append((entry.start, entry.end))
    windows += [AuditWindow(first, past - 1, SPANNED) for first, past in groups]
    return tuple(sorted(windows))


def _vmalloc_window(areas: Sequence[VmallocinfoEntry], start: int, end: int | None, most: int) -> AuditWindow:
    if end is not None and start < end <= most + 1:
        return AuditWindow(start, end - 1, "VMALLOC_START to VMALLOC_END")
    above = [entry for entry in areas if entry.start >= start]
    chunks = [entry.end for entry in above if is_chunk(entry)]
    if chunks:
        return AuditWindow(start, max(chunks) - 1, "VMALLOC_START to the end of the last percpu chunk")
    past = start
    for entry in above:
        if entry.start - past > APART:
            break
        past = max(past, entry.end)
    return AuditWindow(start, max(past - 1, start), _FOLLOW)


# ---- windows that grow


def grow(mmu: Mmu, areas: Sequence[VmallocinfoEntry], windows: Sequence[AuditWindow]) -> tuple[AuditWindow, ...]:
    """Move the ends that only listed areas give outwards.

    An end moves over pages of the smallest size with holes below `NEAR`. Larger pages are the linear map, vmemmap
    or the image. A window with percpu chunks keeps its end, because chunks are at the top of the vmalloc range,
    and the mappings behind it (pkmap, fixmap) have no areas. Where no percpu chunk is listed, the next mappings
    above the vmalloc range are taken for one, however far away.
    """
    chunks = [entry.start for entry in areas if is_chunk(entry)]
    grown: list[AuditWindow] = []
    for number, window in enumerate(windows):
        low = grown[-1].last + 1 if grown else 0
        high = windows[number + 1].start - 1 if number + 1 < len(windows) else mmu.word_mask
        start, last = window.start, window.last
        if window.how == SPANNED:
            start = _lower(mmu, start, low)
        if window.how in (SPANNED, _FOLLOW) and not any(start <= chunk <= last for chunk in chunks):
            last = _upper(mmu, last, high)
        how = window.how + (_GROWN if (start, last) != window[:2] else "")
        if not chunks and (window.how == _FOLLOW or (window.how == SPANNED and len(windows) == 1)):
            past = _next_above(mmu, last, high)
            how += _NO_CHUNK if past != last else ""
            last = past
        grown.append(AuditWindow(start, last, how))
    return tuple(grown)


def is_chunk(entry: VmallocinfoEntry) -> bool:
    """Tell whether an area is a percpu chunk, which comes from the top of the vmalloc range."""
    return entry.caller.startswith("pcpu_get_vm_areas+")


def _small(mmu: Mmu, found: Mappings) -> np.ndarray:
    """Tell which mappings are pages of the smallest size, bool."""
    small: np.ndarray = found.shift == mmu.page_shift
    return small


def _lower(mmu: Mmu, start: int, low: int) -> int:
    """Return where the mappings below ``start`` begin, ``low`` at least."""
    for _ in range(_STEPS):
        at = max(low, start - NEAR)
        found = find_mappings(mmu, at, start) if at < start else None
        if found is None or not len(found):
            break
        large = np.flatnonzero(~_small(mmu, found))
        rest = found.virtual[large[-1] + 1 :] if len(large) else found.virtual
        if len(rest):
            start = int(rest[0])
        if len(large):
            break
    return start


def _upper(mmu: Mmu, last: int, high: int) -> int:
    """Return where the mappings above ``last`` end, ``high`` at most."""
    for _ in range(_STEPS):
        past = min(high, last + NEAR) + 1
        found = find_mappings(mmu, last + 1, past) if last + 1 < past else None
        if found is None or not len(found):
            break
        large = np.flatnonzero(~_small(mmu, found))
        rest = found.virtual[: large[0]] if len(large) else found.virtual
        if len(rest):
            last = int(rest[-1]) + (1 << mmu.page_shift) - 1
        if len(large):
            break
    return last


def _next_above(mmu: Mmu, last: int, high: int) -> int:
    """Return where the next mappings above ``last`` end, or ``last`` if there are none or of large pages."""
    found = find_mappings(mmu, last + 1, high + 1, 1) if last < high else None
    if found is None or not len(found) or not _small(mmu, found)[0]:
        return last
    return _upper(mmu, int(found.virtual[0]) + (1 << mmu.page_shift) - 1, high)
