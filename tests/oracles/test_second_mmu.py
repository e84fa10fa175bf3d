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
from vmcore.paging.mmu import Mmu
from vmcore.paging.rights import EXECUTE, READ, WRITE

pytest.importorskip("unicorn", reason="unicorn is not installed: no second MMU to compare with")

from tests.support.second_mmu import FirstMmu, SecondMmu, tag, tag_offset, tags, without_caches

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
    memory, physical = mmus[0].kernel.memory, mmus[0].translate(address)  # by its TLB
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


def is_x86(k):
    return tag_offset(k) == 1


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

DATA = 32 << 20  #: from PHYS_OFFSET on, as many bytes of RAM nobody has; also an offset in each GiB
DOMAINS = 0x4D4D4D4D  #: client, manager, nobody, client ...


def junk(rng, k, depth, leaf, frame):
    """Return an entry for a page (a leaf, or None) or a table at an address, with a few bits turned over."""
    level = k.arch.hardware_levels[depth]
    segments = level.frame if leaf is None else leaf.frame
    word = sum((frame >> s.address_bit & (1 << s.width) - 1) << s.entry_bit for s in segments)
    word |= level.table_flags or 0x63 if leaf is None else leaf.value | (0x63 if is_x86(k) else 0x410)
    taken = sum(s.entry_mask for s in segments)
    bits = [bit for bit in range(8 * level.word_bytes) if not taken >> bit & 1]
    for bit in rng.sample(bits, rng.choice((0, 0, 1, 2, 4))):
        word ^= 1 << bit
    if k.arch.name == "armv5" and depth == 1:  # the model looks at the first of four APs, as Linux writes them
        word = word & ~0xFC0 | (word >> 4 & 3) * 0x540
    return word


def path(rng, k, root, tables, address):
    """Write a random entry at each level of the walk for an address; return where they are."""
    places, table = [], root
    for depth, level in enumerate(k.arch.hardware_levels):
        at = table + level.offset + (address >> level.shift & level.entries - 1) * level.entry_bytes
        last = level is k.arch.hardware_levels[-1]
        leaf = rng.choice(level.leaves) if level.leaves and (last or rng.random() < 0.3) else None
        if last or leaf is not None:
            shift = level.shift if leaf is None else leaf.shift
            # so that the address, whatever the size of the page, is in memory nobody has
            target = k.layout.phys_offset + DATA + rng.randrange(DATA) & -(1 << shift)
        else:
            table = target = tables[depth] + rng.randrange(0, 4096, level_bytes(k, depth + 1))
        word = junk(rng, k, depth, leaf, target)
        if is_x86(k) and len(k.arch.levels) == 3 and depth == 0:
            word = target | 1  # bits a PDPTE has not are checked when CR3 is loaded, and here never
        if k.arch.name == "armv5" and depth == 0:  # no fine tables: Linux does not use them, the model has none
            word = word & ~3 | rng.choice((0, *(1 if leaf is None else 2,) * 9))
        k.memory.store(at, word, level.word_bytes)
        places.append((at, level.word_bytes))
        if last or leaf is not None:
            return places
    raise AssertionError("a last level has no page")


def level_bytes(k, depth):
    level = k.arch.hardware_levels[depth]
    return level.entries * level.entry_bytes


def words(k, places, new=None):
    """Return entries; store others."""
    old = [k.memory.load(*place) for place in places]
    for (at, size), word in zip(places, new or old, strict=True):
        k.memory.store(at, word, size)
    return old


@ALL
def test_random_entries_give_the_same_rights_and_get_the_same_marks(boot, machine):
    changes = {"domain_register": DOMAINS} if machine.startswith("arm") else {}
    k, rng = boot(machine, **changes), random.Random(SEED)
    mm, mmus = k.mm_alloc(), both(k)
    tables = [int(frame) << 12 for frame in k.alloc_pages(len(k.arch.hardware_levels) - 1, 0x80D0, -1)]
    tag(k, np.arange(DATA >> 12, 2 * DATA >> 12) + (k.layout.phys_offset >> 12))
    for mmu in mmus:
        mmu.switch(mm)
    spaces = 1 << 17 if k.arch.word_bits == 64 else 2
    accessed = 0x20 if is_x86(k) else 0
    seen = {}
    for _ in range(700):
        address = (rng.randrange(spaces) << 30) + DATA + rng.randrange(0, DATA, 8)
        places = path(rng, k, mm.tables.root, tables, address)
        written = words(k, places)
        for access in rng.sample(ACCESSES, 3):
            physical, outcomes, left = k.cpu.mmu.translate(address), [], []
            if access == EXECUTE and physical is not None and not is_tagged(k, physical):
                continue
            for mmu in mmus:
                words(k, places, written)
                mmu.flush_all()
                held = k.memory.read(physical, 8) if physical and k.memory.place(physical) >= 0 else b""
                outcomes.append(mmu.access(access, address, 0x12345678))
                left.append((words(k, places), held and k.memory.read(physical, 4)))
                if held:
                    k.memory.write(physical, held)
            what = f"access {access} of {address:#x} by {[hex(w) for w in written]}"
            assert outcomes[0] == outcomes[1], what
            if outcomes[0].kind == "fault":  # the model marks nothing then, QEMU what is above the fault
                assert left[0][0] == written, what
                marked = [word | accessed * (word & 1) for word in written]
                assert all(w in (a, b) for w, a, b in zip(left[1][0], written, marked, strict=True)), what
            else:
                assert left[0] == left[1], what
            kind = access, outcomes[0].kind, left[0][0] != written
            seen[kind] = seen.get(kind, 0) + 1
        words(k, places, [0] * len(places))
    for access in ACCESSES:
        assert seen[access, "done", False] > 5
        assert seen[access, "fault", False] > 50
    if is_x86(k):
        assert seen[WRITE, "done", True] > 5
    assert is_x86(k) or not any(marked for _, _, marked in seen)


