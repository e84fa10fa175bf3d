"""The checker on accesses of many pages and lines: a report for each page or line that is wrong, no other."""

import numpy as np
import pytest
from attrs import evolve
from vmcore_arches.arm import armv7

from tests.support.dropping import frames_apart, linear, write
from vmcore.coherence.checker import Checker
from vmcore.coherence.report import FRAME_IN_USE, LOST_LINE, STALE_LINE, STALE_TRANSLATION
from vmcore.flags import GFP, GFP_KERNEL, VM

RAM, PAGE = 64 << 20, 0x1000
ALIASING = evolve(armv7.ARMV7, hardware=evolve(armv7.ARMV7.hardware, cache=armv7.ALIASING_VIPT))


def found(k):
    return [(report.kind, report.address) for report in k.coherence.reports]


def set_word(k, address, change):
    """Change the last entry of a page behind the TLB's back."""
    entry, word = k.init_mm.entry(address, len(k.arch.levels) - 1)
    k.memory.store(entry, change(word), k.arch.levels[-1].word_bytes)


@pytest.mark.parametrize("wrong", [0, 1, 3])
def test_one_page_of_many_lost_a_right(kernel, wrong):
    k = kernel("i386", ram=RAM, check_coherence=True)
    at = k.vmalloc(4 * PAGE)
    k.cpu.store(at, bytes(4 * PAGE))
    k.cpu.load(at, 4 * PAGE)
    assert found(k) == []
    set_word(k, at + wrong * PAGE, lambda word: word & ~2)
    k.cpu.load(at, 4 * PAGE)
    assert found(k) == [(STALE_TRANSLATION, at + wrong * PAGE)]
    assert "there with fewer rights" in k.coherence.reports[0].text


def test_a_right_that_came_is_no_fault_of_many_pages(kernel):
    k = kernel("i386", ram=RAM, check_coherence=True)
    at = k.vmap(k.alloc_pages(4, GFP_KERNEL, -1), 4, int(VM.MAP), k.page_kernel & ~2)
    k.cpu.load(at, 4 * PAGE)
    for n in range(4):
        set_word(k, at + n * PAGE, lambda word: word | 2)
    k.cpu.load(at, 4 * PAGE)
    assert found(k) == []


@pytest.mark.parametrize("name", ["i386", "x86_64", "armv7"])
@pytest.mark.parametrize("wrong", [0, 2])
def test_one_page_of_many_went_to_another_frame(kernel, name, wrong):
    k = kernel(name, ram=RAM, check_coherence=True)
    at, (other,) = k.vmalloc(4 * PAGE), k.alloc_pages(1, GFP_KERNEL, -1).tolist()
    k.cpu.load(at, 4 * PAGE)
    old, page = k.vmalloc_to_pfn(at + wrong * PAGE), at + wrong * PAGE
    k.init_mm.unmap(page, page + PAGE)
    k.init_mm.map(page, page + PAGE, np.array([other]), k.page_kernel)
    k.cpu.load(at, 4 * PAGE)
    assert found(k) == [(STALE_TRANSLATION, page)]
    assert f"translates to {old << 12:#x}, the page is mapped to {other << 12:#x}" in k.coherence.reports[0].text


def test_one_page_of_many_is_cached_in_another_way(kernel):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    frames = k.alloc_pages(3, GFP_KERNEL, -1)
    at = k.vmap(frames, 3, int(VM.MAP), k.page_kernel)
    k.cpu.load(at, 3 * PAGE)
    k.init_mm.unmap(at + PAGE, at + 2 * PAGE)
    k.init_mm.map(at + PAGE, at + 2 * PAGE, frames[1:2], 0x0E3)
    k.cpu.load(at, 3 * PAGE)
    assert found(k) == [(STALE_TRANSLATION, at + PAGE)]
    assert "cached in another way" in k.coherence.reports[0].text


def test_many_user_pages_are_looked_up_in_their_own_process(kernel):
    k = kernel("armv7", ram=RAM, check_coherence=True)
    mm, user = k.mm_alloc(), 0x10000
    frames = k.alloc_pages(3, GFP_KERNEL, -1)
    assert mm.tables.map(user, user + 3 * PAGE, frames, k.page_kernel).ok
    k.switch_mm(0, mm)
    for _ in range(2):
        k.cpu.load(user, 3 * PAGE)
    assert found(k) == []
    mm.tables.unmap(user + PAGE, user + 2 * PAGE)
    k.cpu.load(user, 3 * PAGE)
    assert found(k) == [(STALE_TRANSLATION, user + PAGE)]


