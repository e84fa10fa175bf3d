"""Loads, stores and fetches: what they see, when they fault, what they mark and what TLBs keep."""

import sys
import threading

import numpy as np
import pytest
from attrs import evolve

from tests.support import synthetic
from vmcore.architecture import Access, HardwareView, Tlb
from vmcore.errors import ArgumentError, BusError, ConfigurationError, KernelDead, KernelOops, PageFault
from vmcore.events import FlushAction
from vmcore.flags import GFP_KERNEL, VM
from vmcore.hookspecs import hookimpl
from vmcore.paging.mmu import Mmu
from vmcore.paging.rights import CLEAN, EXECUTE, READ, SHARED, WRITE

RAM = 64 << 20
RW, ACCESSED, DIRTY, GLOBAL, NX = 0x2, 0x20, 0x40, 0x100, 1 << 63


class Hears:
    """Writes down what CPUs do."""

    def __init__(self):
        self.said = []

    @hookimpl
    def vmcore_tlb_filled(self, cpu, addresses, physical):
        self.said.append(("filled", cpu, addresses.tolist(), physical.tolist()))

    @hookimpl
    def vmcore_tlb_dropped(self, cpu, scope, start, end, entries):
        self.said.append(("dropped", cpu, scope, start, end, entries))

    @hookimpl
    def vmcore_fault(self, cpu, address, access, repaired):
        self.said.append(("fault", cpu, address, access, repaired))

    @hookimpl
    def vmcore_ipi(self, cpu, targets, reason):
        self.said.append(("ipi", cpu, targets, reason))


def mapped(k, prot, pages=1):
    """Map new frames with a protection; return the address and the frames."""
    frames = k.alloc_pages(pages, GFP_KERNEL, -1)
    return k.vmap(frames, pages, int(VM.MAP), prot), frames


# ---- bytes


@pytest.mark.parametrize(("skip", "size"), [(0, 1), (4090, 6), (4090, 7), (1, 3 * 4096), (4095, 2), (0, 9 * 4096)])
def test_what_is_stored_is_loaded_and_lies_in_the_frames(arch, kernel, skip, size):
    k = kernel(arch, ram=RAM)
    at = k.vmalloc(10 * arch.page_size)
    before = k.vread(at, 10 * arch.page_size)
    data = bytes(n * 7 & 0xFF for n in range(size))
    k.cpu.store(at + skip, data)
    assert k.cpu.load(at + skip, size) == data
    assert k.vread(at, 10 * arch.page_size) == before[:skip] + data + before[skip + size :]
    k.flush_cache_all(0)
    frames = k.find_vm_area(at).pages.tolist()
    raw = b"".join(k.memory.read(f << k.page_shift, k.page_size) for f in frames)
    assert raw[skip : skip + size] == data


def test_words_through_a_warm_tlb(arch, kernel):
    k = kernel(arch, ram=RAM)
    at = k.vmalloc(arch.page_size)
    k.cpu.load(at, 4)
    for n in range(0, arch.page_size, 4):
        k.cpu.store(at + n, n.to_bytes(4, "little"))
    assert [int.from_bytes(k.cpu.load(at + n, 4), "little") for n in range(0, 64, 4)] == list(range(0, 64, 4))
    assert k.vread(at + arch.page_size - 4, 4) == (arch.page_size - 4).to_bytes(4, "little")


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_access(kernel, size):
    k = kernel("i386", ram=RAM)
    with pytest.raises(
        ArgumentError, match=f"found an access of {size} bytes at 0xc0000000, expected at least one"
    ):
        k.cpu.load(0xC0000000, size)
    with pytest.raises(ArgumentError, match="found an access of 0 bytes"):
        k.cpu.store(0xC0000000, b"")


@pytest.mark.parametrize("address", [-1, 1 << 32, 0xFFFFFFFF])
def test_an_access_outside_the_address_space(kernel, address):
    k = kernel("i386", ram=RAM)
    with pytest.raises(ArgumentError, match="none beyond 0xffffffff"):
        k.cpu.load(address, 2)


