"""The checker: which flush is missed on which machine, what it reports, and that it is quiet otherwise."""

import numpy as np
import pytest
from attrs import evolve
from vmcore_arches.arm import armv5, armv7

from tests.support.dropping import DROPPING, FLUSHES, linear, work, write
from vmcore.coherence.report import FRAME_IN_USE, LOST_LINE, STALE_LINE, STALE_TRANSLATION, UNREPAIRED_FAULT
from vmcore.errors import PageFault
from vmcore.flags import GFP_KERNEL, VM
from vmcore.hookspecs import hookimpl

RAM = 64 << 20


def aliasing(record=armv7.ARMV7):
    """Return a record whose cache has page colours."""
    return evolve(record, hardware=evolve(record.hardware, cache=armv7.ALIASING_VIPT))


def physical_write_back(record=armv5.ARMV5):
    """Return a record whose VIVT cache remembers the frame of a line."""
    hardware = record.hardware
    return evolve(record, hardware=evolve(hardware, cache=evolve(hardware.cache, writes_back_by="physical")))


def most(arch):
    return min(arch.max_cpus, 4)


def matters(arch, flush):
    """Say by the record whether a flush does anything that somebody can miss."""
    cache = arch.hardware.cache
    return "tlb" in flush or (cache is not None and cache.modelled)


@pytest.mark.parametrize("dropped", [None, *FLUSHES])
def test_each_flush_is_missed_where_it_matters_and_nowhere_else(arch, kernel, dropped):
    if arch.linear_map is None:
        pytest.skip(f"{arch.name} has no linear map in its tables to share frames with")
    listeners = [DROPPING[dropped]()] if dropped else []
    k = kernel(arch, ram=RAM, cpus=most(arch), check_coherence=True, listeners=listeners)
    read, wanted = work(k)
    reports = k.coherence.reports
    missed = dropped is not None and matters(arch, dropped)
    assert (read == wanted) is not missed
    assert {report.missing for report in reports} == ({dropped} if missed else set())
    for report in reports:
        assert report.reached is None
        assert k.layout.vmalloc_start <= report.start < report.end <= k.layout.vmalloc_end
        assert dropped in report.text
        assert any(dropped in line and "nothing to do" in line for line in report.history)


@pytest.mark.parametrize("dropped", [None, *FLUSHES])
def test_with_page_colours_the_cache_flushes_matter(kernel, dropped):
    listeners = [DROPPING[dropped]()] if dropped else []
    k = kernel(aliasing(), ram=RAM, check_coherence=True, listeners=listeners)
    read, wanted = work(k)
    assert {report.missing for report in k.coherence.reports} == ({dropped} if dropped else set())
    assert (read == wanted) is (dropped is None)


def test_mappings_of_one_colour_never_disagree(kernel):
    k = kernel(aliasing(), ram=RAM, check_coherence=True, listeners=[cls() for cls in DROPPING.values()])
    colours = k.arch.hardware.cache.colours
    frames = k.alloc_pages(64, GFP_KERNEL, -1)
    start = k.layout.vmalloc_start
    same = next(f for f in frames.tolist() if (linear(k, f) - start >> 12) % colours == 0)
    write(k.cpu, linear(k, same), b"linear")
    at = k.vmap(frames[frames == same], 1, int(VM.MAP), k.page_kernel)
    assert (at, k.cpu.load(at, 6)) == (start, b"linear")
    k.cpu.store(at, b"vmap")
    assert k.cpu.load(linear(k, same), 6) == b"vmapar"
    assert k.coherence.reports == []