def test_many_pages_of_the_kernel_are_looked_up_in_init_mm(kernel):
    """A process has copies of the kernel's root entries, which stay when init_mm's go."""
    k = kernel("i386", ram=RAM, check_coherence=True)
    at = k.vmalloc(4 * PAGE)
    k.switch_mm(0, k.mm_alloc())
    k.cpu.load(at, 4 * PAGE)
    entry, _ = k.init_mm.entry(at, 0)
    k.init_mm.set_entry(entry, 0, 0)
    k.cpu.load(at, 4 * PAGE)
    assert found(k) == [(STALE_TRANSLATION, at + n * PAGE) for n in range(4)]
    assert all("the page is mapped nowhere" in report.text for report in k.coherence.reports)


def test_page_0_of_a_process_is_a_page_like_any_other(kernel):
    k = kernel("armv7", ram=RAM, check_coherence=True)
    mm = k.mm_alloc()
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    assert mm.tables.map(0, PAGE, frames, k.page_kernel).ok
    k.switch_mm(0, mm)
    k.cpu.load(0, 1)
    mm.tables.unmap(0, PAGE)
    k.free_pages(frames)
    assert found(k) == []
    assert k.alloc_pages(1, GFP_KERNEL, -1).tolist() == frames.tolist()
    assert found(k) == [(FRAME_IN_USE, 0)]


# ---- lines


def test_line_0_of_a_process_is_a_line_like_any_other(kernel):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    mm = k.mm_alloc()
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    assert mm.tables.map(0, PAGE, frames, k.page_kernel).ok
    k.switch_mm(0, mm)
    write(k.cpu, 0, b"newer")
    home = linear(k, int(frames[0]))
    assert k.cpu.load(home, 5) == bytes(5)
    assert found(k) == [(STALE_LINE, home)]
    assert "the new one is dirty in the cache of cpu 0 at 0x0; " in k.coherence.reports[0].text


@pytest.mark.parametrize("apart", [32, PAGE])
def test_stale_lines_are_reported_once_a_page(kernel, apart):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    home, at = two_mappings(k, 2)
    write(k.cpu, home, b"newer")
    write(k.cpu, home + apart, b"newer")
    k.cpu.load(at, 1)
    k.cpu.load(at + apart, 1)
    once = apart < PAGE
    assert found(k) == [(STALE_LINE, at), (STALE_LINE, at + apart)][: 1 if once else 2]
    assert (k.coherence.repeated, k.coherence.found[STALE_LINE]) == (int(once), 2)


def two_mappings(k, pages=1):
    """Return the linear address of some frames in a row and their address in the vmalloc window."""
    frames = k.alloc_pages(pages, GFP_KERNEL, -1)
    frames.sort()
    assert (np.diff(frames) == 1).all()
    at = k.vmap(frames, pages, int(VM.MAP), k.page_kernel)
    return linear(k, int(frames[0])), at


@pytest.mark.parametrize("line", [0, 1, 5])
def test_one_line_of_many_has_an_old_copy(kernel, line):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    home, at = two_mappings(k)
    k.cpu.load(at, 8 * 32)
    write(k.cpu, home + line * 32, b"newer")
    assert found(k) == []
    k.cpu.load(at, 8 * 32)
    assert found(k) == [(STALE_LINE, at + line * 32)]
    assert "old copy" in k.coherence.reports[0].text
    assert "two mappings are used at once" in k.coherence.reports[0].text


@pytest.mark.parametrize("line", [0, 3])
def test_a_copy_is_old_where_only_memory_is_newer(kernel, line):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    home, at = two_mappings(k)
    k.cpu.load(at + line * 32, 4)
    k.cpu.store(home + line * 32, b"newer")  # a miss, so it goes to memory
    k.cpu.load(at + line * 32, 4)
    assert found(k) == [(STALE_LINE, at + line * 32)]