@pytest.mark.parametrize("address", [-4, -4096, -(64 << 12), -(512 << 12)])
def test_there_is_nothing_below_address_zero(arch, kernel, address):
    k = kernel(arch, ram=RAM)
    for _ in range(2):
        with pytest.raises(ArgumentError, match="found an access of 4 bytes"):
            k.cpu.load(address, 4)
        with pytest.raises(ArgumentError, match="found an access of 4 bytes"):
            k.cpu.store(address, b"OOPS")
        k.cpu.load(k.vmalloc(1), 1)
    k.flush_tlb_all(0)
    with pytest.raises(ArgumentError):
        k.cpu.load(address, 4)


@pytest.mark.parametrize("call", [
    lambda cpu, at: cpu.load("x", 4), lambda cpu, at: cpu.load(at, "4"), lambda cpu, at: cpu.load(None, 4),
    lambda cpu, at: cpu.store("x", b"y"), lambda cpu, at: cpu.store(at, "text"),
    lambda cpu, at: cpu.physical(None),
    lambda cpu, at: cpu.physical(at, 0), lambda cpu, at: cpu.store(at, np.zeros((4, 4), np.uint8)[:, ::2]),
])  # fmt: skip
@pytest.mark.parametrize("warm", [False, True])
def test_what_is_no_address_or_no_bytes(kernel, call, warm):
    k = kernel("i386", ram=RAM)
    at = k.vmalloc(0x1000)
    if warm:
        k.cpu.store(at, b"x")
    with pytest.raises(ArgumentError, match=r"found .*expected"):
        call(k.cpu, at)


def test_arrays_of_any_kind_are_their_bytes(kernel):
    k = kernel("i386", ram=RAM)
    at = k.vmalloc(0x1000)
    words = np.arange(16, dtype=np.int32)
    for _ in range(2):
        k.cpu.store(at, words)
        k.cpu.store(np.uint64(at + 64), memoryview(b"more"))
        assert k.cpu.load(at, 68) == words.tobytes() + b"more"


def test_a_huge_load_faults_before_it_takes_memory(kernel):
    k = kernel("x86_64", ram=RAM)
    at = k.vmalloc(0x3000)
    with pytest.raises(PageFault) as caught:
        k.cpu.load(at, 1 << 45)
    assert caught.value.address == at + 0x3000


def test_a_dead_kernel_is_not_stored_to(kernel):
    k = kernel("x86_64", ram=RAM)
    at, mm = k.vmalloc(0x1000), k.mm_alloc()
    k.cpu.store(at, b"alive")
    with pytest.raises(KernelOops):
        k.oops(0, "read")
    for change in (lambda: k.cpu.store(at, b"x"), lambda: k.switch_mm(0, mm)):
        with pytest.raises(KernelDead):
            change()
    assert k.cpu.load(at, 5) == b"alive"


def test_each_thread_runs_on_a_cpu_of_its_own(kernel):
    k = kernel("x86_64", ram=RAM, cpus=4, check_coherence=True)
    failures = []

    def work(number):
        try:
            with k.on_cpu(number):
                for _ in range(300):
                    at = k.vmalloc(0x1000)
                    k.cpu.store(at, bytes([number]) * 8)
                    assert k.cpu.number == number
                    assert k.cpu.load(at, 8) == bytes([number]) * 8
                    k.vfree(at)
        except BaseException as error:  # told below
            failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert (failures, k.cpu.number) == ([], 0)
    k.flush_tlb_all(0)
    assert [len(cpu.tlb) for cpu in k.cpus] == [0] * 4


def test_bytes_in_front_of_a_fault_are_stored(arch, kernel):
    k = kernel(arch, ram=RAM)
    page = arch.page_size
    at = k.vmalloc(3 * page)
    k.cpu.store(at, bytes(3 * page))
    with pytest.raises(PageFault) as caught:
        k.cpu.store(at + 10, b"\x55" * (3 * page))
    fault = caught.value
    assert (fault.address, fault.access, fault.cpu) == (at + 3 * page, "write", 0)
    assert k.cpu.load(at, 3 * page) == bytes(10) + b"\x55" * (3 * page - 10)
    with pytest.raises(PageFault) as caught:
        k.cpu.load(at + 3 * page - 1, 2)
    assert caught.value.address == at + 3 * page
    assert k.dead is None


