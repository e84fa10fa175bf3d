"""Raw images, which hold only the bytes of memory. The user gives their physical addresses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from mmap import mmap

import numpy as np

from vmcore.dump.segments import Contents
from vmcore.errors import DumpError
from vmcore.units import Bank
from vmcore.wording import counted

_TOP = 1 << 62  #: above every physical address of a machine


def read_raw(path: str, file: mmap, base: int, banks: Sequence[Bank] | None) -> Contents:
    """Return the contents of an image with its banks one after the other. Without banks, one begins at ``base``.

    Raises:
        DumpError: Both a base and banks are given, or banks are empty or overlap.
    """
    if banks is None:
        banks = (Bank(base, base + len(file)),)
    elif base:
        raise DumpError(path, None, f"base {base:#x} beside banks", "one of them; the banks say where they are")
    _check(path, banks)
    sizes = [bank.size for bank in banks]
    offsets = [sum(sizes[:n]) for n in range(len(sizes))]
    problems: tuple[str, ...] = ()
    if sum(sizes) < len(file):
        has = counted(len(file), "byte", form="#x")
        problems = (f"the file has {has}, the banks only {sum(sizes):#x}; the rest is left out",)
    return _contents(banks, offsets, problems)


def read_flat(path: str, file: mmap, base: int, banks: Sequence[Bank] | None) -> Contents:
    """Return the contents of an image with holes: physical address ``x`` is at offset ``x - base``.

    Raises:
        DumpError: Banks are empty, overlap, or begin below ``base``.
    """
    if banks is None:
        return read_raw(path, file, base, None)
    _check(path, banks)
    if banks[0].start < base:
        raise DumpError(path, None, f"bank {banks[0]}", f"one that starts at base {base:#x} or above")
    return _contents(banks, [bank.start - base for bank in banks])


def _check(path: str, banks: Sequence[Bank]) -> None:
    for bank in banks:
        if bank.size <= 0 or bank.start < 0 or bank.end >= _TOP:
            raise DumpError(path, None, f"bank {bank}", f"one that is not empty, below {_TOP:#x}")
    for bank, above in pairwise(banks):
        if above.start < bank.end:
            raise DumpError(path, None, f"bank {above} after {bank}", "banks in address order that do not overlap")
    if not banks:
        raise DumpError(path, None, "no bank", "at least one")


def _contents(banks: Sequence[Bank], offsets: Sequence[int], problems: tuple[str, ...] = ()) -> Contents:
    starts = np.array([bank.start for bank in banks], np.uint64)
    sizes = np.array([bank.size for bank in banks], np.uint64)
    return Contents(starts, sizes, np.array(offsets, np.uint64), problems=problems)