def test_a_full_cache_flush_reaches_the_calling_cpu_only(kernel):
    """arch/arm of the era: flush_cache_vmap() and _vunmap() are flush_cache_all(), without an interrupt."""
    k = kernel(aliasing(), ram=RAM, cpus=2, check_coherence=True)
    frame, *_ = k.alloc_pages(1, GFP_KERNEL, -1)
    start = k.layout.vmalloc_start
    while (linear(k, int(frame)) - start >> 12) % 4 == 0:
        frame, *_ = k.alloc_pages(1, GFP_KERNEL, -1)
    write(k.cpus[1], linear(k, int(frame)), b"dirty on 1")
    at = k.vmap(frame.reshape(1), 1, int(VM.MAP), k.page_kernel)
    assert k.cpus[0].load(at, 10) == bytes(10)
    (report,) = k.coherence.reports
    assert (report.kind, report.cpu, report.missing, report.reached) == (STALE_LINE, 1, "flush_cache_vmap", 0)
    assert (report.address, report.start, report.end) == (at, at, at + 0x1000)
    assert "ran on cpu 0 and reached that CPU only" in report.text


def test_a_flush_that_did_nothing_on_another_cpu_reached_nobody(kernel):
    k = kernel(aliasing(), ram=RAM, cpus=2, check_coherence=True, listeners=[DROPPING["flush_cache_vmap"]()])
    frame, *_ = k.alloc_pages(1, GFP_KERNEL, -1)
    while (linear(k, int(frame)) - k.layout.vmalloc_start >> 12) % 4 == 0:
        frame, *_ = k.alloc_pages(1, GFP_KERNEL, -1)
    write(k.cpus[1], linear(k, int(frame)), b"dirty on 1")
    k.cpu.load(k.vmap(frame.reshape(1), 1, int(VM.MAP), k.page_kernel), 10)
    (report,) = k.coherence.reports
    assert (report.missing, report.reached) == ("flush_cache_vmap", None)
    assert "flush_cache_vmap on cpu 0: nothing to do" in report.text


# ---- one report after the other


def test_a_dirty_line_of_a_mapping_that_is_gone_is_lost(kernel):
    k = kernel("armv5", ram=RAM, check_coherence=True, listeners=[DROPPING["flush_cache_vunmap"]()])
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    at = k.vmap(frames, 1, int(VM.MAP), k.page_kernel)
    write(k.cpu, at, b"never seen")
    k.vunmap(at)
    assert k.coherence.reports == []
    k.flush_cache_all(0)
    assert k.cpu.load(linear(k, int(frames[0])), 10) == bytes(10)
    lost, stale = k.coherence.reports
    assert (lost.kind, lost.address, lost.missing) == (LOST_LINE, at, "flush_cache_vunmap")
    assert "is written back, and nothing is mapped there any more" in lost.text
    assert (stale.kind, stale.missing) == (STALE_LINE, "flush_cache_vunmap")


def test_a_line_that_knows_its_frame_overwrites_the_next_owners_data(kernel):
    k = kernel(physical_write_back(), ram=RAM, check_coherence=True, listeners=[DROPPING["flush_cache_vunmap"]()])
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    at = k.vmap(frames, 1, int(VM.MAP), k.page_kernel)
    write(k.cpu, at, b"old owner")
    k.vunmap(at)
    home = linear(k, int(frames[0]))
    k.cpu.store(home, b"new owner")  # a miss, so it goes to memory
    k.flush_cache_all(0)
    assert k.cpu.load(home, 9) == b"old owner"
    kinds = [(report.kind, report.missing) for report in k.coherence.reports]
    assert (LOST_LINE, "flush_cache_vunmap") in kinds
    assert {missing for _, missing in kinds} == {"flush_cache_vunmap"}


def test_two_mappings_used_at_once_are_nobodys_missing_flush(kernel):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    at = k.vmap(frames, 1, int(VM.MAP), k.page_kernel)
    write(k.cpu, at, b"one")
    assert k.cpu.load(linear(k, int(frames[0])), 3) == bytes(3)
    (report,) = k.coherence.reports
    assert (report.kind, report.missing) == (STALE_LINE, "")
    assert report.end - report.start == k.arch.hardware.cache.line
    assert report.start <= report.address < report.end
    assert "two mappings are used at once" in report.text