def test_a_device_is_not_ram(kernel):
    k = kernel("i386", ram=RAM)
    at = k.ioremap(0xFD000000, 0x2000)
    with pytest.raises(BusError, match="physical address 0xfd000000: no RAM there"):
        k.cpu.load(at, 4)
    with pytest.raises(BusError, match="physical address 0xfd000000"):
        k.cpu.store(at, bytes(0x2000))
    assert k.cpu.physical(at + 0x1234) == 0xFD001234


# ---- faults


def test_messages_say_which_entry(kernel):
    k = kernel("i386", ram=RAM)
    at = k.vmalloc(0x1000)
    entry, _ = k.init_mm.entry(at + 0x1000, 1)
    with pytest.raises(PageFault) as caught:
        k.cpu.load(at + 0x1004, 4)
    assert str(caught.value) == (
        f"cpu 0: read of {at + 0x1004:#x} faults: the pte entry 00000000 at {entry:#x} is not present; "
        "expected a page to read"
    )
    k64 = kernel("x86_64", ram=RAM)
    with pytest.raises(PageFault, match="write of 0x800000000000 faults: the address is not canonical; expected"):
        k64.cpu.store(0x8000_0000_0000, b"x")


CODES = [  # name, protection, what is done, error code
    ("i386", None, "load", 0),
    ("i386", None, "store", 2),
    ("i386", None, "fetch", 16),
    ("i386", 0x161, "store", 3),
    ("x86_64", NX | 0x163, "fetch", 17),
    ("x86_64", NX | 0x161, "store", 3),
    ("i386-pae", NX | 0x163, "fetch", 17),
    ("armv7-highmem", 0x2CF, "store", 3),
    ("armv7-highmem", 0x24F, "fetch", 17),
]


@pytest.mark.parametrize(("name", "prot", "what", "code"), CODES)
def test_the_error_code_a_handler_gets(kernel, name, prot, what, code):
    asked = []

    class Asks:
        @hookimpl(wrapper=True)
        def vmcore_vmalloc_fault(self, arch):
            yield
            return lambda kernel, cpu, address, error_code: bool(asked.append((cpu, address, error_code)))

    k = kernel(name, ram=RAM, listeners=[Asks()])
    at = k.layout.vmalloc_start if prot is None else mapped(k, prot)[0]
    if prot is not None:
        k.cpu.load(at, 1)
    calls = {
        "load": lambda: k.cpu.load(at, 4),
        "store": lambda: k.cpu.store(at, b"x"),
        "fetch": lambda: k.cpu.fetch(at),
    }
    with pytest.raises(PageFault):
        calls[what]()
    assert asked == [(0, at, code)]


@pytest.mark.parametrize(("name", "prot"), [("armv5", 0x0C7), ("armv7", 0x0C7)])
def test_a_manager_is_not_asked_for_rights(kernel, name, prot):
    k = kernel(name, ram=RAM)
    at, _ = mapped(k, prot & ~0x60)  # neither WRITE nor EXEC
    k.cpu.store(at, b"x")
    assert k.cpu.fetch(at) == k.cpu.load(at, 1) == b"x"
    view = k.arch.hardware
    client = kernel(evolve(k.arch, hardware=evolve(view, domain_register=0x1D)), ram=RAM)
    at, _ = mapped(client, prot & ~0x60)
    client.cpu.load(at, 1)
    with pytest.raises(PageFault, match=r"the second entry .* does not allow it; expected a page to write"):
        client.cpu.store(at, b"x")
    nobody = kernel(evolve(k.arch, hardware=evolve(view, domain_register=0x1C)), ram=RAM)
    with pytest.raises(PageFault, match="does not allow it; expected a page to read"):
        nobody.cpu.load(mapped(nobody, prot)[0], 1)


def test_a_reserved_bit_in_a_large_page(kernel):
    k = kernel("x86_64", ram=RAM)
    k.vmalloc(0x1000)
    entry, _ = k.init_mm.entry(k.layout.vmalloc_start + (2 << 20), 2)
    k.memory.store(entry, 0x0020_0000 | 1 << 13 | 0x1E3, 8)
    with pytest.raises(PageFault, match=r"the pmd entry 00000000002021e3 at .* has a reserved bit set"):
        k.cpu.load(k.layout.vmalloc_start + (2 << 20), 1)
    k.memory.store(entry, 0x0020_0000 | 0x1E3, 8)
    assert k.cpu.physical(k.layout.vmalloc_start + (2 << 20) + 5) == 0x200005


