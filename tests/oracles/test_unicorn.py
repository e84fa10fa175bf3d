"""Unicorn, whose MMU is QEMU's, translates exported cores as the kernel that saved them."""

import ctypes
import mmap

import numpy as np
import pytest

from vmcore.dump import open_dump
from vmcore.dump.root import find_root
from vmcore.flags import VM

pytest.importorskip("unicorn", reason="unicorn is not installed (pip install vmcore[interop])")

import unicorn

from tests.support.second_mmu import translate

EFER = 0xC0000080
#: Mode, CR4 and EFER by record.
X86 = {"x86_64": ("64", 0x30, 0xD00), "i386": ("32", 0x10, 0), "i386-pae": ("32", 0x30, 0x800)}


def x86(name, root):
    const = pytest.importorskip("unicorn.x86_const")
    mode, cr4, efer = X86[name]
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, getattr(unicorn, f"UC_MODE_{mode}"))
    uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
    uc.reg_write(const.UC_X86_REG_CR4, cr4)
    if efer:
        uc.reg_write(const.UC_X86_REG_MSR, (EFER, efer))
    uc.reg_write(const.UC_X86_REG_CR3, root)
    uc.reg_write(const.UC_X86_REG_CR0, 0x80010021)  # PG, WP, NE, PE
    return uc


def arm(root):
    const = pytest.importorskip("unicorn.arm_const")
    uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM)
    uc.ctl_set_cpu_model(const.UC_CPU_ARM_CORTEX_A15)
    uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
    for crn, op2, value in ((2, 0, root), (2, 2, 0), (3, 0, 0xFFFFFFFF), (1, 0, 0x00C50079 | 1 | 1 << 23)):
        uc.reg_write(const.UC_ARM_REG_CP_REG, (15, 0, 0, crn, 0, 0, op2, value))
    return uc


@pytest.mark.parametrize("name", ["x86_64", "i386", "i386-pae", "armv7", "armv7-highmem"])
def test_2000_random_addresses(name, kernel, tmp_path):
    k = kernel(name, ram=64 << 20)
    rng = np.random.default_rng(3)
    areas = [k.vmalloc(size * 4096) for size in rng.integers(1, 60, 40).tolist()]
    for address in areas[::3]:
        k.vfree(address)
    once = k.pages.alloc(1, 0xD0, -1)
    k.vmap(np.repeat(once, 512), 512, int(VM.MAP), k.page_kernel)
    k.save(tmp_path / "ram.elf")
    with open_dump(tmp_path / "ram.elf") as dump, (tmp_path / "ram.elf").open("rb") as file:
        root = find_root(dump, k.arch).address
        uc = x86(name, root) if name in X86 else arm(root)
        images = []
        for bank, at in zip(dump.banks, (dump.runs.starts + dump.runs.deltas).tolist(), strict=True):
            image = mmap.mmap(file.fileno(), bank.size, flags=mmap.MAP_PRIVATE, prot=3, offset=at)
            images.append(image)
            place = ctypes.addressof(ctypes.c_char.from_buffer(image))
            uc.mem_map_ptr(bank.start, bank.size, unicorn.UC_PROT_ALL, place)
    start, end = k.layout.vmalloc_start & -4096, max(a.addr + a.size for a in k.vmlist) + (1 << 16)
    addresses = [start + int(offset) for offset in rng.integers(0, end - start, 2000)]
    expected = []
    for address in addresses:
        frame = k.vmalloc_to_pfn(address)
        expected.append(None if frame is None else (frame << 12) + address % 4096)
    assert 300 < sum(e is not None for e in expected) < 1950
    assert [translate(uc, address, unicorn.UC_PROT_READ) for address in addresses] == expected