def test_a_stale_translation_and_the_frame_behind_it(kernel):
    k = kernel("i386", ram=RAM, cpus=2, check_coherence=True, listeners=[DROPPING["flush_tlb_kernel_range"]()])
    at = k.vmalloc(0x2000)
    frame = k.vmalloc_to_pfn(at)
    for cpu in k.cpus:
        cpu.store(at, b"mine")
    k.vfree(at)
    assert k.coherence.reports == []
    k.alloc_pages(2, GFP_KERNEL, -1)
    with k.on_cpu(1):
        assert k.cpu.load(at, 4) == b"mine"
        k.cpu.load(at + 4, 4)
    one, two, used = k.coherence.reports
    for cpu, report in enumerate((one, two)):
        assert (report.kind, report.cpu, report.address) == (FRAME_IN_USE, cpu, at)
        assert f"frame {frame:#x} is handed out again" in report.text
    assert (used.kind, used.cpu, used.missing) == (STALE_TRANSLATION, 1, "flush_tlb_kernel_range")
    assert (used.start, used.end, k.coherence.repeated) == (at, at + 0x2000, 1)
    assert str(used).splitlines()[0] == (
        f"stale translation, cpu 1, {at:#x}: the TLB translates to {frame << 12:#x}, the page is mapped nowhere; "
        "flush_tlb_kernel_range on cpu 0: nothing to do"
    )


def test_a_right_that_was_taken_away(kernel):
    k = kernel("i386", ram=RAM, check_coherence=True)
    at = k.vmalloc(0x1000)
    k.cpu.store(at, b"x")
    entry, word = k.init_mm.entry(at, 1)
    k.memory.store(entry, word & ~2, 4)
    k.cpu.load(at, 1)
    (report,) = k.coherence.reports
    assert report.text.endswith(
        "the page is mapped there with fewer rights; flush_tlb_kernel_range was not called for it"
    )
    k.flush_tlb_all(0)
    with pytest.raises(PageFault, match="does not allow it"):
        k.cpu.store(at, b"x")
    k.memory.store(entry, word, 4)
    k.cpu.store(at, b"y")
    assert len(k.coherence.reports) == 1


class NoRepair:
    @hookimpl(wrapper=True)
    def vmcore_vmalloc_fault(self, arch):
        yield
        return lambda kernel, cpu, address, error_code: False


@pytest.mark.parametrize(
    ("name", "platform", "faults"),
    [
        ("i386", None, True),
        ("i386-pae", "native", False),
        ("i386-pae", "paravirt", True),
        ("x86_64", None, True),
        ("armv5", None, True),
        ("armv7", None, True),
    ],
)
def test_a_fault_that_nobody_repairs(kernel, name, platform, faults):
    k = kernel(name, ram=RAM, platform=platform, check_coherence=True, listeners=[NoRepair()])
    mm = k.mm_alloc()
    k.switch_mm(0, mm)
    at = k.vmalloc(0x1000)
    if not faults:
        assert (k.cpu.load(at, 1), k.coherence.reports) == (b"\0", [])
        return
    with pytest.raises(PageFault):
        k.cpu.load(at + 5, 1)
    (report,) = k.coherence.reports
    assert (report.kind, report.address, report.missing) == (UNREPAIRED_FAULT, at + 5, "vmalloc_sync_all")
    assert "process 1 lacks an entry that vmalloc_fault did not copy" in report.text


def test_a_tlb_that_keeps_absent_pages_needs_a_flush_after_mapping(kernel):
    k = kernel("x86_64", ram=RAM)
    view = k.arch.hardware
    keeps = evolve(k.arch, hardware=evolve(view, tlb=evolve(view.tlb, keeps_absent=True)))
    k = kernel(keeps, ram=RAM, check_coherence=True)
    at = k.layout.vmalloc_start
    with pytest.raises(PageFault, match="is not present"):
        k.cpu.load(at, 1)
    assert (k.vmalloc(0x1000), k.coherence.reports) == (at, [])
    k.vfree(at)
    k.vmalloc(0x1000)
    assert k.cpu.load(at, 1) == b"\0"  # the flush of the unmapping dropped it