def test_vread_dies_where_a_load_only_faults(kernel):
    k = kernel("i386", ram=RAM)
    at, _ = mapped(k, 0x161)
    with pytest.raises(PageFault):
        k.cpu.store(at, b"x")
    with pytest.raises(KernelOops) as caught:
        k.vwrite(at, b"x")
    assert (caught.value.address, caught.value.access, k.dead) == (at, "write", caught.value)


# ---- accessed and dirty


@pytest.mark.parametrize("name", ["i386", "i386-pae", "x86_64"])
@pytest.mark.parametrize("pages", [1, 3])
def test_the_mmu_marks_what_it_uses(kernel, name, pages):
    k = kernel(name, ram=RAM)
    depth = len(k.arch.levels) - 1
    at, _ = mapped(k, 0x103, pages)
    upper, word = k.init_mm.entry(at, depth - 1)
    k.memory.store(upper, word & ~ACCESSED, k.arch.levels[0].word_bytes)
    size = pages * 0x1000
    entries = [k.init_mm.entry(at + n * 0x1000, depth) for n in range(pages)]

    def marks():
        return [k.memory.load(e, k.arch.levels[0].word_bytes) ^ before for e, before in entries]

    k.cpu.load(at, size)
    assert (marks(), k.memory.load(upper, 4) & ACCESSED) == ([ACCESSED] * pages, ACCESSED)
    assert [k.cpu.tlb.flags[k.cpu.tlb.slot((at >> 12) + n, 0)] & CLEAN for n in range(pages)] == [CLEAN] * pages
    k.cpu.store(at, bytes(size))
    assert marks() == [ACCESSED | DIRTY] * pages
    assert not any(entry.flags & CLEAN for entry in k.cpu.tlb.entries())
    if name == "i386-pae":
        assert k.memory.load(k.init_mm.entry(at, 0)[0], 8) & 0xFFF == 1


def test_arm_marks_nothing(kernel):
    k = kernel("armv7", ram=RAM)
    at = k.vmalloc(0x1000)
    k.cpu.load(at, 1)
    before = k.cpu.mmu.walk(at).steps[-1].word
    k.cpu.store(at, b"x")
    assert k.cpu.mmu.walk(at).steps[-1].word == before


# ---- one by one and many at once


@pytest.mark.parametrize("name", ["i386", "i386-pae", "x86_64", "armv5", "armv7", "armv7-highmem"])
def test_a_long_access_goes_where_short_ones_go(kernel, name):
    """The array path and the path for one page: the same addresses, TLB, marks and faults."""
    one, many = kernel(name, ram=RAM), kernel(name, ram=RAM)
    rng = np.random.default_rng(7)
    prots = [one.page_kernel, one.page_kernel & ~one.arch.levels[-1].present_mask]
    prots += [bits for protection, bits in one.arch.protections if "LARGE" not in protection]
    prots += [0x103, 0x101] if one.arch.hardware.mirror is None else []
    for access in (READ, WRITE, EXECUTE):
        for prot in prots:
            pages = int(rng.integers(2, 12))
            addresses = [mapped(k, prot, pages)[0] for k in (one, many)]
            assert addresses[0] == addresses[1]
            at, hole = addresses[0], int(rng.integers(0, pages + 4))
            for k in (one, many):
                if hole < pages:
                    k.unmap_kernel_range(at + hole * 0x1000, 0x1000)
            physical, fault = [], None
            for n in range(pages + 1):
                try:
                    physical.append(one.cpu.physical(at + n * 0x1000, access))
                except PageFault as found:
                    fault = found
                    break
            found = many.cpu.translate(at, (pages + 1) * 0x1000, access)
            assert found.physical.tolist() == physical
            assert (found.fault.address, str(found.fault)) == (fault.address, str(fault))
            assert one.cpu.tlb.entries() == many.cpu.tlb.entries()
            assert one.cpu.faults == many.cpu.faults
    assert np.array_equal(one.memory.pages[: 16 << 8], many.memory.pages[: 16 << 8])


