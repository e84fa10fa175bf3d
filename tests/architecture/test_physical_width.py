"""Frames, physical addresses and RAM that page-table entries cannot hold: cut with a word, or refused."""

import re
import subprocess
import sys

import numpy as np
import pytest
from attrs import evolve

from tests.support.listening import Recorder
from tests.support.synthetic import PLAIN, RECORDS
from vmcore.architecture import LayoutRequest
from vmcore.errors import ArgumentError, InvalidSize, LayoutError, OutOfMemory
from vmcore.flags import NO_FRAME, VM
from vmcore.units import Bank

RAM = 64 << 20
#: Bits of a physical address in the kernel's page-table entries.
WIDTHS = {
    "i386": 32,
    "i386-highmem": 32,
    "i386-pae": 36,
    "i386-pae-highmem": 36,
    "x86_64": 46,
    "armv5": 32,
    "armv7": 32,
    "armv7-highmem": 32,
    "riscv64": 56,
    "synthetic-deep": 57,
    "synthetic-plain": 52,
}


@pytest.fixture
def end(arch):
    """The first physical address that no entry holds."""
    assert arch.levels[-1].physical_end == 1 << WIDTHS[arch.name]
    return arch.levels[-1].physical_end


# ---- frames of a caller: as C does it, and said


def vmap(k, frames):
    return k.vmap(np.array(frames, np.int64), len(frames), int(VM.MAP), k.page_kernel)


def by_hand(k, frames):
    area = k.get_vm_area(len(frames) << k.arch.page_shift, int(VM.MAP))
    k.map_vm_area(area, k.page_kernel, np.array(frames, np.int64))
    return area.addr


@pytest.mark.parametrize(("name", "mapping"), [("vmap", vmap), ("map_vm_area", by_hand)])
@pytest.mark.parametrize("count", [1, 8, 9, 100])
def test_a_frame_that_is_too_large_loses_its_upper_bits_and_it_is_said(arch, kernel, end, name, mapping, count):
    k, first = kernel(arch, ram=RAM), end >> arch.page_shift
    frames = [*range(0x1000, 0x1000 + count - 1), first + 0x1234]
    addr = mapping(k, frames)
    at = addr + (count - 1 << arch.page_shift)
    used = k.cpu.mmu.translate(at)
    other = (
        ""
        if used is None or used >> arch.page_shift == 0x1234
        else (f" to Linux, and frame {used >> arch.page_shift:#x} to the MMU")
    )
    assert k.dmesg == [
        f"<4>vmcore: {name}: frame {first + 0x1234:#x}, but an entry of {arch.name} holds frames "
        f"below {first:#x}: {at:#x} maps frame 0x1234{other}.\n"
    ]
    assert (f"  the MMU translates to {used or 0:#x}" in k.explain(at)) == bool(other)
    assert k.init_mm.frames(addr, count).tolist() == [*frames[:-1], 0x1234]
    word = (frames[-1] << arch.page_shift | k.page_kernel) & arch.supported_pte_mask
    if len(arch.levels[-1].frame) == 1 and arch.levels[-1].frame[0].entry_bit == arch.page_shift:
        assert k.init_mm.lookup(at) == word & (1 << 8 * arch.levels[-1].word_bytes) - 1  # mk_pte(), bit for bit
    k.vunmap(addr)
    assert (len(k.vmlist), k.warnings, len(k.dmesg)) == (0, [], 1)


def test_the_largest_frame_is_mapped_without_a_word(arch, kernel, end):
    k = kernel(arch, ram=RAM)
    addr = vmap(k, [0, (end >> arch.page_shift) - 1])
    assert k.init_mm.frames(addr, 2).tolist() == [0, (end >> arch.page_shift) - 1]
    assert k.dmesg == []


def test_several_are_one_line_and_what_is_not_mapped_is_none(arch, kernel, end):
    heard = Recorder()
    k, first = kernel(arch, ram=RAM, listeners=[heard]), end >> arch.page_shift
    vmap(k, [1, first, first + 1, first + 2])
    assert [line.split(",")[0] for line in k.dmesg] == [f"<4>vmcore: vmap: frame {first:#x} (the first of 3)"]
    with pytest.raises(OutOfMemory):
        vmap(k, [NO_FRAME, first])
    with pytest.raises(OutOfMemory):
        vmap(k, [first, NO_FRAME])
    assert len(k.dmesg) == 2
    k.check()


# ---- physical addresses: ioremap() is this package's own, and refuses


@pytest.mark.parametrize("beyond", [0, 1, 8])
def test_ioremap_beyond_the_entries_is_refused(arch, kernel, end, beyond):
    k = kernel(arch, ram=RAM)
    k.vfree(k.vmalloc(4096))
    before = k.slab.live_objects, list(k.dmesg), k.init_mm.tables.copy()
    for phys, size in ((end << beyond, 1), (end - 4096, 8192), (0, end + 1), (-4096, 4096), (4096, -4096)):
        with pytest.raises(
            ArgumentError,
            match=f"ioremap: found {size:#x} bytes at physical address {phys:#x}, "
            f"expected a range within 0x0..{end:#x}, ",
        ):
            k.ioremap(phys, size)
    assert (k.slab.live_objects, list(k.dmesg), k.init_mm.tables) == before
    assert len(k.vmlist) == 0


def test_ioremap_up_to_the_end(arch, kernel, end):
    k = kernel(arch, ram=RAM)
    page = arch.page_size
    addr = k.ioremap(end - page + 5, page - 5)
    assert (k.vmalloc_to_pfn(addr), addr % page, k.dmesg) == ((end >> arch.page_shift) - 1, 5, [])
    for phys in (0, 5):
        with pytest.raises(InvalidSize):
            k.ioremap(phys, 0)
    assert len(k.vmlist) == 1