@pytest.mark.parametrize("process", [False, True])
def test_a_tlb_that_keeps_absent_pages_faults_where_a_page_was_mapped(kernel, process):
    """Only flush_cache_vmap() is called after a mapping, and x86 does nothing there."""
    arch = kernel("x86_64", ram=RAM).arch
    keeps = evolve(arch, hardware=evolve(arch.hardware, tlb=evolve(arch.hardware.tlb, keeps_absent=True)))
    k = kernel(keeps, ram=RAM, check_coherence=True, listeners=[NoRepair()])
    at = k.vmalloc(0x1000)
    if process:
        k.switch_mm(0, k.mm_alloc())
        k.vmalloc_sync_all()
    k.unmap_kernel_range(at, 0x1000)
    with pytest.raises(PageFault):
        k.cpu.load(at, 1)
    assert k.coherence.reports == []
    k.init_mm.map(at, at + 0x1000, k.find_vm_area(at).pages, k.page_kernel)
    with pytest.raises(PageFault):
        k.cpu.load(at + 3, 1)
    (report,) = k.coherence.reports
    assert (report.kind, report.address, report.start, report.end) == (UNREPAIRED_FAULT, at + 3, at, at + 0x1000)
    assert report.missing == "flush_cache_vmap"
    assert report.text.endswith("but its TLB keeps that the page is absent")


def test_faults_that_are_right_are_not_reported(arch, kernel):
    k = kernel(arch, ram=RAM, check_coherence=True)
    at = k.vmalloc(arch.page_size)
    for address in (at + arch.page_size, 0, k.layout.vmalloc_end - 1 & -arch.page_size):
        with pytest.raises(PageFault):
            k.cpu.load(address, 1)
    assert (k.coherence.reports, k.cpu.faults.taken, k.cpu.faults.repaired) == ([], 3, 0)


@pytest.mark.parametrize("name", ["i386", "x86_64", "armv5", "armv7"])
def test_a_frame_that_has_become_a_page_table(kernel, name):
    k = kernel(name, ram=RAM, check_coherence=True, listeners=[DROPPING["flush_tlb_kernel_range"]()])
    at = k.vmalloc(0x1000)
    k.cpu.store(at, b"x")
    k.vfree(at)
    far = (at | (32 << 20) - 1) + 1
    k.fail("pgtable", 1)
    assert not k.init_mm.populate(far, far + 0x1000)
    assert k.coherence.reports == []
    assert k.init_mm.populate(far, far + 0x1000)  # no page is handed out besides
    kinds = {(report.kind, report.address) for report in k.coherence.reports}
    assert kinds == {(FRAME_IN_USE, at)}


def test_a_page_that_is_cached_in_another_way(kernel):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    at = k.vmap(frames, 1, int(VM.MAP), k.page_kernel)
    k.cpu.load(at, 1)
    k.init_mm.unmap(at, at + 0x1000)
    k.init_mm.map(at, at + 0x1000, frames, 0x0E3)
    k.cpu.load(at, 1)
    (report,) = k.coherence.reports
    assert (report.kind, report.missing) == (STALE_TRANSLATION, "flush_tlb_kernel_range")
    assert "there, and shared or cached in another way" in report.text


# ---- bytes of a line


def shared(kernel, dropped, prot=lambda k: k.page_kernel, data=b"NEWDATA!"):
    """Return an armv5 whose frame is dirty at its linear address, that address, and a mapping of the frame."""
    k = kernel("armv5", ram=RAM, check_coherence=True, listeners=[DROPPING[name]() for name in dropped])
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    home = linear(k, int(frames[0]))
    write(k.cpu, home + 8, data)
    return k, home, k.vmap(frames, 1, int(VM.MAP), prot(k))


@pytest.mark.parametrize("stored", [False, True])
def test_a_store_to_memory_makes_no_other_byte_of_its_line_new(kernel, stored):
    k, _, at = shared(kernel, ["flush_cache_vmap"])
    if stored:
        k.cpu.store(at, b"xxxxxxxx")  # a miss: it goes to memory, and the line's other bytes do not
        assert k.coherence.reports == []
    assert k.cpu.load(at + 8, 8) == bytes(8)
    (report,) = k.coherence.reports
    assert (report.kind, report.missing) == (STALE_LINE, "flush_cache_vmap")