def test_a_kept_page_is_used_in_the_middle_of_a_long_access(kernel):
    k = kernel("i386", ram=RAM)
    at = k.vmalloc(5 * 0x1000)
    k.cpu.store(at, b"".join(bytes([n]) * 0x1000 for n in range(5)))
    k.cpu.tlb.drop_all()
    k.cpu.load(at + 0x2000, 1)
    old, word = k.cpu.physical(at + 0x2000), k.init_mm.entry(at + 0x2000, 1)
    k.memory.store(word[0], 0, 4)
    assert k.cpu.load(at, 5 * 0x1000)[0x2000:0x3000] == b"\2" * 0x1000
    assert k.cpu.physical(at + 0x2000) == old
    k.flush_tlb_all(0)
    with pytest.raises(PageFault) as caught:
        k.cpu.load(at, 5 * 0x1000)
    assert caught.value.address == at + 0x2000


def test_an_access_longer_than_the_tlb_drives_out_its_own_beginning(kernel):
    k = kernel("armv7", ram=RAM)
    slots = k.arch.hardware.tlb.entries
    at = k.vmalloc((slots + 3) * 0x1000)
    k.cpu.load(at, (slots + 3) * 0x1000)
    kept = [entry.page for entry in k.cpu.tlb.entries()]
    assert kept == list(range((at >> 12) + 3, (at >> 12) + 3 + slots))


def test_a_kept_page_is_driven_out_by_the_access_that_comes_to_it(kernel):
    k = kernel("armv7", ram=RAM)
    slots = k.arch.hardware.tlb.entries
    at = k.vmalloc((slots + 8) * 0x1000)
    late = at + (slots + 3) * 0x1000
    k.cpu.store(late, b"old")
    (other,) = k.alloc_pages(1, GFP_KERNEL, -1).tolist()
    k.memory.write(other << 12, b"new")
    k.init_mm.unmap(late, late + 0x1000)
    k.init_mm.map(late, late + 0x1000, np.array([other]), k.page_kernel)
    assert k.cpu.load(late, 3) == b"old"
    assert k.cpu.load(at, (slots + 8) * 0x1000)[late - at :][:3] == b"new"


def one_right_each(**tlb):
    """Return a machine whose entries have a bit for each right, and marks."""
    rights = Access(read=[(2, 2)], write=[(4, 4)], execute=[(8, 8)], accessed=0x40, dirty=0x80)
    *upper, last = synthetic.PLAIN.levels
    view = HardwareView(levels=(*upper, evolve(last, access=rights)), tlb=Tlb(entries=64, **tlb))
    return evolve(synthetic.PLAIN, hardware=view)


@pytest.mark.parametrize(("prot", "access"), [(0x3, "load"), (0x5, "store"), (0x9, "fetch")])
def test_a_page_that_was_used_one_way_is_not_open_to_others(kernel, prot, access):
    k = kernel(one_right_each(), ram=RAM)
    at, _ = mapped(k, prot)
    calls = {
        "load": lambda: k.cpu.load(at, 4),
        "store": lambda: k.cpu.store(at, b"x"),
        "fetch": lambda: k.cpu.fetch(at),
    }
    for _ in range(2):
        calls[access]()
        for name in calls.keys() - {access}:
            with pytest.raises(PageFault):
                calls[name]()


def test_a_page_that_was_only_read_is_marked_when_its_process_comes_back_and_writes(kernel):
    k = kernel(one_right_each(tagged=True), ram=RAM)
    mm, user = k.mm_alloc(), 0x10000
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    assert mm.tables.map(user, user + 0x1000, frames, 0x7).ok
    entry, _ = mm.tables.entry(user, 2)
    k.switch_mm(0, mm)
    k.cpu.load(user, 1)
    for runs in (None, mm):
        k.switch_mm(0, runs)
    assert k.cpu.tlb.reads[user >> 12 & 63] == user >> 12  # without a walk again
    k.cpu.store(user, b"x")
    assert k.memory.load(entry, 8) & 0xFF == 0xC7
    for runs in (None, mm):
        k.switch_mm(0, runs)
    assert k.cpu.tlb.writes[user >> 12 & 63] == user >> 12


