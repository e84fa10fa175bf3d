"""A second opinion on every access: Unicorn's MMU and TLB over the very buffer a kernel's memory is.

`SecondMmu` runs loads, stores and fetches as machine code, so that Unicorn walks the tables from the same root;
`FirstMmu` does the same on the model's CPU 0. Both answer with an `Outcome`. The code lies in a page of the
kernel image, which is never handed out, and runs at its linear address.
"""

import ctypes
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import unicorn
from attrs import evolve
from unicorn import arm_const, x86_const
from unicorn.unicorn_py3.unicorn import uclib

from vmcore.errors import BusError, PageFault
from vmcore.paging.rights import EXECUTE, READ, WRITE

CODE = 0x100000  #: of the kernel image, from PHYS_OFFSET on
_WORD = 4  #: bytes of every load and store here
_BUS = (unicorn.UC_ERR_READ_UNMAPPED, unicorn.UC_ERR_WRITE_UNMAPPED, unicorn.UC_ERR_FETCH_UNMAPPED)
_FAULT = unicorn.UC_ERR_EXCEPTION
_PROT = {READ: unicorn.UC_PROT_READ, WRITE: unicorn.UC_PROT_WRITE, EXECUTE: unicorn.UC_PROT_EXEC}


class Outcome(NamedTuple):
    """What became of an access: "done" and the word loaded (0 for a store), "fault" and its address, or "bus"."""

    kind: str
    value: int = 0


BUS = Outcome("bus")


def without_caches(arch):
    """Return the record with memory that is always coherent, as Unicorn's is."""
    return evolve(arch, hardware=evolve(arch.hardware, cache=None))


class FirstMmu:
    """CPU 0 of the model."""

    def __init__(self, kernel):
        self.kernel, self.cpu = kernel, kernel.cpus[0]

    def access(self, access, address, value=0):
        """Do one access; see `Outcome`."""
        try:
            if access == WRITE:
                self.cpu.store(address, value.to_bytes(_WORD, "little"))
                return Outcome("done")
            if access == READ:
                return Outcome("done", int.from_bytes(self.cpu.load(address, _WORD), "little"))
            return Outcome(
                "done", int.from_bytes(self.cpu.fetch(address, 8)[tag_offset(self.kernel) :][:4], "little")
            )
        except PageFault as fault:
            return Outcome("fault", fault.address)
        except BusError:
            return BUS

    def translate(self, address, access=READ):
        """Return the physical address by the TLB, else the tables, or None."""
        try:
            return self.cpu.physical(address, access)
        except PageFault:
            return None

    def flush_all(self):
        self.kernel.flush_tlb_all(0)

    def flush_page(self, address):
        self.kernel.flush_tlb_pages(0, address, address + 1, every_cpu=False)

    def switch(self, mm):
        self.kernel.switch_mm(0, mm)


def translate(uc, address, protection):
    """Return what uc_vmem_translate() says, which the Python binding lacks; None: an exception of the CPU."""
    physical = ctypes.c_uint64()
    status = uclib.uc_vmem_translate(uc._uch, ctypes.c_uint64(address), protection, ctypes.byref(physical))
    return physical.value if status == unicorn.UC_ERR_OK else None


