"""What entries allow that Linux does not write: reserved bits, pages that may not be read, memory that is not."""

import pytest
from attrs import evolve

from vmcore.errors import BusError, PageFault
from vmcore.paging.mmu import Mmu
from vmcore.paging.rights import EXECUTE, READ, RESERVED, Rights

RAM = 64 << 20


def rights_of(k, address):
    return Rights(k.arch).of(Mmu(k.arch, k.memory, k.layout.swapper_pg_dir).walk(address))


@pytest.mark.parametrize("bit", [52, 58, 62])
@pytest.mark.parametrize("depth", [1, 2])
def test_bits_above_the_frame_are_reserved_without_long_mode(kernel, bit, depth):
    k = kernel("i386-pae", ram=RAM)
    address = k.vmalloc(4096)
    step = k.cpu.mmu.walk(address).steps[depth]
    k.memory.store(step.entry_address, step.word | 1 << bit, 8)
    assert rights_of(k, address) == RESERVED
    with pytest.raises(PageFault, match="has a reserved bit set"):
        k.cpu.load(address, 4)


def test_the_same_bits_are_software_s_in_long_mode(kernel):
    k = kernel("x86_64", ram=RAM)
    address = k.vmalloc(4096)
    step = k.cpu.mmu.walk(address).steps[3]
    k.memory.store(step.entry_address, step.word | 0x7FF << 52, 8)
    assert rights_of(k, address) & (READ | RESERVED) == READ


def test_a_root_entry_of_long_mode_cannot_be_a_page(kernel):
    k = kernel("x86_64", ram=RAM)
    address = k.vmalloc(4096)
    step = k.cpu.mmu.walk(address).steps[0]
    k.memory.store(step.entry_address, step.word | 0x80, 8)
    assert rights_of(k, address) == RESERVED


@pytest.mark.parametrize(("access", "executable"), [(0x000, False), (0x200, False), (0x010, True), (0x210, True)])
def test_what_may_not_be_read_may_not_be_fetched(kernel, registry, access, executable):
    arch = registry.get("armv7")
    k = kernel(evolve(arch, hardware=evolve(arch.hardware, domain_register=0x55555555)), ram=RAM)
    address = k.vmalloc(4096)
    step = k.cpu.mmu.walk(address).steps[1]
    k.memory.store(step.entry_address, step.word & ~0x231 | access, 4)
    assert rights_of(k, address) & (READ | EXECUTE) == (READ | EXECUTE if executable else 0)


@pytest.mark.parametrize("outside", [RAM, 1 << 31])
def test_a_page_where_no_ram_is_ends_in_a_bus_error(kernel, outside):
    k = kernel("i386", ram=RAM)
    address = k.ioremap(outside, 4096)
    with pytest.raises(BusError, match=f"{outside:#x}: no RAM there"):
        k.cpu.load(address, 4)
    with pytest.raises(BusError, match=f"{outside:#x}: no RAM there"):
        k.cpu.store(address, b"1234")