# ---- TLBs, flushes, events


def test_a_fill_a_fault_and_a_drop_are_told(kernel):
    hears = Hears()
    k = kernel("i386", ram=RAM, cpus=3, listeners=[hears])
    at = k.vmalloc(0x3000)
    frames = k.find_vm_area(at).pages.tolist()
    k.cpus[1].load(at, 1)
    k.cpus[2].load(at, 0x3000)
    with pytest.raises(PageFault):
        k.cpus[2].store(at + 0x3000, b"x")
    with k.on_cpu(2):
        k.vfree(at)
    assert hears.said == [
        ("filled", 1, [at], [frames[0] << 12]),
        ("filled", 2, [at, at + 0x1000, at + 0x2000], [f << 12 for f in frames]),
        ("fault", 2, at + 0x3000, "write", False),
        ("ipi", 2, (0, 1), "flush_tlb_all"),
        ("dropped", 1, "all", 0, 0, 1),
        ("dropped", 2, "all", 0, 0, 3),
    ]
    assert k.flush_log[-1].actions == (FlushAction("tlb", "all", 3, 4),)
    assert k.flush_log[-1].cpu == 2
    assert repr(k.cpus[2]) == "<cpu 2 on init_mm, 0 translations>"


@pytest.mark.parametrize(("name", "dropped"), [("armv5", 2), ("armv7", 1), ("armv7-highmem", 1)])
def test_what_becomes_of_a_ragged_end(kernel, name, dropped):
    k = kernel(name, ram=RAM)
    at = k.vmalloc(0x4000)
    k.cpu.load(at, 0x4000)
    k.flush("flush_tlb_kernel_range", at, at + 0x1800)
    assert len(k.cpu.tlb) == 4 - dropped


def test_modules_are_there_for_processes_that_were_made_before(kernel):
    k = kernel("x86_64", ram=RAM, check_coherence=True)
    k.switch_mm(0, k.mm_alloc())
    window = k.layout.modules
    area = k.raw_get_vm_area(0x2000, 2, window.start, window.end)
    at = k.raw_vmalloc_area(area, 0xD2, k.protection("PAGE_KERNEL_EXEC"))
    assert (k.cpu.fetch(at, 4), k.cpu.faults.taken, k.coherence.reports) == (bytes(4), 0, [])
    assert k.memory.load(k.layout.swapper_pg_dir + 511 * 8, 8) & 0xFFF == 0x067
    assert k.cpu.physical(0xFFFFFFFF80300000) == 0x300000


def test_arm_drops_page_by_page_and_interrupts_the_others(kernel):
    hears = Hears()
    k = kernel("armv7", ram=RAM, cpus=2, listeners=[hears])
    one, other = k.vmalloc(0x2000), k.vmalloc(0x1000)
    for cpu in k.cpus:
        for address in (one, one + 0x1000, other):
            cpu.load(address, 1)
    hears.said.clear()
    k.vfree(one)
    assert hears.said == [
        ("ipi", 0, (1,), "flush_tlb_pages"),
        ("dropped", 0, "pages", one, one + 0x3000, 2),
        ("dropped", 1, "pages", one, one + 0x3000, 2),
    ]
    assert k.flush_log[-1].actions == (FlushAction("tlb", "pages", 2, 4),)
    assert [[entry.page for entry in cpu.tlb.entries()] for cpu in k.cpus] == [[other >> 12]] * 2


def test_pages_are_dropped_with_the_large_page_they_are_part_of(kernel):
    k = kernel("armv7", ram=RAM)
    base = k.layout.page_offset + (16 << 20)
    for n in (0, 3, 255, 257):
        k.cpu.load(base + n * 0x1000, 1)
    assert [entry.shift for entry in k.cpu.tlb.entries()] == [20] * 4
    k.flush_tlb_pages(0, base + 0x5000, base + 0x6000, every_cpu=False)
    assert [entry.page for entry in k.cpu.tlb.entries()] == [(base >> 12) + 257]