def test_a_line_of_the_frame_that_was_here_before(kernel):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    frames = k.alloc_pages(2, GFP_KERNEL, -1)
    k.memory.write(int(frames[1]) << 12, b"other")
    at = k.vmap(frames[:1], 1, int(VM.MAP), k.page_kernel)
    k.cpu.load(at, 5)
    k.init_mm.unmap(at, at + PAGE)
    k.init_mm.map(at, at + PAGE, frames[1:], k.page_kernel)
    k.flush_tlb_all(0)
    k.cpu.load(at, 5)
    assert found(k) == [(STALE_LINE, at)]
    assert "the cache gives a line of another frame" in k.coherence.reports[0].text


@pytest.mark.parametrize("line", [0, 1, 5])
def test_one_line_of_many_is_newer_elsewhere(kernel, line):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    home, at = two_mappings(k)
    write(k.cpu, home + line * 32, b"newer")
    k.cpu.load(at, 8 * 32)
    assert found(k) == [(STALE_LINE, at + line * 32)]
    text = k.coherence.reports[0].text
    assert f"memory gives an old copy at {at + line * 32:#x}" in text
    assert f"dirty in the cache of cpu 0 at {home + line * 32:#x}" in text


@pytest.mark.parametrize("page", [0, 2])
def test_a_copy_from_before_a_frame_was_cleared_is_reported(kernel, page):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    frames = np.sort(k.alloc_pages(3, GFP_KERNEL, -1))
    for frame in frames.tolist():
        k.memory.write(frame << 12, b"\x55" * PAGE)
    at = k.vmap(frames, 3, int(VM.MAP), k.page_kernel)
    for n in (0, 64, 127):
        k.cpu.load(at + page * PAGE + n * 32, 1)
    k.free_pages(frames)
    assert set(k.alloc_pages(3, GFP_KERNEL | GFP.ZERO, -1).tolist()) == set(frames.tolist())
    k.cpu.load(at + page * PAGE + 32, 1)  # was not cached: memory has the zeros
    assert found(k) == []
    k.cpu.load(at + page * PAGE + 127 * 32, 1)
    assert found(k) == [(STALE_LINE, at + page * PAGE + 127 * 32)]


@pytest.mark.parametrize("page", [0, 2])
def test_zeros_of_the_kernel_are_newer_than_what_was_dirty(kernel, page):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    frames = np.sort(k.alloc_pages(3, GFP_KERNEL, -1))
    at = k.vmap(frames, 3, int(VM.MAP), k.page_kernel)
    lines = [page * PAGE + n * 32 for n in (0, 64, 127)]
    for line in lines:
        write(k.cpu, at + line, b"dirty")
    k.free_pages(frames)
    assert set(k.alloc_pages(3, GFP_KERNEL | GFP.ZERO, -1).tolist()) == set(frames.tolist())
    for line in lines:
        assert k.cpu.load(linear(k, int(frames[0])) + line, 5) == bytes(5)
    assert found(k) == []


def test_a_store_over_lines_that_are_here_and_lines_that_are_not(kernel):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    home, at = two_mappings(k)
    k.cpu.load(at + 64, 1)
    k.cpu.store(at, b"x" * 160)
    assert k.cpu.load(at, 160) == b"x" * 160
    assert k.cpu.load(home, 64) == b"x" * 64  # went to memory
    assert found(k) == []
    assert k.cpu.load(home + 64, 32) == bytes(32)
    assert found(k) == [(STALE_LINE, home + 64)]
    assert k.cpu.load(home + 96, 64) == b"x" * 64
    assert len(found(k)) == 1


def test_what_a_tlb_held_before_it_was_watched_is_dropped(kernel):
    k = kernel("i386", ram=RAM, cpus=2)
    at = k.vmalloc(PAGE)
    for cpu in k.cpus:
        cpu.load(at, 1)
    checker = Checker(k.page_shift)
    checker.watch(k)
    assert [len(cpu.tlb) for cpu in k.cpus] == [0, 0]


# ---- whom a report blames


def blamed(k):
    """Return the flush that each stale line's report names."""
    return [report.missing for report in k.coherence.reports if report.kind == STALE_LINE]


def test_a_flush_before_the_unmapping_is_none_for_it(kernel):
    k = kernel("i386", ram=RAM, check_coherence=True)
    at = k.vmalloc(PAGE)
    k.flush("flush_tlb_kernel_range", at, at + PAGE)
    k.cpu.load(at, 1)
    k.init_mm.unmap(at, at + PAGE)
    k.cpu.load(at, 1)
    assert found(k) == [(STALE_TRANSLATION, at)]
    assert "flush_tlb_kernel_range was not called for it" in k.coherence.reports[0].text


