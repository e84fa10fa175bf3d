"""Simulated RAM as an ELF core, and read back as a dump."""

import errno
import json
import mmap
import time

import numpy as np
import pytest
from click.testing import CliRunner

from vmcore.cli import main
from vmcore.dump import open_dump
from vmcore.dump.elf_headers import Note
from vmcore.dump.root import find_root
from vmcore.dump.save import write_core
from vmcore.flags import VM
from vmcore.memory.physical import PhysicalMemory
from vmcore.paging.mmu import Mmu
from vmcore.system import touched as resident
from vmcore.units import Bank

RAM = 64 << 20


def filled(k):
    """Give a kernel areas of several kinds, with content; return all addresses of interest, a page apart."""
    page = k.arch.page_size
    rng = np.random.default_rng(5)
    areas = [(k.vmalloc(n * page), n) for n in (1, 40, 3, 17)]
    for address, n in areas:
        k.vwrite(address, rng.bytes(n * page))
    k.vfree(areas.pop(1)[0])
    once = k.pages.alloc(1, 0xD0, -1)
    areas.append((k.vmap(np.repeat(once, 5), 5, int(VM.MAP), k.page_kernel), 5))
    areas.append((k.vmalloc(2 * page), 2))  # mapped, never written
    ioremap = k.ioremap(k.layout.banks[-1].end + 16 * page, 2 * page)
    areas.append((ioremap, 2))
    return [a + page * i for a, n in areas for i in range(-1, n + 1)]


def test_a_saved_kernel_reads_back_as_it_was(arch, kernel, registry, tmp_path):
    reads_back(kernel(arch, ram=RAM), registry, tmp_path / "ram.elf")


def test_a_saved_kernel_with_a_hole_in_its_ram_reads_back(kernel, registry, tmp_path):
    reads_back(kernel("x86_64", ram="0-64M,5G-5248M"), registry, tmp_path / "ram.elf")


def reads_back(k, registry, path):
    """Save a kernel, and compare what the file has with what it has."""
    addresses, arch = filled(k), k.arch
    process = k.mm_alloc()
    k.save(path)
    with open_dump(path) as dump:
        assert dump.problems == ()
        assert dump.banks == k.layout.banks
        root = find_root(dump, arch, records=registry.architectures.values())
        assert root.address == k.init_mm.root
        for tables in (root.address, process.tables.root):
            saved, live = Mmu(arch, dump, tables), Mmu(arch, k.memory, tables)
            physical = [live.translate(address) for address in addresses]
            assert [saved.translate(address) for address in addresses] == physical
            found = [p for p in physical if p is not None]
            assert tables != root.address or len(found) > len(addresses) // 2
            assert [dump.word(p, 8) for p in found] == [k.memory.word(p, 8) for p in found]
        for bank in k.layout.banks:
            assert dump.read(bank.start, bank.size) == k.memory.read(bank.start, bank.size)
        assert dump.word(k.layout.banks[-1].end, 8) is None


def test_the_note_says_where_the_root_is(kernel, tmp_path):
    k = kernel("x86_64", ram=RAM)
    k.save(tmp_path / "ram.elf")
    with open_dump(tmp_path / "ram.elf") as dump:
        assert dump.machine == 62
        assert [(n.name, n.kind) for n in dump.notes] == [("VMCOREINFO", 0)]
        assert dump.notes[0].desc.decode().splitlines() == [
            "OSRELEASE=2.6.24-vmcore",
            "PAGESIZE=4096",
            "KERNELOFFSET=0",
            "SYMBOL(swapper_pg_dir)=ffffffff80300000",
            "SYMBOL(init_top_pgt)=ffffffff80300000",
            "SYMBOL(_stext)=ffffffff80001000",
            "NUMBER(__START_KERNEL_map)=0xffffffff80000000",
            "NUMBER(phys_base)=0",
            "NUMBER(pgtable_l5_enabled)=0",
            "NUMBER(sme_mask)=0",
        ]
    k = kernel("i386-pae", ram=RAM)
    k.save(tmp_path / "ram.elf")
    with open_dump(tmp_path / "ram.elf") as dump:
        assert b"\nCONFIG_X86_PAE=y\n" in dump.notes[0].desc
    k = kernel("armv5", ram=RAM, platform="ebsa285-co285")
    k.save(tmp_path / "ram.elf")
    with open_dump(tmp_path / "ram.elf") as dump:
        lines = dump.notes[0].desc.decode().splitlines()
        assert lines[3:] == [
            "SYMBOL(swapper_pg_dir)=60004000",
            "SYMBOL(_stext)=60001000",
            "NUMBER(PAGE_OFFSET)=0x60000000",
            "NUMBER(PHYS_OFFSET)=0",
        ]
        assert find_root(dump, k.arch).address == 0x4000