@pytest.mark.parametrize(
    ("start", "end", "dropped"), [(0x800, 0x801, [0]), (0x1000, 0x1000, [1]), (0, 0x2001, [0, 1, 2])]
)
def test_a_range_is_rounded_down_and_has_a_page_at_least(kernel, start, end, dropped):
    k = kernel("armv7", ram=RAM)
    at = k.vmalloc(0x4000)
    k.cpu.load(at, 0x4000)
    k.flush_tlb_pages(0, at + start, at + end, every_cpu=False)
    assert [entry.page - (at >> 12) for entry in k.cpu.tlb.entries()] == [n for n in range(4) if n not in dropped]


def test_a_long_range_is_dropped_at_once(kernel):
    k = kernel("armv7", ram=RAM)
    at = k.vmalloc(40 * 0x1000)
    k.cpu.load(at, 40 * 0x1000)
    k.flush_tlb_pages(0, at + 0x2000, at + 30 * 0x1000, every_cpu=False)
    assert [entry.page - (at >> 12) for entry in k.cpu.tlb.entries()] == [0, 1, *range(30, 40)]


def test_a_switch_costs_what_is_not_shared(kernel):
    k = kernel("x86_64", ram=RAM)
    mm = k.mm_alloc()
    shared, _ = mapped(k, k.page_kernel)
    private, _ = mapped(k, k.page_kernel & ~GLOBAL)
    k.cpu.load(shared, 1)
    k.cpu.load(private, 1)
    k.switch_mm(k.cpu, mm)
    assert [(entry.page, entry.flags & SHARED) for entry in k.cpu.tlb.entries()] == [(shared >> 12, SHARED)]
    assert k.current_mm(0) is mm
    assert repr(k.cpu) == "<cpu 0 on process 1, 1 translation>"
    k.switch_mm(0, None)
    assert k.current_mm(0) is None


def test_a_tagged_tlb_keeps_everybodys_pages_apart(kernel):
    k = kernel("armv7", ram=RAM)
    user, frames = 0x10000, k.alloc_pages(2, GFP_KERNEL, -1)
    mms = [k.mm_alloc(), k.mm_alloc()]
    for mm, frame in zip(mms, frames, strict=True):
        assert mm.tables.map(user, user + 0x1000, frame.reshape(1), k.page_kernel).ok
        entry = Mmu(k.arch, k.memory, mm.tables.root).walk(user).steps[-1].entry_address
        k.memory.store(entry, k.memory.load(entry, 4) | 0x800, 4)  # nG, as set_pte_at() has it for user pages
        k.memory.write(int(frame) << 12, b"process %d" % mm.number)
    for _ in range(2):
        for mm in mms:
            k.switch_mm(0, mm)
            assert k.cpu.load(user, 9) == b"process %d" % mm.number
    k.switch_mm(0, mms[0])
    k.cpu.store(user, b"PROCESS 1")
    assert k.memory.read(int(frames[0]) << 12, 9) == b"PROCESS 1"
    k.switch_mm(0, None)
    with pytest.raises(PageFault):
        k.cpu.load(user, 1)


def test_a_process_of_another_kernel(kernel):
    k, other = kernel("i386", ram=RAM), kernel("i386", ram=RAM)
    with pytest.raises(ConfigurationError, match=r"expected a process that mm_alloc\(\) of this kernel made"):
        k.switch_mm(0, other.mm_alloc())
    for cpu in (1, -1, other.cpu):
        with pytest.raises(ConfigurationError, match=r"found CPU .*, expected 0 to 0, or one of this kernel's"):
            k.switch_mm(cpu, None)
    with pytest.raises(ConfigurationError), k.on_cpu(1):
        pass


def test_faults_are_counted_and_repaired_once(kernel):
    hears = Hears()
    k = kernel("x86_64", ram=RAM, listeners=[hears])
    mm = k.mm_alloc()
    k.switch_mm(0, mm)
    at = k.vmalloc(0x3000)
    k.cpu.load(at, 0x3000)
    assert (k.cpu.faults.taken, k.cpu.faults.repaired) == (1, 1)
    assert [said for said in hears.said if said[0] == "fault"] == [("fault", 0, at, "read", True)]
    assert mm.tables.entry(at, 0)[1] == k.init_mm.entry(at, 0)[1]