def test_bytes_that_are_new_are_not_reported_for_their_neighbours(kernel):
    k, _, at = shared(kernel, ["flush_cache_vmap"])
    k.cpu.store(at, b"xxxxxxxx")
    assert (k.cpu.load(at, 8), k.coherence.reports) == (b"xxxxxxxx", [])


def test_a_dirty_line_takes_memorys_newer_bytes_with_it(kernel):
    k, home, at = shared(kernel, ["flush_cache_vmap"])
    k.cpu.store(at, b"xxxxxxxx")
    k.flush_cache_all(0)
    assert k.cpu.load(at, 16) == bytes(8) + b"NEWDATA!"
    lost, stale = k.coherence.reports
    assert (lost.kind, lost.address, lost.missing) == (LOST_LINE, home, "flush_cache_vmap")
    physical = home - k.layout.page_offset + k.layout.phys_offset
    assert lost.text.startswith(f"an old copy overwrites newer data at {physical:#x}; ")
    assert (stale.kind, stale.missing) == (STALE_LINE, "flush_cache_vmap")
    assert "was lost before" in stale.text


@pytest.mark.parametrize("bits", [0x4, 0xC])  # without BUFFERABLE; without CACHEABLE, too
def test_what_goes_to_memory_is_what_was_stored(kernel, bits):
    k, home, at = shared(kernel, ["flush_cache_vmap"], lambda k: k.page_kernel & ~bits)
    k.cpu.load(at, 1)
    k.cpu.store(at, b"xxxxxxxx")
    physical = home - k.layout.page_offset + k.layout.phys_offset
    assert k.memory.read(physical, 16) == b"xxxxxxxx" + bytes(8)
    before = k.coherence.found[STALE_LINE]
    assert k.cpu.load(home + 8, 8) == b"NEWDATA!"
    assert k.coherence.found[STALE_LINE] == before
    assert k.cpu.load(home, 8) == bytes(8)
    assert k.coherence.found[STALE_LINE] == before + 1


def test_write_through_of_an_old_copy_leaves_memorys_other_bytes(kernel):
    k = kernel("armv5", ram=RAM)
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    home = linear(k, int(frames[0]))
    at = k.vmap(frames, 1, int(VM.MAP), k.page_kernel & ~0x4)
    k.cpu.load(at, 1)
    k.cpu.store(home + 8, b"NEWDATA!")  # a miss
    k.cpu.store(at, b"xxxxxxxx")
    k.flush_cache_all(0)
    assert k.cpu.load(at, 16) == b"xxxxxxxxNEWDATA!"


def test_memory_read_past_the_cache_is_judged_too(kernel):
    k, _, at = shared(kernel, ["flush_cache_vmap"], lambda k: k.page_kernel & ~0xC)
    assert k.cpu.load(at + 4, 8) == bytes(8)
    (report,) = k.coherence.reports
    assert (report.kind, report.address, report.missing) == (STALE_LINE, at, "flush_cache_vmap")


def test_a_flush_is_missed_for_bytes_stored_before_it_whatever_is_stored_after(kernel):
    k, home, at = shared(kernel, ["flush_cache_vmap"])
    k.cpu.store(home + 16, b"later")
    assert k.cpu.load(at + 16, 5) == bytes(5)
    assert [report.missing for report in k.coherence.reports] == [""]
    k.cpu.load(at + 8, 8)
    assert [report.missing for report in k.coherence.reports] == ["", "flush_cache_vmap"]


def test_an_old_copy_of_the_same_bytes_is_not_stale(kernel):
    k, _, at = shared(kernel, ["flush_cache_vmap"], data=bytes(8))
    assert (k.cpu.load(at, 32), k.coherence.reports) == (bytes(32), [])


