"""The model's CPU against a second MMU, Unicorn (QEMU's, with its TLB), on the same memory.

Both walk the same tables from the same root. Where QEMU is known not to be the hardware, the test says so:
it keeps no PDPTEs (the tables are read at each walk; so does the model), has no global pages, marks upper entries
accessed in walks that end in a fault, and has 40 physical address bits.
"""

import random

import numpy as np
import pytest
from attrs import evolve

from vmcore.flags import VM
from vmcore.mmu import End, Mmu
from vmcore.rights import EXECUTE, READ, WRITE

pytest.importorskip("unicorn", reason="unicorn is not installed: no second MMU to compare with")

from tests.second_mmu import BUS, FirstMmu, Outcome, SecondMmu, tag, tag_offset, tags, without_caches

CLIENTS = 0x55555555  #: every domain client: rights are checked, which Linux of the era leaves to no one
MACHINES = {
    "i386": {"ram": "64M"},
    "i386-highmem": {"ram": "1G"},
    "i386-pae": {"ram": "64M"},
    "i386-pae-highmem": {"ram": "0-896M,4G-4160M"},
    "i386-pae paravirt": {"ram": "64M", "platform": "paravirt"},
    "x86_64": {"ram": "64M"},
    "armv5": {"ram": "64M"},
    "armv7": {"ram": "64M"},
    "armv7 clients": {"ram": "64M"},
    "armv7-highmem": {"ram": "1G"},
}
SEED = 20080124
ALL = pytest.mark.parametrize("machine", MACHINES)
ACCESSES = (READ, WRITE, EXECUTE)


@pytest.fixture
def boot(kernel, registry):
    """Return a function that boots a machine; its record may be changed first."""

    def run(machine, **changes):
        name, _, variant = machine.partition(" ")
        arch = without_caches(registry.get(name))
        if variant == "clients":
            changes.setdefault("domain_register", CLIENTS)
        return kernel(evolve(arch, hardware=evolve(arch.hardware, **changes)), **MACHINES[machine])

    return run


def both(k):
    return FirstMmu(k), SecondMmu(k)


def agree(mmus, access, address, value=0):
    """Do an access on both MMUs; return what became of it."""
    first, second = (mmu.access(access, address, value) for mmu in mmus)
    assert first == second, f"access {access} of {address:#x}: {first}, Unicorn {second}"
    return first


def agree_on_store(mmus, address, value):
    """Store on both, taking the first store back; return what became of it, and check where it went."""
    memory, physical = mmus[0].kernel.memory, mmus[0].cpu.mmu.translate(address)
    ram = physical is not None and memory.place(physical) >= 0
    before, left = memory.read(physical, 4) if ram else b"", []
    outcomes = []
    for mmu in mmus:
        outcomes.append(mmu.access(WRITE, address, value))
        if ram:
            left.append(memory.read(physical, 4))
            memory.write(physical, before)
    assert outcomes[0] == outcomes[1], f"store to {address:#x}"
    if ram:
        assert left == [value.to_bytes(4, "little") if outcomes[0].kind == "done" else before] * 2
    return outcomes[0]


def flush(mmus):
    for mmu in mmus:
        mmu.flush_all()


# ---- what there is to look at


def protections(k):
    """Return read-write, read-only, executable protections of this machine's pages."""
    rw, rx = k.page_kernel, k.protection("PAGE_KERNEL_EXEC")
    named = dict(k.arch.protections)
    if k.arch.name in ("armv5", "armv7"):
        return rw & ~0x40, rw & ~0x60, rw  # without L_PTE_EXEC; without L_PTE_WRITE, too
    return rw, named.get("PAGE_KERNEL_RO", 0x161), rx


def checks_rights(k):
    """Tell whether the kernel's own pages are checked for rights: ARM's domains may say no."""
    register = k.arch.hardware.domain_register
    return register is None or register & 3 == 1


def has_nx(k):
    """Tell whether pages may be not executable."""
    return checks_rights(k) and k.arch.name not in ("i386", "i386-highmem", "armv5")


def populate(k, rng):
    """Make areas of every kind, and gaps; return their addresses."""
    page, made = k.arch.page_size, []
    for n in range(12):
        made.append(k.vmalloc(rng.randint(1, 40) * page))
        prot = protections(k)[n % 3]
        count = rng.randint(1, 20)
        if rng.random() < 0.5:
            frames = k.alloc_pages(count, 0xD2, -1)
        else:  # the upper end of RAM: above 4 GiB with PAE
            top = k.memory.banks[-1].end >> 12
            frames = np.array(rng.sample(range(top - 4000, top), count), np.int64)
        made.append(k.vmap(frames, count, int(VM.MAP), prot))
        made.append(k.ioremap(k.layout.lowmem_end - rng.randint(5, 999) * page, rng.randint(1, 5) * page))
    made.append(k.vmalloc_exec(3 * page))
    for addr in rng.sample(made[::3], 5):
        k.vfree(addr)
        made.remove(addr)
    for addr in made:
        frames = k.init_mm.frames(addr, (k.find_vm_area(addr).size >> 12) - 1)
        tag(k, frames)
    return made