class AlwaysRepaired:
    @hookimpl(wrapper=True)
    def vmcore_vmalloc_fault(self, arch):
        yield
        return lambda kernel, cpu, address, error_code: True


@pytest.mark.parametrize("size", [1, 0x3000])
def test_a_handler_that_repairs_nothing_is_asked_once(kernel, size):
    k = kernel("i386", ram=RAM, listeners=[AlwaysRepaired()])
    at = k.vmalloc(0x2000)
    with pytest.raises(PageFault) as caught:
        k.cpu.load(at + (0x2000 if size == 1 else 0), size)
    assert (caught.value.address, k.cpu.faults.taken) == (at + 0x2000, 1)


class Flushes:
    """A machine that keeps absent pages in its TLB until the fault is taken."""

    @hookimpl(wrapper=True)
    def vmcore_vmalloc_fault(self, arch):
        inner = yield
        return lambda kernel, cpu, address, error_code: inner(kernel, cpu, address, error_code) or True


@pytest.mark.parametrize("size", [1, 0x3000])
def test_a_repaired_fault_takes_the_absent_page_out(kernel, size):
    k = kernel("x86_64", ram=RAM)
    view = k.arch.hardware
    keeps = evolve(k.arch, hardware=evolve(view, tlb=evolve(view.tlb, keeps_absent=True)))
    k = kernel(keeps, ram=RAM, listeners=[Flushes()])
    at = k.layout.vmalloc_start
    for n in range(3):
        with pytest.raises(PageFault):
            k.cpu.load(at + n * 0x1000, 1)
    assert [entry.physical for entry in k.cpu.tlb.entries()] == [-1] * 3
    assert k.vmalloc(0x3000) == at
    assert k.cpu.load(at, size) == bytes(size)


# ---- the linear map


def test_lowmem_is_mapped_from_its_first_byte_to_its_last(arch, kernel):
    if arch.linear_map is None:
        pytest.skip(f"{arch.name} does not say how lowmem is mapped")
    k = kernel(arch, ram=RAM)
    layout = k.layout
    for physical in (layout.phys_offset, layout.kernel_end, layout.lowmem_end - 1):
        assert k.cpu.physical(physical - layout.phys_offset + layout.page_offset) == physical
    with pytest.raises(PageFault):
        k.cpu.physical(layout.high_memory)
    k.check()


@pytest.mark.parametrize("name", ["i386", "i386-pae", "x86_64", "armv5", "armv7"])
def test_what_is_no_large_page_at_the_end_of_lowmem_is_mapped_by_pages(kernel, name):
    k = kernel(name, ram=RAM + 0x123000)
    layout = k.layout
    last = layout.high_memory - 1
    assert layout.lowmem_end - layout.phys_offset == RAM + 0x123000
    assert k.cpu.physical(last) == layout.lowmem_end - 1
    assert k.cpu.mmu.walk(last).steps[-1].level.shift == 12
    assert k.cpu.physical(layout.page_offset + RAM - 1) == layout.phys_offset + RAM - 1
    with pytest.raises(PageFault):
        k.cpu.load(last + 1, 1)
    k.vfree(k.vmalloc(0x5000))
    k.check()


@pytest.mark.parametrize("name", ["i386-pae", "x86_64", "armv7-highmem"])
def test_only_the_kernel_itself_is_executable_in_the_linear_map(kernel, name):
    k = kernel(name, ram=RAM)
    k.cpu.fetch(k.layout.page_offset + 0x1000)
    with pytest.raises(PageFault, match="does not allow it; expected a page to execute"):
        k.cpu.fetch(k.layout.page_offset + RAM - 0x1000)


@pytest.mark.parametrize(
    ("name", "cpus", "entry", "word"),
    [
        ("i386", 1, 0xC00, 0x001E3),
        ("i386", 1, 0xC04, 0x4001E3),
        ("armv5", 1, 0x3000, 0x0041E),
        ("armv7", 1, 0x3004, 0x10040E),
        ("armv7", 2, 0x3004, 0x11040E),
    ],
)
def test_the_words_of_the_linear_map(kernel, name, cpus, entry, word):
    k = kernel(name, ram=RAM, cpus=cpus)
    assert k.memory.load(k.layout.swapper_pg_dir + entry, 4) == word