# ---- after changes


def rewrite(k, address, prot):
    """Give a mapped kernel page another protection, None: no entry; as set_pte_at() does, without a flush."""
    last, mirror = k.arch.levels[-1], k.arch.hardware.mirror
    at, word = k.init_mm.entry(address, len(k.arch.levels) - 1)
    new = 0 if prot is None else last.encode(last.decode(word), prot)
    k.memory.store(at, new, last.word_bytes)
    if mirror is not None:
        hardware = int(mirror.encode(np.array([new], np.uint32))[0])
        k.memory.store(at - last.offset + mirror.offset, hardware, last.word_bytes)


def look(mmus, address, fetch=True):
    """Load, store and fetch on both; return the three kinds, and the tag."""
    at = address + tag_offset(mmus[0].kernel)
    loaded = agree(mmus, READ, at)
    stored = agree_on_store(mmus, at, 0x87654321)
    fetched = agree(mmus, EXECUTE, address).kind if fetch else ""
    return (loaded.kind, stored.kind, fetched), loaded.value


@ALL
def test_a_random_script_of_maps_unmaps_and_protection_changes(boot, machine):
    k, rng = boot(machine), random.Random(SEED)
    made, mmus, gone = populate(k, rng), both(k), []
    done = dict.fromkeys(("map", "unmap", "protect"), 0)
    for _ in range(150):
        what = rng.choice(("map", "unmap", "protect", "protect"))
        done[what] += 1
        if what == "map":
            made.append(k.vmalloc(rng.randint(1, 4) * 4096))
            tag(k, k.init_mm.frames(made[-1], (k.find_vm_area(made[-1]).size >> 12) - 1))
        elif what == "unmap":
            gone.append(made.pop(rng.randrange(len(made))))
            k.vfree(gone[-1]) if not k.find_vm_area(gone[-1]).flags & int(VM.IOREMAP) else k.iounmap(gone[-1])
        else:
            area = k.find_vm_area(rng.choice(made))
            for address in range(area.addr, area.addr + area.size - 4096, 4096):
                rewrite(k, address, rng.choice(protections(k)))
        flush(mmus)
        for address in rng.sample(made, 3) + rng.sample(gone, min(len(gone), 2)):
            area = k.find_vm_area(address)
            mapped = area is not None
            page = address + (rng.randrange(area.size >> 12) if mapped else 0) * 4096 + rng.randrange(0, 4096, 8)
            walked = k.cpu.mmu.translate(page)
            kinds, value = look(mmus, page)
            if walked is None:
                assert kinds == ("fault",) * 3
            else:
                assert (kinds[0], value) == ("done", walked >> 3 & 0xFFFFFFFF)
    assert min(done.values()) > 20