class SecondMmu:
    """Unicorn, on the memory of a kernel; one for each family below."""

    SNIPPETS: tuple[bytes, ...]
    INSTRUCTION: bytes
    POINTER: int
    DATA: int
    _machine: Callable[[], Any]  # an unicorn.Uc, whose stub lacks half of its methods
    _start: Callable[[], None]
    _faulted: Callable[[int], int]
    _root: Callable[[int, int], None]

    def __new__(cls, kernel):
        """Choose the family."""
        return super().__new__(_X86 if kernel.arch.name.startswith(("i386", "x86")) else _Arm)

    def __init__(self, kernel):
        self.kernel, self._layout = kernel, kernel.layout
        self._at = kernel.layout.page_offset + CODE
        self._uc = self._machine()
        memory = kernel.memory
        self._buffer = ctypes.c_char.from_buffer(memory.buffer)  # keeps it alive
        base = ctypes.addressof(self._buffer)
        for bank in memory.banks:
            size, at = bank.end - bank.start, memory.offset(bank.start)
            self._uc.mem_map_ptr(bank.start, size, unicorn.UC_PROT_ALL, base + at)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
        memory.write(kernel.layout.phys_offset + CODE, b"".join(code.ljust(16, b"\0") for code in self.SNIPPETS))
        self._start()

    def _run(self, number, at=None):
        """Run one snippet."""
        at = (self._at if at is None else at) + 16 * number
        self._uc.emu_start(at, at + len(self.SNIPPETS[number]))

    def access(self, access, address, value=0):
        """Do one access; see `Outcome`."""
        uc = self._uc
        try:
            if access == EXECUTE:
                uc.emu_start(address, address + len(self.INSTRUCTION), count=1)
                return Outcome("done", uc.reg_read(self.DATA))
            uc.reg_write(self.POINTER, address)
            if access == WRITE:
                uc.reg_write(self.DATA, value)
                self._run(1)
                return Outcome("done")
            self._run(0)
            return Outcome("done", uc.reg_read(self.DATA))
        except unicorn.UcError as error:
            where = self._faulted(address)
            if error.errno in _BUS:
                return BUS
            if error.errno != _FAULT:
                raise
            # of a fetch CR2 is somewhere in the instruction
            return Outcome("fault", where & -8 if access == EXECUTE else where)

    def translate(self, address, access=READ):
        """Return the physical address by the TLB, else the tables, or None; this fills the TLB, too."""
        return translate(self._uc, address, _PROT[access])

    def switch(self, mm):
        self._root(self._layout.swapper_pg_dir if mm is None else mm.tables.root, 0 if mm is None else mm.number)


class _X86(SecondMmu):
    """CR0.WP and CR4.PGE set, SMEP and SMAP not, EFER.NXE where entries have NX; 40 physical address bits."""

    # mov eax,[rsi]; mov [rsi],eax; invlpg [rsi]; mov cr3,rax; mov cr4,rax (32-bit code has the same bytes)
    SNIPPETS = tuple(bytes.fromhex(code) for code in ("8b06", "8906", "0f013e", "0f22d8", "0f22e0"))
    INSTRUCTION = b"\xb8....\x90\x90\x90"  # mov eax, tag
    GP = 0xDEAD0000  # what CR2 holds as long as nothing writes it
    PGE = 0x80

    def _machine(self):
        long = self.kernel.arch.word_bits == 64
        c = x86_const
        self.POINTER, self.DATA, self._wide = (
            (c.UC_X86_REG_RSI, c.UC_X86_REG_EAX, c.UC_X86_REG_RAX)
            if long
            else (c.UC_X86_REG_ESI, c.UC_X86_REG_EAX, c.UC_X86_REG_EAX)
        )
        self._pae, self._long = len(self.kernel.arch.levels) > 2, long
        return unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64 if long else unicorn.UC_MODE_32)

    def _start(self):
        uc, c = self._uc, x86_const
        self._cr4 = self.PGE | 0x10 | (0x20 if self._pae else 0)  # PSE, PAE
        uc.reg_write(c.UC_X86_REG_CR4, self._cr4)
        if self._pae:
            uc.reg_write(c.UC_X86_REG_MSR, (0xC0000080, 0xD00 if self._long else 0x800))  # LMA, LME; NXE
        uc.reg_write(c.UC_X86_REG_CR3, self._layout.swapper_pg_dir)
        uc.reg_write(c.UC_X86_REG_CR2, self.GP)
        uc.reg_write(c.UC_X86_REG_CR0, 0x80010021)  # PG, WP, NE, PE
        self._context = uc.context_save()

    def _faulted(self, address):
        """Return CR2, or the address after a #GP; take the exception back, or the next one is a double fault."""
        cr2 = self._uc.reg_read(x86_const.UC_X86_REG_CR2) & self.kernel.arch.word_mask
        self._uc.context_restore(self._context)  # registers only: the TLB stays
        return address if cr2 == self.GP else cr2

    def flush_page(self, address):
        self._uc.reg_write(self.POINTER, address)
        self._run(2)

    def flush_all(self):
        """Clear and set CR4.PGE, as __flush_tlb_global() does."""
        for value in (self._cr4 & ~self.PGE, self._cr4):
            self._uc.reg_write(self._wide, value)
            self._run(4)

    def _root(self, root, number):
        self._uc.reg_write(self._wide, root)
        self._run(3)
        self._context = self._uc.context_save()