def test_a_huge_machine_costs_what_was_touched(kernel, tmp_path):
    k = kernel("x86_64", ram="64G")
    k.vmalloc(16 << 20)
    k.vwrite(k.vmalloc(1 << 20), b"\1" * (1 << 20))
    path = tmp_path / "ram.elf"
    start = time.perf_counter()
    k.save(path)
    assert time.perf_counter() - start < 1
    assert path.stat().st_size > 64 << 30
    assert path.stat().st_blocks * 512 < 2 << 20
    with open_dump(path) as dump:
        assert dump.size == 64 << 30
        assert dump.read((64 << 30) - 4096, 4096) == bytes(4096)


@pytest.mark.parametrize("packed", [False, True])
def test_pages_smaller_than_the_host_s(packed, tmp_path):
    banks = [Bank(0x400, 0x1C00), Bank(0x10000, 0x10400), Bank(0x20800, 0x24000)]
    memory = PhysicalMemory(banks, 10, packed)
    for bank in banks:
        memory.write(bank.start, b"first")
        memory.write(bank.end - 4, b"last")
    write_core(tmp_path / "core", memory, [Note("A", 1, b"xyz"), Note("", 2, b"")])
    with open_dump(tmp_path / "core") as dump:
        assert dump.banks == tuple(banks)
        assert [tuple(n) for n in dump.notes] == [("A", 1, b"xyz"), ("", 2, b"")]
        for bank in banks:
            assert dump.read(bank.start, bank.size) == memory.read(bank.start, bank.size)


def test_what_was_touched_is_asked_in_pieces(monkeypatch):
    monkeypatch.setattr(resident, "_CHUNK", 4)
    page = mmap.PAGESIZE
    buffer = mmap.mmap(-1, 64 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer.madvise(mmap.MADV_NOHUGEPAGE)
    touched = [0, 3, 4, 5, 11, 12, 40, 63]
    for n in touched:
        buffer[n * page] = 1
    data = np.frombuffer(buffer, np.uint8)
    for first, end in ((0, 64 * page), (3 * page + 512, 41 * page), (4 * page, 63 * page + 512)):
        found = list(resident.touched(data[first:end]))
        assert {n for a, b in found for n in range((first + a) // page, -(-(first + b) // page))} == {
            n for n in touched if n * page < end and (n + 1) * page > first
        }
        assert all(0 <= a < b <= end - first for a, b in found)


def test_where_the_host_does_not_say_what_was_touched_all_is_read(kernel, tmp_path, monkeypatch):
    k = kernel("armv7", ram=RAM)
    filled(k)
    k.save(tmp_path / "a")

    def refuse(*args, **options):
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(resident, "open", refuse, raising=False)
    k.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "b").stat().st_blocks * 512 < 1 << 20


def test_replay_saves_the_kernel_after_it(tmp_path):
    path = tmp_path / "ram.elf"
    arguments = ["replay", "sample:arm-short", "--arch", "armv7-highmem", "--json", "--save-ram", str(path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code in (0, 1)
    assert json.loads(result.output)
    with open_dump(path) as dump:
        assert dump.machine == 40
        assert dump.word(0x40004000, 4) is not None
    missing = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "none" / "x")])
    assert missing.exit_code == 2
    assert "cannot be written: No such file or directory" in missing.output