@ALL
@pytest.mark.parametrize("how", ["page", "all"])
@pytest.mark.parametrize("fetch", [False, True], ids=["store", "fetch"])
def test_a_change_without_a_flush_leaves_both_the_same_stale_translation(boot, machine, how, fetch):
    """A page is used, its entry changed, used, flushed, used.

    Pages are stored to or fetched from, not both: Unicorn looks at the tables again for a store to a page that
    may hold code. Where every page may, only the model stores.
    What a kept page lacks is looked for in the tables once more, in both: more rights come at once (the SDM,
    4.10.4.3, allows one fault before that), and less rights or another frame only with the flush.
    """
    k = boot(machine)
    rw, ro, rx = protections(k)
    mmus = both(k)
    at_once = {(ro, rw), (ro, rx), (rw, rx)}

    def use(address):
        read = agree(mmus, READ, address + tag_offset(k))
        if fetch:
            return read, agree(mmus, EXECUTE, address).kind
        if has_nx(k):
            return read, agree_on_store(mmus, address + tag_offset(k), 0x87654321).kind
        return read, mmus[0].access(WRITE, address + tag_offset(k), read.value).kind

    for before, after in ((rw, None), (rx, None), (rx, ro), (rw, ro), (rw, "move"), *sorted(at_once)):
        addr, other = k.vmalloc(4096), k.vmalloc(4096)
        for one in (addr, other):
            tag(k, k.init_mm.frames(one, 1))
            rewrite(k, one, before)
        flush(mmus)
        old = use(addr)
        if after == "move":
            here, there = (k.cpu.mmu.walk(one).steps[-1] for one in (addr, other))
            k.memory.store(here.entry_address, there.word, here.level.word_bytes)
        else:
            rewrite(k, addr, after)
        stale = use(addr)
        for mmu in mmus:
            mmu.flush_page(addr) if how == "page" else mmu.flush_all()
        fresh = use(addr)
        assert old[0].kind == "done"
        if (before, after) in at_once:
            assert stale == fresh
        else:
            assert stale == old
        if after is None:
            assert (fresh[0].kind, fresh[1]) == ("fault", "fault")
        elif after == "move":
            assert fresh[0].value == k.cpu.mmu.translate(other) >> 3 != old[0].value
        elif after == ro and checks_rights(k) and "armv5" not in machine:
            changed = has_nx(k) and before == rx if fetch else True
            assert (old[1], fresh[1]) == (("done", "fault") if changed else (old[1], old[1]))


# ---- two processes


LAZY = ("i386", "i386-highmem", "i386-pae paravirt", "x86_64", "armv5", "armv7", "armv7 clients", "armv7-highmem")


@ALL
def test_a_later_mapping_reaches_a_process_by_a_fault_in_both(boot, machine):
    k = boot(machine)
    processes, mmus = (k.mm_alloc(), k.mm_alloc()), both(k)
    first, second = mmus
    addr = k.vmalloc(3 * 4096)
    tag(k, k.init_mm.frames(addr, 3))
    at = addr + tag_offset(k)
    for mm in processes:
        for mmu in mmus:
            mmu.switch(mm)
        flush(mmus)  # the model keeps global pages, Unicorn none
        taken = first.cpu.faults.repaired
        lazy = machine in LAZY
        # Unicorn has no kernel that repairs: the bare tables decide
        missing = Mmu(k.arch, k.memory, mm.tables.root).translate(addr) is None
        assert missing == lazy
        assert second.access(READ, at).kind == ("fault" if lazy else "done")
        loaded = first.access(READ, at)
        assert (loaded.kind, first.cpu.faults.repaired - taken) == ("done", int(lazy))
        # what was absent is not kept: no flush is needed
        assert second.access(READ, at) == loaded
        assert agree(mmus, READ, at + 4096).kind == "done"
        assert agree(mmus, READ, at + 3 * 4096).kind == "fault"
    for mmu in mmus:
        mmu.switch(None)
    assert agree(mmus, READ, at).kind == "done"


@ALL
def test_pages_of_one_process_go_with_a_switch_and_global_ones_need_not(boot, machine):
    """Unicorn's switch drops everything, which any TLB may; the model keeps what is global until it is flushed.

    So a stale page of the kernel shows in the model only: on x86 by CR4.PGE (SDM, 4.10.2.4), on ARM as not nG.
    The entry of armv5 has no such bit, and its switch invalidates the whole TLB.
    """
    k = boot(machine)
    processes = k.mm_alloc(), k.mm_alloc()
    mmus = both(k)
    first, second = mmus
    for mmu in mmus:
        mmu.switch(processes[0])
    addr = k.vmalloc(4096)
    tag(k, k.init_mm.frames(addr, 1))
    at = addr + tag_offset(k)
    k.cpu.load(at, 4)  # repairs
    for private in (False, True):
        step = k.cpu.mmu.walk(addr).steps[-1]
        shared = (
            step.leaf.access.shared if step.leaf is not None and step.leaf.access else step.level.access.shared
        )
        if private and shared:
            mask = shared[0][0]
            k.memory.store(step.entry_address, step.word ^ mask, step.level.word_bytes)
        flush(mmus)
        old = agree(mmus, READ, at)
        entry = k.cpu.mmu.walk(addr).steps[-1]
        k.memory.store(entry.entry_address, 0, entry.level.word_bytes)
        for mm in (processes[1], processes[0]):
            for mmu in mmus:
                mmu.switch(mm)
        kept = first.access(READ, at)
        assert second.access(READ, at).kind == "fault"
        tagged = k.arch.hardware.tlb.tagged  # ARM's ASIDs keep private ones, too
        assert (kept == old) == bool((shared and not private) or tagged)
        flush(mmus)
        assert agree(mmus, READ, at).kind == "fault"
        k.memory.store(entry.entry_address, step.word, entry.level.word_bytes)
