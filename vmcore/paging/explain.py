"""Two views of a kernel: the translation of one address level by level, and the area list as /proc prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmcore.flags import VM
from vmcore.paging.mmu import Mmu

if TYPE_CHECKING:
    from vmcore.machine.machine import Machine


def explain(kernel: Machine, addr: int) -> str:
    """Return the translation of a virtual address, one line a level, and the result or the reason for its end.

    Args:
        kernel: its init_mm is walked.
        addr: virtual, bytes.
    """
    tables, arch = kernel.init_mm, kernel.arch
    wide = arch.word_bits // 4
    lines = [f"{addr:#0{wide + 2}x} on {arch.name}, root {tables.root:#x}"]
    for depth, level in enumerate(arch.levels):
        found = tables.entry(addr, depth)
        assert found is not None  # the entries above point to tables
        at, word = found
        bits = "|".join(level.names(word)) or "no flags"
        digits = 2 * level.word_bytes
        index = addr >> level.shift & level.entries - 1
        head = f"  {level.name}[{index}] at {at:#x}: {word:0{digits}x}"
        if not word & level.none_mask:
            lines.append(f"{head}  none")
            return "\n".join([*lines, f"  not mapped: {level.name} entry is none"])
        if level is not arch.levels[-1]:
            if word & level.bad_mask != level.good_value:
                return "\n".join([*lines, f"{head}  {bits}", f"  not mapped: {level.name} entry is bad"])
            lines.append(f"{head}  table {level.decode(word):#x} {bits}")
            continue
        lines.append(f"{head}  frame {level.decode(word) >> arch.page_shift:#x} {bits}")
        if not word & level.present_mask:
            return "\n".join([*lines, "  not mapped: not present"])
        physical = level.decode(word) | addr & arch.page_size - 1
        lines += _hardware(kernel, addr)
        lines.append(f"  physical address {physical:#x}")
        used = Mmu(arch, kernel.memory, tables.root).translate(addr)
        if used is not None and used != physical:  # the entry has frame bits that Linux does not know
            lines.append(f"  the MMU translates to {used:#x}")
    return "\n".join(lines)


def _hardware(kernel: Machine, addr: int) -> list[str]:
    """Return the line for the word that the MMU reads, if that is another word."""
    if kernel.arch.hardware.mirror is None:
        return []
    step = Mmu(kernel.arch, kernel.memory, kernel.init_mm.root).walk(addr).steps[-1]
    word = "not in memory" if step.word is None else f"{step.word:0{2 * step.level.word_bytes}x}"
    bits = "|".join(step.level.names(step.word or 0))
    return [f"  hardware {step.level.name} at {step.entry_address:#x}: {word}  {bits}".rstrip()]


_KINDS = (
    (VM.IOREMAP, "ioremap"),
    (VM.ALLOC, "vmalloc"),
    (VM.MAP, "vmap"),
    (VM.USERMAP, "user"),
    (VM.VPAGES, "vpages"),
)


def vmallocinfo(kernel: Machine) -> str:
    """Return the area list in the format of /proc/vmallocinfo (mm/vmalloc.c s_show(), 2.6.28 and later).

    The caller's name is left out, because the simulated kernel does not keep it. Addresses are pointers in C, and
    the physical one is an unsigned long, so an area that reaches the top of the address space ends at 0.
    """
    digits, mask = kernel.arch.word_bits // 4, kernel.arch.word_mask
    lines = []
    for area in kernel.vmlist:
        line = f"0x{area.addr:0{digits}x}-0x{area.addr + area.size & mask:0{digits}x} {area.size:7}"
        if area.nr_pages:
            line += f" pages={area.nr_pages}"
        if area.phys_addr or area.flags & VM.IOREMAP:
            line += f" phys={area.phys_addr & mask:#x}"
        line += "".join(f" {name}" for flag, name in _KINDS if area.flags & flag)
        lines.append(line + "\n")
    return "".join(lines)