def test_a_line_of_another_frame_takes_what_is_stored_to_this_one(kernel):
    """The line of an unmapped page stays at its address, and goes where that leads when it is written back."""
    k = kernel("armv5", ram=RAM, check_coherence=True, listeners=[DROPPING[n]() for n in FLUSHES[:2]])
    frames = k.alloc_pages(2, GFP_KERNEL, -1)
    at = k.vmap(frames[:1], 1, int(VM.MAP), k.page_kernel)
    write(k.cpu, at, b"first frame")
    k.vunmap(at)
    assert k.vmap(frames[1:], 1, int(VM.MAP), k.page_kernel) == at
    k.cpu.store(at, b"second")
    k.flush_cache_all(0)
    assert k.cpu.load(linear(k, int(frames[1])), 11) == b"secondframe"
    assert k.cpu.load(linear(k, int(frames[0])), 11) == bytes(11)
    assert [(r.kind, r.missing) for r in k.coherence.reports] == [
        (STALE_LINE, "flush_cache_vunmap"),
        (LOST_LINE, "flush_cache_vunmap"),
        (STALE_LINE, "flush_cache_vunmap"),
        (STALE_LINE, "flush_cache_vunmap"),
    ]


@pytest.mark.parametrize("lowest", [False, True])
def test_a_line_that_goes_to_another_frame_is_lost_though_it_changes_nothing_there(kernel, lowest):
    k = kernel("armv5", ram=RAM, check_coherence=True, listeners=[DROPPING[n]() for n in FLUSHES[:2]])
    one, two = k.alloc_pages(2, GFP_KERNEL, -1).tolist()
    two = k.layout.phys_offset >> 12 if lowest else two
    k.memory.write(two << 12, b"first frame")
    at = k.vmap(np.array([one]), 1, int(VM.MAP), k.page_kernel)
    write(k.cpu, at, b"first frame")
    k.vunmap(at)
    assert k.vmap(np.array([two]), 1, int(VM.MAP), k.page_kernel) == at
    k.flush_cache_all(0)
    (lost,) = k.coherence.reports
    assert (lost.kind, lost.address, lost.missing) == (LOST_LINE, at, "flush_cache_vunmap")
    assert f"a dirty line of {one << 12:#x} is written back to {two << 12:#x}; " in lost.text
    assert k.cpu.load(linear(k, one), 11) == bytes(11)


def test_a_line_that_memory_has_already_is_not_lost(kernel):
    k = kernel("armv5", ram=RAM, check_coherence=True, listeners=[DROPPING["flush_cache_vunmap"]()])
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    at = k.vmap(frames, 1, int(VM.MAP), k.page_kernel)
    write(k.cpu, at, bytes(32))  # dirty, and what is in memory
    k.vunmap(at)
    k.flush_cache_all(0)
    assert k.coherence.reports == []


def test_a_report_as_json_has_its_addresses_in_hex(kernel):
    k, _, at = shared(kernel, ["flush_cache_vmap"])
    k.cpu.load(at + 8, 8)
    (report,) = k.coherence.reports
    told = report.to_dict()
    assert (told["address"], told["start"], told["end"]) == (hex(at), hex(at), hex(at + 0x1000))
    rest = {name: value for name, value in told.items() if name not in ("address", "start", "end")}
    assert rest == {
        "kind": STALE_LINE,
        "cpu": 0,
        "missing": "flush_cache_vmap",
        "text": report.text,
        "history": report.history,
        "reached": None,
    }


def test_a_watched_word_is_read_after_what_it_drives_out(kernel):
    """A line that is driven out may be of the same bytes: with and without a checker they are written first."""
    found = []
    for check in (False, True):
        record = evolve(armv5.ARMV5, hardware=evolve(armv5.ARM926, cache=one_way()))
        k = kernel(record, ram=RAM, check_coherence=check, listeners=[DROPPING["flush_cache_vmap"]()])
        frames = k.alloc_pages(1, GFP_KERNEL, -1)
        home = linear(k, int(frames[0]))
        write(k.cpu, home, b"dirty")
        at = k.vmap(frames, 1, int(VM.MAP), k.page_kernel)  # the same set, and there is one way
        k.cpu.load(at + 64, 1)
        found.append(k.cpu.load(at, 5))
        assert not check or k.coherence.reports == []
    assert found == [b"dirty", b"dirty"]


def one_way():
    return evolve(armv5.ARM926.cache, size=1 << 12, ways=1)