# ---- RAM


@pytest.mark.parametrize("more", [1, 2, 1 << 20])
def test_ram_beyond_the_entries_is_cut_with_a_line(arch, end, more):
    if arch in RECORDS:
        pytest.skip(f"the layout function of {arch.name} cuts nothing")
    layout = arch.lay_out(LayoutRequest(ram=end + more * arch.page_size))
    assert layout.banks[-1].end <= end
    assert layout.notes
    assert all(
        re.fullmatch(r"<4>Warning: .* of RAM above 0x[0-9a-f]+ cannot be used: .*\.\n", n) for n in layout.notes
    )


@pytest.mark.parametrize("arch", RECORDS, ids=lambda arch: arch.name)
def test_ram_beyond_the_entries_that_is_not_cut_is_refused(arch, end):
    with pytest.raises(LayoutError, match=f"{arch.name}: .*expected"):
        arch.lay_out(LayoutRequest(ram=2 * end))


def test_a_layout_that_forgets_to_cut_is_refused():
    assert PLAIN.lay_out(LayoutRequest(ram=1 << 37)).banks == (Bank(0, 1 << 37),)
    narrow = evolve(PLAIN, levels=[*PLAIN.levels[:2], evolve(PLAIN.levels[2], frame=[(12, 24, 12)])])
    with pytest.raises(LayoutError) as caught:
        narrow.lay_out(LayoutRequest(ram=1 << 37))
    assert str(caught.value) == (
        "synthetic-plain: the end of RAM is 0x2000000000, expected at most 0x1000000000, where the frames of a "
        "pte entry end; give less RAM, or cut it in the layout function (cut_banks)"
    )
    pgd, pmd, pte = PLAIN.levels
    shallow = evolve(PLAIN, levels=[pgd, evolve(pmd, frame=[(12, 24, 12)]), pte])
    text = "the end of lowmem is 0x2000000000, expected at most 0x1000000000, where the tables of a pmd entry end"
    with pytest.raises(LayoutError, match=text):
        shallow.lay_out(LayoutRequest(ram=1 << 37))


# ---- boot is linear in RAM


BOOT = """
import sys, time
from vmcore.kernel import Kernel
began = time.process_time()
k = Kernel(sys.argv[1], ram=sys.argv[2])
seconds = time.process_time() - began
last = k.layout.banks[-1].end - 4096
at = last - k.layout.phys_offset + k.layout.page_offset
assert k.cpu.physical(at) == last, hex(k.cpu.physical(at))
assert k.cpu.physical(k.layout.page_offset) == k.layout.phys_offset
k.vfree(k.vmalloc(4096))
status = dict(line.split(":", 1) for line in open("/proc/self/status", encoding="ascii"))
# the most there ever was, KiB; ru_maxrss begins with the parent's
print(seconds, int(status["VmHWM"].split()[0]) >> 10, sum(k.init_mm.tables.values()))
"""


def boot(name, ram):
    command = [sys.executable, "-c", BOOT, name, ram]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    seconds, mib, tables = done.stdout.split()
    return float(seconds), int(mib), int(tables)


def test_64_tib_boot_within_seconds_and_cost_their_page_tables(registry):
    seconds, mib, tables = boot("x86_64", "64T")
    assert 65536 <= tables <= 65536 + 256
    assert seconds < 30  # it took minutes, and grew with the square
    assert mib < 256 + 120  # 256 MiB of tables


@pytest.mark.parametrize("ram", [RAM, 1 << 30, (1 << 30) - 4096])
def test_lowmem_is_mapped_one_to_one_and_nothing_else_is(arch, kernel, ram):
    if arch.linear_map is None:
        pytest.skip(f"{arch.name} does not say how lowmem is mapped")
    if ram > arch.default_ram:
        pytest.skip("more than this machine has")
    k = kernel(arch, ram=ram)
    layout = k.layout
    pages = np.arange(layout.phys_offset, layout.lowmem_end, arch.page_size, dtype=np.int64)
    away = np.int64(layout.page_offset - layout.phys_offset - (1 << 64 if layout.page_offset >> 63 else 0))
    assert (k.cpu.mmu.translate_many((pages + away).view(np.uint64)) == pages).all()
    assert k.cpu.mmu.translate(layout.high_memory) is None


def test_a_protection_may_not_choose_the_frame(arch, kernel):
    k = kernel(arch, ram=RAM)
    for bit in range(8 * arch.levels[-1].word_bytes):
        if not arch.frame_mask >> bit & 1:
            continue
        prot = k.page_kernel | 1 << bit
        with pytest.raises(ArgumentError, match=f"found protection {prot:#x}, expected bits of an entry"):
            k.ioremap(0, arch.page_size, prot)
        with pytest.raises(ArgumentError, match="without those of the frame"):
            k.vmap(np.array([1]), 1, int(VM.MAP), prot)
    assert len(k.vmlist) == 0


def test_the_log_names_the_frame_that_the_mmu_uses(kernel):
    k = kernel("i386-pae", ram=RAM)
    addr = k.vmap(np.array([0x1000005]), 1, int(VM.MAP), k.page_kernel)
    assert k.dmesg[0].endswith("maps frame 0x5 to Linux, and frame 0x1000005 to the MMU.\n")
    assert k.explain(addr).endswith("physical address 0x5000\n  the MMU translates to 0x1000005000")
