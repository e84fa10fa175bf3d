"""Find the root table of a dump by the registers of each CPU that a hypervisor saved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from vmcore.architecture import Architecture, CpuNote
from vmcore.dump.identify import GIVE, Root, advise, fitting, is_there, root_align
from vmcore.dump.store import Dump
from vmcore.errors import RootError
from vmcore.paging.mmu import Mmu
from vmcore.paging.pte import LaidOutLevel

_LAZY = "a process's table: vmalloc entries it has not taken over from init_mm yet are missing"


class _Candidate(NamedTuple):
    """A CPU's root: present entries of it and the tables below for the kernel, and whether it has any below."""

    cpu: int
    register: int
    address: int
    kernel: int
    process: bool


def root_by_cpus(dump: Dump, arch: Architecture, cpu: CpuNote, records: Iterable[Architecture]) -> Root | None:
    """Return the root in the CPU notes that has the most kernel entries, or None if there is no such note.

    Among roots with equally many, one without a process's entries comes first, then that of the lowest CPU. Under
    page table isolation, the table for user space has almost no kernel entries.

    Raises:
        RootError: The registers are of another kind of tables, or no root is in the dump.
    """
    notes = [n.desc for n in dump.notes if n.name == cpu.name and len(n.desc) >= cpu.size]
    if not notes:
        return None
    reasons: list[str] = []
    found: list[_Candidate] = []
    for number, desc in enumerate(notes):
        register = _register(desc, cpu.root_at)
        address = register & cpu.root_mask & -root_align(arch)
        wrong = [meaning for at, mask, value, meaning in cpu.checks if _register(desc, at) & mask != value]
        if wrong:
            reasons += wrong
        elif is_there(dump, arch, address):
            found.append(_Candidate(number, register, address, *_entries(dump, arch, address)))
        else:
            reasons.append(f"CPU {number}'s root {address:#x} is not in the dump")
    if found:
        return _choose(found, cpu)
    fits = fitting(dump, None, [a for a in records if _fits(notes[0], a)])
    told = "; ".join([*dict.fromkeys(reasons), *([advise(fits)] if fits else [])])
    raise RootError(f"{dump.name}: no root for {arch.name!r} in its {cpu.name} notes: {told}; or {GIVE}")


def _choose(found: list[_Candidate], cpu: CpuNote) -> Root:
    best = max(found, key=lambda c: (c.kernel, not c.process))  # the first of equal ones
    how = f"CPU {best.cpu}'s register {best.register:#x} in a {cpu.name} note"
    roots = len({c.address for c in found})
    if roots > 1:
        how += f", of {roots} roots the one with most of the kernel's entries"
    return Root(best.address, f"{how}; {_LAZY}" if best.process else how)


def _register(desc: bytes, at: int) -> int:
    return int.from_bytes(desc[at : at + 8], "little")


def _fits(desc: bytes, arch: Architecture) -> bool:
    if arch.image is None or arch.image.cpu is None:
        return False
    return all(_register(desc, at) & mask == value for at, mask, value, _ in arch.image.cpu.checks)


def _entries(dump: Dump, arch: Architecture, root: int) -> tuple[int, bool]:
    """Return how many entries of the first two levels are present for the kernel, and whether any is below."""
    levels, image = Mmu(arch, dump, root).laid_out, arch.image
    top = levels[0]
    linear = image is not None and image.linear
    first = (
        image.bases[0] >> top.shift & top.index_mask if image is not None and linear else top.index_mask + 1 >> 1
    )
    user = _present(dump, top, np.array([root]), 0, first)
    kernel = _present(dump, top, np.array([root]), first, top.index_mask + 1)
    count = len(kernel)
    if len(levels) > 1:
        tables = kernel[(kernel & np.uint64(top.bad_mask)) == np.uint64(top.good_value)]
        for page in top.pages:
            tables = tables[(tables & np.uint64(page.mask)) != np.uint64(page.value)]
        count += len(_present(dump, levels[1], np.unique(top.tables(tables)), 0, levels[1].index_mask + 1))
    return count, bool(len(user))


def _present(dump: Dump, level: LaidOutLevel, tables: np.ndarray, first: int, end: int) -> np.ndarray:
    """Return the words (uint64) of entries from ``first`` to ``end`` of tables that are present."""
    at = level.entries(tables[:, None], np.arange(first, end)).ravel()
    words = dump.words(at, level.size)[0].astype(np.uint64)
    present: np.ndarray = words[words & np.uint64(level.present) != 0]
    return present