def _mcr(crn, crm=0, op2=0):
    """Return ``mcr p15, 0, r0, crn, crm, op2``."""
    return struct.pack("<I", 0xEE000F10 | crn << 16 | op2 << 5 | crm)


class _Arm(SecondMmu):
    """Short descriptors by TTBR0, the record's domain register, the XP and S bits of the control register."""

    # ldr r0,[r1]; str r0,[r1]; then TLBIMVA, TTBR0, TLBIALL, DACR, CONTEXTIDR, TTBCR
    SNIPPETS = (
        *(struct.pack("<I", word) for word in (0xE5910000, 0xE5810000)),
        *(_mcr(8, 7, 1), _mcr(2), _mcr(8, 7), _mcr(3), _mcr(13, 0, 1), _mcr(2, 0, 2)),
    )
    INSTRUCTION = struct.pack("<I", 0xE51F0004)  # ldr r0,[pc,#-4]: the tag behind it
    POINTER, DATA = arm_const.UC_ARM_REG_R1, arm_const.UC_ARM_REG_R0

    def _machine(self):
        old = self.kernel.arch.name == "armv5"
        self._tagged, self._old = not old, old
        uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM926 if old else unicorn.UC_MODE_ARM)
        uc.ctl_set_cpu_model(arm_const.UC_CPU_ARM_926 if old else arm_const.UC_CPU_ARM_CORTEX_A9)
        return uc

    def _start(self):
        uc, physical = self._uc, self._layout.phys_offset + CODE
        uc.reg_write(arm_const.UC_ARM_REG_CPSR, 0xD3)  # SVC, interrupts off
        self._set(3, self._layout.swapper_pg_dir, physical)
        self._set(5, self.kernel.arch.hardware.domain_register, physical)
        if not self._old:
            self._set(7, 0, physical)
        # M and what reads as one; then S (AP 00 lets the kernel read), or XP and U (extended tables, unaligned)
        control = 0x00050079 | (0x100 if self._old else 0x00C00000)
        uc.reg_write(arm_const.UC_ARM_REG_CP_REG, (15, 0, 0, 1, 0, 0, 0, control))
        self.flush_all()

    def _set(self, number, value, at=None):
        self._uc.reg_write(self.DATA, value)
        self._run(number, at)

    def _faulted(self, address):
        """Return the address asked for: Unicorn writes DFAR and DFSR only for exceptions it delivers."""
        return address

    def flush_page(self, address):
        self._set(2, address & ~0xFFF)

    def flush_all(self):
        self._set(4, 0)

    def _root(self, root, number):
        if self._tagged:
            self._set(6, number)  # the ASID
        self._set(3, root)
        if not self._tagged:
            self.flush_all()  # cpu_arm926_switch_mm


# ---- tagged pages: each eight bytes tell where they are, to a load and to a fetch


def tag_offset(kernel):
    """Return where in eight tagged bytes the tag, physical address >> 3, is."""
    return 1 if kernel.arch.name.startswith(("i386", "x86")) else 4


def tags(kernel, physical, count):
    """Return ``count`` tagged words, uint64, for the memory from an aligned physical address on."""
    numbers = np.uint64(physical >> 3) + np.arange(count, dtype=np.uint64)
    if tag_offset(kernel) == 1:
        return np.uint64(0x909090_00000000B8) | numbers << np.uint64(8)
    return np.uint64(0xE51F0004) | numbers << np.uint64(32)


def tag(kernel, frames):
    """Fill frames with instructions that load their own tag."""
    memory, size = kernel.memory, kernel.arch.page_size
    for frame, row in zip(frames.tolist(), memory.page_rows(frames).tolist(), strict=True):
        memory.pages[row] = tags(kernel, frame * size, size >> 3).view(np.uint8)