def test_a_mapping_made_before_the_copy_is_not_blamed(kernel):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    one, two = k.vmap(frames, 1, int(VM.MAP), k.page_kernel), k.get_vm_area(PAGE, int(VM.MAP)).addr
    k.init_mm.map(two, two + PAGE, frames, k.page_kernel)
    k.cpu.load(one, 4)
    write(k.cpu, two, b"newer")
    k.cpu.load(one, 4)
    assert blamed(k) == [""]


def test_a_mapping_made_after_the_copy_is_blamed(kernel):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    one, two = k.vmap(frames, 1, int(VM.MAP), k.page_kernel), k.get_vm_area(PAGE, int(VM.MAP)).addr
    k.cpu.load(one, 4)
    k.init_mm.map(two, two + PAGE, frames, k.page_kernel)
    write(k.cpu, two, b"newer")
    k.cpu.load(one, 4)
    assert blamed(k) == ["flush_cache_vmap"]
    assert (k.coherence.reports[0].start, k.coherence.reports[0].end) == (two, two + PAGE)


def test_mapping_a_page_again_where_it_is_makes_no_second_copy(kernel):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    frames = k.alloc_pages(1, GFP_KERNEL, -1)
    at = k.vmap(frames, 1, int(VM.MAP), k.page_kernel)
    k.cpu.load(at, 4)
    k.init_mm.map(at, at + PAGE, frames, k.page_kernel)
    write(k.cpu, linear(k, int(frames[0])), b"newer")
    k.cpu.load(at, 4)
    assert blamed(k) == [""]


@pytest.mark.parametrize(("early", "blame"), [(True, ""), (False, "flush_cache_vunmap")])
def test_an_unmapping_before_the_copy_is_not_blamed(kernel, early, blame):
    k = kernel("armv5", ram=RAM, check_coherence=True)
    frames = frames_apart(k)[:1]
    at = k.vmap(frames, 1, int(VM.MAP), k.page_kernel)
    k.cpu.load(at if early else at + 64, 1)  # the TLB has the page from now on
    k.init_mm.unmap(at, at + PAGE)
    k.cpu.load(at + 64, 1)
    write(k.cpu, linear(k, int(frames[0])) + 64, b"newer")
    k.cpu.load(at + 64, 1)
    assert blamed(k) == [blame]


def test_a_line_that_a_flush_on_another_cpu_did_not_reach_is_lost_and_missed_later(kernel):
    k = kernel(ALIASING, ram=RAM, cpus=2, check_coherence=True)
    k.alloc_pages(1, GFP_KERNEL, -1)
    home, at = two_mappings(k)
    assert (home - at) // PAGE % k.arch.hardware.cache.colours
    write(k.cpus[1], at, b"old owner")
    k.vunmap(at)  # on cpu 0
    k.cpus[0].store(home, b"new owner")  # a miss, so it goes to memory
    assert found(k) == []
    k.flush_cache_all(1)
    lost, *more = k.coherence.reports
    assert (lost.kind, lost.cpu, lost.address, more) == (LOST_LINE, 1, at, [])
    assert (lost.missing, lost.reached, lost.start) == ("flush_cache_vunmap", 0, at)
    assert k.cpus[0].load(home, 9) == b"old owner"
    stale = k.coherence.reports[-1]
    assert (stale.kind, stale.address, stale.missing, stale.reached) == (STALE_LINE, home, lost.missing, 0)
    assert (stale.start, stale.end) == (lost.start, lost.end)
    assert "for want of flush_cache_vunmap, which ran on cpu 0 and reached that CPU only" in stale.text


def test_the_same_page_is_reported_once_and_counted(kernel):
    k = kernel("i386", ram=RAM, check_coherence=True)
    at = k.vmalloc(2 * PAGE)
    k.cpu.store(at, bytes(2 * PAGE))
    for n in range(2):
        set_word(k, at + n * PAGE, lambda word: word & ~2)
    for _ in range(3):
        k.cpu.load(at, 2 * PAGE)
    assert (found(k), k.coherence.repeated) == ([(STALE_TRANSLATION, at), (STALE_TRANSLATION, at + PAGE)], 4)