def free_frames(k, rng, count):
    """Return frames of lowmem that nobody has, tagged."""
    layout = k.layout
    low, high = layout.kernel_end >> 12, layout.lowmem_end >> 12
    frames = np.array(rng.sample(range(low, high), count), np.int64)
    frames = frames[~k.pages.allocated(frames)]
    tag(k, frames)
    return frames


def linear(k, frame):
    return (int(frame) << 12) - k.layout.phys_offset + k.layout.page_offset


def addresses(k, rng, made, count):
    """Return addresses, 8-byte aligned: areas, guard pages, gaps, linear map, user half, anything, boundaries."""
    layout, page, mask = k.layout, 4096, k.arch.word_mask
    free = free_frames(k, rng, 200)
    edges = [layout.page_offset, layout.high_memory, layout.vmalloc_start, layout.vmalloc_end & -8, mask & -8]
    edges += [1 << 47, (1 << 64) - (1 << 47)] if k.arch.word_bits == 64 else [layout.kernel_end]
    found = []
    while len(found) < count:
        area = rng.choice(made)
        size = k.find_vm_area(area).size
        inside = rng.randrange(0, page, 8)
        pick = rng.randrange(8)
        if pick < 3:
            found.append(area + rng.randrange(0, size, 8))  # the last page is the guard
        elif pick == 3:
            found.append(rng.choice((area, area + size, area + size - page)) + rng.choice((-8, 0, 8)))
        elif pick == 4:
            found.append(linear(k, rng.choice(free)) + inside)
        elif pick == 5:
            found.append(rng.choice(edges) + rng.choice((-page, -8, 0, 8, page)) & mask)
        elif pick == 6:
            found.append(rng.choice((layout.vmalloc_start, rng.randrange(layout.page_offset))) + inside & -8)
        else:
            found.append(rng.randrange(0, mask + 1, 8))
    return found


def is_tagged(k, physical):
    """Tell whether a physical address, 8-byte aligned, holds what `tag` wrote."""
    if physical is None or k.memory.place(physical) < 0:
        return False
    return k.memory.read(physical, 8) == int(tags(k, physical, 1)[0]).to_bytes(8, "little")


# ---- random addresses


@ALL
def test_loads_stores_and_fetches_of_random_addresses(boot, machine):
    k, rng = boot(machine), random.Random(SEED)
    made = populate(k, rng)
    mmus = both(k)
    seen = {}
    for n, address in enumerate(addresses(k, rng, made, 2400)):
        if n % 3:  # else on what the TLBs hold already
            flush(mmus)
        walked = k.cpu.mmu.translate(address)
        tagged = is_tagged(k, walked)
        loaded = agree(mmus, READ, address + tag_offset(k))
        assert loaded.kind == ("fault" if walked is None else "done")
        if tagged:
            assert loaded.value == walked >> 3
        assert mmus[0].translate(address) == mmus[1].translate(address) == walked
        if tagged or walked is None:
            stored = agree_on_store(mmus, address + tag_offset(k), rng.getrandbits(32))
            fetched = agree(mmus, EXECUTE, address)
            assert fetched.kind == "fault" or fetched.value == walked >> 3
            kinds = tuple(outcome.kind for outcome in (loaded, stored, fetched))
            seen[kinds] = seen.get(kinds, 0) + 1
    assert seen[("fault",) * 3] > 300
    assert sum(seen.values()) - seen[("fault",) * 3] > 1000
    if checks_rights(k):
        assert seen[("done", "fault", "fault" if has_nx(k) else "done")] > 20
    if has_nx(k):
        assert seen[("done", "done", "fault")] > 20
    k.check()


@pytest.mark.parametrize("machine", [name for name in MACHINES if name != "armv5"])
def test_loads_that_cross_into_another_page(boot, machine):
    """The second page decides: its value, or a fault at its first byte (ARM: of ARMv7, which may be unaligned).

    Of a store that faults there hardware stores nothing; the model's stores are those of a copy, and it stores
    what lies before. So stores are not compared.
    """
    k, rng = boot(machine), random.Random(SEED)
    made = populate(k, rng)
    mmus = both(k)
    kinds = set()
    for addr in made:
        size = k.find_vm_area(addr).size
        for end in {addr, addr + 4096, addr + size - 4096, addr + size}:
            flush(mmus)
            address = end - rng.randint(1, 3)
            first, second = (mmu.access(READ, address) for mmu in mmus)
            kinds.add(first.kind)
            assert first.kind == second.kind
            if first.kind == "done" or machine[0] != "a":
                assert first == second
    assert kinds == {"done", "fault"}


# ---- entries of every kind


def junk(rng, level, leaf, frame):
    """Return an entry for a page (leaf, or None) or a table at a physical address, with some bits turned over."""
    segments = level.frame if leaf is None else leaf.frame
    word = sum((frame >> s.address_bit & (1 << s.width) - 1) << s.entry_bit for s in segments)
    taken = sum(s.entry_mask for s in segments)
    if leaf is not None:
        word |= leaf.value
    elif level.table_flags:
        word |= level.table_flags
    bits = [bit for bit in range(8 * level.word_bytes) if not taken >> bit & 1]
    for bit in rng.sample(bits, rng.choice((0, 0, 1, 2, 4))):
        word ^= 1 << bit
    return word
