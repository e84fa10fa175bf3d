"""Replaying traces: where every area lands, what fails and why, and figures that a second count agrees with."""

import io
import json
import lzma
from functools import cache
from itertools import islice

import pytest

from tests.support import trace_count
from vmcore import Kernel, hookimpl, samples
from vmcore.errors import TraceError
from vmcore.replay.result import REASONS, SKIPPED
from vmcore.replay.run import SAMPLES, replay
from vmcore.scenes.catalogue import leave_out
from vmcore.texts.trace import Trace, read_trace
from vmcore.texts.vmallocinfo import read_vmallocinfo

BIG = "test_vmalloc-x86_64"
WITH_MODULES = ["x86_64", "armv5", "armv7", "armv7-highmem"]
WITHOUT_MODULES = ["i386", "i386-highmem", "i386-pae", "i386-pae-highmem"]
ARCHES = WITHOUT_MODULES + WITH_MODULES

START = 0xFFFFC90000000000
MODULES = 0xFFFFFFFFC0000000
WINDOWS = {
    START: "vstart=0xffffc90000000000 vend=0xffffe8ffffffffff",
    MODULES: "vstart=0xffffffffc0000000 vend=0xffffffffff000000",
}
TASK = "          <idle>-0       [000] d..1.     0.000000: "
KIB, MIB = 1 << 10, 1 << 20


def alloc(offset=0, size=8 * KIB, *, align=1, start=START, failed=0):
    """One page by default, with its guard page."""
    body = f"va_start: {start + offset} size={size} align={align} {WINDOWS[start]} failed={failed}"
    return f"{TASK}alloc_vmap_area: {body}\n"


def free(offset=0, start=START):
    return f"{TASK}free_vmap_area_noflush: va_start={start + offset:#x} nr_lazy=2 nr_lazy_max=32768\n"


PURGE = f"{TASK}purge_vmap_area_lazy: start=0xffffc90000000000 end=0xffffc90000002000 num_purged=1\n"


def run(text, arch="x86_64", *, source_page=4096, **options):
    """Replay a text on a fresh kernel."""
    machine = {key: options.pop(key) for key in ("ram", "vmalloc", "listeners", "platform") if key in options}
    kernel = Kernel(arch, **machine)
    trace = read_trace(io.BytesIO(text.encode()), "t", source_page=source_page)
    report = replay(trace, kernel, **options)
    if kernel.dead is None:
        kernel.check()
    return report, kernel


def areas(kernel):
    base = kernel.layout.vmalloc_start
    return [(area.addr - base, area.size) for area in kernel.vmlist]


@cache
def sample(name):
    with samples.open_sample(name) as stream:
        return read_trace(stream, name)


@cache
def beginning_of_big(lines):
    """Up to line 20,000 most bytes are live; by line 14,000 the smallest windows are full."""
    with samples.open_sample(BIG) as stream, lzma.open(stream) as text:
        left_out = (b"#\n" if line.startswith(b"# entries-in-buffer") else line for line in islice(text, lines))
        return read_trace(io.BytesIO(b"".join(left_out)), BIG)


def vmallocinfo(name):
    with samples.open_vmallocinfo(name) as stream:
        return read_vmallocinfo(stream)


def replay_sample(name, arch, **options):
    machine = {key: options.pop(key) for key in ("ram", "vmalloc") if key in options}
    kernel = Kernel(arch, **machine)
    return replay(name if isinstance(name, Trace) else sample(name), kernel, **options), kernel


# ---- placement, by hand


def test_first_fit_and_the_guard_page():
    text = alloc() + alloc(0x10000, 12 * KIB) + free() + alloc(0x20000, 12 * KIB) + alloc(0x30000)
    report, kernel = run(text, "i386-highmem")
    assert areas(kernel) == [(0, 0x2000), (0x2000, 0x3000), (0x5000, 0x3000)]
    assert (report.end.areas, report.end.bytes, report.end.line) == (3, 32 * KIB, 5)
    assert (report.peak.line, report.peak.areas, report.peak.bytes) == (5, 3, 32 * KIB)
    assert report.most_areas == {"line": 5, "areas": 3}
    assert report.backing == {"frames": 4, "ioremap": 0, "stand_in": 0, "vmap": 0}


def test_the_peak_is_of_bytes_and_measured_before_they_go():
    text = alloc(0, 20 * KIB) + alloc(0x10000, 20 * KIB) + free() + alloc(0x40000) + alloc(0x50000)
    report, kernel = run(text, "i386-highmem")
    window = kernel.layout.vmalloc.size
    assert (report.peak.line, report.peak.areas, report.peak.bytes) == (2, 2, 40 * KIB)
    assert (report.peak.free, report.peak.largest_hole) == (window - 40 * KIB, window - 40 * KIB)
    assert report.peak.fragmentation == 0
    assert report.most_areas == {"line": 5, "areas": 3}
    assert areas(kernel) == [(0, 0x2000), (0x2000, 0x2000), (0x5000, 0x5000)]
    assert report.end.free == window - 36 * KIB
    assert report.end.largest_hole == window - 40 * KIB
    assert report.end.fragmentation == 1 - (window - 40 * KIB) / (window - 36 * KIB)


def test_sizes_are_those_of_the_trace_less_a_page_of_its_kernel():
    report, kernel = run(alloc(0, 128 * KIB) + alloc(0x40000, 192 * KIB), "i386", source_page=65536)
    assert areas(kernel) == [(0, 68 * KIB), (68 * KIB, 132 * KIB)]
    assert report.source["page_size"] == 65536


def test_an_area_of_nothing_but_its_guard_page():
    report, kernel = run(alloc(0, 4096) + alloc(0x4000), "i386")
    assert [(f.line, f.reason, f.size) for f in report.failures] == [(1, "size", 4096)]
    assert areas(kernel) == [(0, 0x2000)]


def test_alignment_is_kept_and_capped():
    text = (
        alloc(0) + alloc(0x10000, align=0x10000) + alloc(0x200000, align=0x200000) + alloc(0x80000, align=0x80000)
    )
    report, kernel = run(text, "i386-highmem")
    base = kernel.layout.vmalloc_start
    assert [(base + at) % 0x80000 for at, _ in areas(kernel)] == [0, 0x10000, 0, 0]
    assert areas(kernel)[2:] == [(0x80000, 0x2000), (0x100000, 0x2000)]
    assert report.capped_alignments == 1


def test_large_areas_have_no_page_array_on_the_list():
    report, kernel = run(alloc(0, 64 * MIB), "i386-highmem")
    (area,) = kernel.vmlist
    assert area.size == 64 * MIB
    assert area.pages_addr == 0
    assert len(area.pages) == (64 * MIB >> 12) - 1
    assert report.failures == []
    assert kernel.slab.live_objects == 2
    kernel.vfree(area.addr)
    assert kernel.slab.live_objects == 0


@pytest.mark.parametrize("arch", WITHOUT_MODULES)
def test_modules_are_in_the_window_of_vmalloc_where_there_is_no_other(arch):
    report, kernel = run(alloc() + alloc(0, start=MODULES), arch)
    assert areas(kernel) == [(0, 0x2000), (0x2000, 0x2000)]
    assert "modules: this architecture has no window" in report.assumptions[-1]
    assert report.layout["modules"] is None


@pytest.mark.parametrize("arch", WITH_MODULES)
def test_modules_have_their_window(arch):
    report, kernel = run(alloc() + alloc(0, start=MODULES), arch)
    starts = {area.addr for area in kernel.vmlist}
    assert starts == {kernel.layout.vmalloc_start, kernel.layout.modules.start}
    entry = kernel.init_mm.lookup(kernel.layout.modules.start)
    frame_mask = kernel.arch.levels[-1].frame_mask
    assert entry & ~frame_mask == kernel.protection("PAGE_KERNEL_EXEC")
    assert report.end.areas == 2
    assert report.end.free == kernel.layout.vmalloc.size - 8 * KIB


@pytest.mark.parametrize("arch", ["armv5", "armv7-highmem"])
def test_a_module_beyond_its_window_is_a_failure(arch):
    """In an empty window with an area above it, C takes the hole in front of that and never looks at the end."""
    window = Kernel(arch).layout.modules
    size = window.size + 0x1000
    text = alloc() + alloc(0, size, start=MODULES) + free(0, MODULES) + alloc(0, start=MODULES) + alloc(0x9000)
    report, kernel = run(text, arch)
    (failure,) = report.failures
    assert (failure.line, failure.window, failure.reason, failure.size) == (2, "modules", "end", size)
    assert f"{window.start:#x}..{window.end + 0x1000:#x}, beyond the window" in failure.message
    assert (failure.areas, failure.free, failure.largest_hole) == (1, window.size, window.size)
    assert report.events.skipped == {"failed_here": 1}
    above = kernel.layout.vmalloc_start
    assert [area.addr for area in kernel.vmlist] == [window.start, above, above + 0x2000]
    assert kernel.slab.live_objects == 6


def test_a_full_window_of_modules_is_named():
    size = Kernel("armv7").layout.modules.size
    report, _ = run(alloc() + alloc(0, size, start=MODULES) + alloc(size, start=MODULES), "armv7")
    (failure,) = report.failures
    assert (failure.line, failure.window, failure.reason) == (3, "modules", "space")
    assert (failure.areas, failure.free, failure.largest_hole, failure.fragmentation) == (2, 0, 0, 0)


@pytest.mark.parametrize(("beyond", "reasons"), [(0, []), (0x1000, ["end"])])
def test_a_window_that_ends_in_its_last_byte(beyond, reasons):
    """With ...fff as its end, the last page of the window may be used, and no more."""
    kernel = Kernel("x86_64", ram="64M")
    start, end = kernel.layout.vmalloc_start, kernel.layout.vmalloc_end
    assert end & 0xFFF == 0xFFF
    below = start - 0x1000  # an area from there on is stepped over without a look at the end
    kernel.raw_get_vm_area(end + 1 - 0x3000 + beyond - below, 0, below, end)
    report = replay(read_trace(io.BytesIO(alloc().encode()), "t", source_page=4096), kernel)
    assert [failure.reason for failure in report.failures] == reasons
    assert [area.addr for area in kernel.vmlist][1:] == ([] if beyond else [end + 1 - 0x2000])


def test_an_area_that_would_wrap_is_taken_back_and_the_kernel_lives():
    """On an empty list C places anything at the window's start: this ends beyond the last address."""
    text = alloc(0, 144 * MIB) + free() + alloc()
    report, kernel = run(text, "i386", ram="1G")
    assert kernel.layout.vmalloc_start + 144 * MIB > 1 << 32
    assert [(f.line, f.reason, f.window) for f in report.failures] == [(1, "end", "vmalloc")]
    assert kernel.dead is None
    assert kernel.slab.live_objects == 2
    assert areas(kernel) == [(0, 0x2000)]


def test_more_than_an_unsigned_long_is_a_failure():
    report, kernel = run(alloc(0, (4 << 30) + 8 * KIB) + alloc(8 << 30), "i386")
    assert [(f.reason, f.size) for f in report.failures] == [("size", (4 << 30) + 8 * KIB)]
    assert areas(kernel) == [(0, 0x2000)]


# ---- what is skipped, what fails


def test_purges_failures_of_the_source_and_unknown_frees_are_counted():
    text = alloc() + alloc(0x2000) + PURGE + free(0x9000) + alloc(0x100000, failed=1) + free() + PURGE
    report, kernel = run(text)
    assert (report.events.read, report.events.alloc, report.events.free, report.events.purge) == (7, 2, 1, 2)
    assert report.events.skipped == {"unknown_address": 1, "failed_on_source": 1}
    assert report.failures == []
    assert len(kernel.vmlist) == 1


def test_a_double_free_is_of_an_address_nobody_held():
    report, kernel = run(alloc() + alloc(0x2000) + free() + free())
    assert (report.events.free, report.events.skipped) == (1, {"unknown_address": 1})
    assert SKIPPED["unknown_address"][1] == "frees of addresses without an area"
    assert len(kernel.vmlist) == 1


def test_the_free_of_what_failed_here_is_skipped():
    big = 40 * MIB
    text = alloc(0, big) + alloc(big) + free() + free(big) + alloc(0)
    report, kernel = run(text, "i386", vmalloc="32M")
    assert [(f.line, f.reason, f.window) for f in report.failures] == [(1, "end", "vmalloc")]
    assert (report.events.alloc, report.events.free) == (3, 1)
    assert report.events.skipped == {"failed_here": 1}
    assert report.demand == {"line": 2, "bytes": big + 8 * KIB}
    assert report.peak.bytes == 8 * KIB
    assert areas(kernel) == [(0, 0x2000)]


def test_stop_ends_at_the_first_failure():
    text = alloc() + alloc(0x10000, 40 * MIB) + alloc(0x8000) + free()
    report, kernel = run(text, "i386", vmalloc="32M", stop=True)
    assert report.stopped == "line 2: the first failure"
    assert report.events.skipped == {"not_reached": 2}
    assert report.end.line == 2
    assert len(kernel.vmlist) == 1
    assert run(text, "i386", vmalloc="32M")[0].stopped is None


@pytest.mark.parametrize(("size", "ram", "reason"), [(2 << 30, "1G", "num_physpages"), (1023 * MIB, "1G", "page")])
def test_a_machine_without_enough_pages(size, ram, reason):
    report, kernel = run(alloc() + alloc(0x10000, size) + alloc(4 << 30), "x86_64", ram=ram)
    assert [(f.line, f.reason, f.size) for f in report.failures] == [(2, reason, size)]
    assert areas(kernel) == [(0, 0x2000), (0x2000, 0x2000)]


class CallsBack:
    """A listener that breaks the rules: it calls back into vmalloc."""

    def __init__(self):
        self.kernel, self.heard = None, 0

    @hookimpl
    def vmcore_pages_allocated(self, frames):
        self.heard += 1
        if self.heard == 2:
            self.kernel.vmalloc(1)


def test_a_kernel_that_dies_ends_the_replay():
    listener = CallsBack()
    kernel = Kernel("i386", listeners=[listener])
    listener.kernel = kernel
    text = alloc() + alloc(0x2000) + alloc(0x4000) + free()
    report = replay(read_trace(io.BytesIO(text.encode()), "t", source_page=4096), kernel)
    assert [(f.line, f.reason) for f in report.failures] == [(2, "bug")]
    assert report.stopped == "line 2: kernel BUG: BUG_ON(recursive vmlist_lock) in write_lock()"
    assert report.events.skipped == {"not_reached": 2}


def test_figures_are_of_this_replay_only():
    kernel = Kernel("i386")
    trace = read_trace(io.BytesIO((alloc() + free()).encode()), "t", source_page=4096)
    first, second = replay(trace, kernel), replay(trace, kernel)
    assert first.tables == {"pte": 1}
    assert second.tables == {"pte": 0}
    for report in (first, second):
        assert report.flushes == {
            "flush_cache_vmap": {"calls": 1, "pages": 1},
            "flush_cache_vunmap": {"calls": 1, "pages": 2},
            "flush_tlb_kernel_range": {"calls": 1, "pages": 2},
        }
        assert report.nodes_visited == 1


def test_samples_have_the_highest_bytes_of_their_stretch():
    text = "".join(alloc(n << 16) + free(n << 16) for n in range(300)) + alloc(0, 20 * KIB)
    report, _ = run(text)
    assert len(report.samples) == 151 <= SAMPLES
    assert report.samples[0] == (1, 1, 8 * KIB)
    assert report.samples[-1] == (601, 1, 20 * KIB)


def test_progress_ends_with_all_events():
    calls = []
    run("".join(alloc(n << 16) for n in range(500)), progress=lambda *call: calls.append(call))
    assert calls[0] == (3, 500)
    assert calls[-1] == (500, 500)
    assert len(calls) == 167


# ---- the coherence checker


def on(cpu, text):
    return text.replace("[000]", f"[{cpu:03}]")


def check(text, arch, *listeners, cpus=2, **options):
    kernel = Kernel(arch, cpus=cpus, check_coherence=True, listeners=listeners)
    return replay(read_trace(io.BytesIO(text.encode()), "t", source_page=4096), kernel, **options), kernel


def test_a_checked_replay_runs_on_the_cpus_of_the_trace():
    text = on(0, alloc()) + on(1, alloc(0x4000)) + on(3, alloc(0x8000)) + on(1, free()) + on(2, free(0x8000))
    report, kernel = check(text, "i386", cpus=3)
    flushed = [flush.cpu for flush in kernel.flush_log if flush.symbol == "flush_cache_vmap"]
    assert flushed == [0, 1, 0]
    assert [f.cpu for f in kernel.flush_log if f.symbol == "flush_tlb_kernel_range"] == [1, 2]
    assert (report.coherence.touched, report.coherence.reports, report.coherence.repeated) == (3, (), 0)


def test_a_trace_without_cpus_is_replayed_on_the_first():
    report, kernel = check(alloc().replace(" [000] d..1. ", " "), "i386")
    assert [flush.cpu for flush in kernel.flush_log] == [0]
    assert report.coherence.touched == 1


def test_first_and_last_pages_are_touched():
    text = alloc(0, 8 * KIB) + alloc(0x10000, 20 * KIB)
    report, kernel = check(text, "i386", cpus=1)
    first, second = kernel.vmlist
    translated = [entry.page << 12 for entry in kernel.cpu.tlb.entries()]
    assert translated == [first.addr, second.addr, second.addr + 12 * KIB]
    for line, at in ((1, first.addr), (2, second.addr), (2, second.addr + 12 * KIB)):
        assert kernel.vread(at, 8) == (line | at >> 12 << 32).to_bytes(8, "little")
    assert report.coherence.touched == 2


def test_what_is_not_vmallocs_is_not_touched():
    info = entries(
        line(0, 8 * KIB, "pci+0x1/0x2 phys=0xfebf1000 ioremap"), line(0x4000, 8 * KIB, "x+0x1/0x2 vmap")
    )
    report, kernel = check(alloc() + alloc(0x4000), "i386", vmallocinfo=info)
    assert (report.coherence.touched, report.failures, len(kernel.cpu.tlb)) == (0, [], 0)


def test_failures_are_not_touched():
    report, _ = check(alloc() + alloc(0x10000, 400 * MIB) + free(0x10000), "i386")
    assert (len(report.failures), report.coherence.touched) == (1, 1)


@pytest.mark.parametrize(
    ("arch", "symbol", "kinds"),
    [
        ("i386", "flush_tlb_kernel_range", {"frame in use", "stale translation"}),
        ("i386", "flush_cache_vunmap", set()),
        ("armv7", "flush_tlb_kernel_range", {"frame in use", "stale translation"}),
        ("armv7", "flush_cache_vunmap", set()),
        ("armv5", "flush_cache_vunmap", {"lost line", "stale line"}),
        ("armv5", "flush_cache_vmap", set()),
    ],
)
def test_a_dropped_flush_is_reported_where_it_matters(arch, symbol, kinds):
    text = "".join(alloc(n << 16, (n % 3 + 2) * 4 * KIB) for n in range(9))
    text += "".join(free(n << 16) for n in range(0, 9, 2))
    text += "".join(alloc((n + 20) << 16, (5 - n % 3) * 4 * KIB) for n in range(9))
    report, _ = check(text, arch, leave_out(symbol), cpus=1 if arch == "armv5" else 2)
    assert {r.kind for r in report.coherence.reports if r.missing == symbol} == kinds
    assert {r.missing for r in report.coherence.reports} - {""} == ({symbol} if kinds else set())
    assert check(text, arch, cpus=1)[0].coherence.reports == ()


@pytest.mark.parametrize("arch", ARCHES)
def test_a_real_trace_is_coherent(arch):
    with samples.open_sample("riscv64-sv39") as source:
        trace = read_trace(source, "s")
    kernel = Kernel(arch, cpus=1 if arch == "armv5" else 4, check_coherence=True)
    report = replay(trace, kernel)
    assert report.coherence.reports == ()
    assert report.coherence.touched == report.events.alloc - len(report.failures) > 500


def test_an_unchecked_replay_touches_nothing():
    report, kernel = run(alloc(), "i386")
    assert (report.coherence, len(kernel.cpu.tlb)) == (None, 0)
    assert report.facts()["coherence"] is None


# ---- vmallocinfo


def entries(*lines):
    return read_vmallocinfo(io.BytesIO("".join(f"{line}\n" for line in lines).encode()), "info")


def line(offset, size, rest, start=START):
    return f"{start + offset:#x}-{start + offset + size:#x} {size:7} {rest}"


def test_ioremap_and_vmap_cost_no_page_frames():
    text = alloc(0, 20 * KIB) + alloc(0x10000, 12 * KIB) + alloc(0x20000) + alloc(0x30000) + free(0x30000)
    info = entries(
        line(0, 20 * KIB, "of_iomap+0x1/0x2 phys=0xfebf1000 ioremap"),
        line(0x10000, 12 * KIB, "drm+0x1/0x2 [drm] pages=2 vmap"),
        line(0x20000, 8 * KIB, "fork+0x1/0x2 pages=1 vmalloc"),
        line(0x90000, 8 * KIB, "pcpu+0x1/0x2 vmalloc"),
    )
    kernel = Kernel("i386-highmem")
    before = kernel.pages.pages_in_use
    report = replay(read_trace(io.BytesIO(text.encode()), "t"), kernel, vmallocinfo=info)
    kernel.check()
    assert report.backing == {"ioremap": 1, "stand_in": 0, "vmap": 1, "frames": 2}
    assert kernel.pages.pages_in_use - before == 1 + sum(report.tables.values())
    by_address = {area.addr - kernel.layout.vmalloc_start: area for area in kernel.vmlist}
    assert {at: (area.flags, area.size) for at, area in by_address.items()} == {
        0: (1, 20 * KIB),
        0x5000: (4, 12 * KIB),
        0x8000: (2, 8 * KIB),
    }
    base = kernel.layout.vmalloc_start
    assert [kernel.vmalloc_to_pfn(base + n * 4096) for n in range(8)] == [
        0xFEBF1, 0xFEBF2, 0xFEBF3, 0xFEBF4, None, 0, 0, None,
    ]  # fmt: skip
    assert "it has 3 of 3 areas live at the end" in report.assumptions[1]
    assert report.assumptions[2].endswith("left out: 1")


def test_ioremap_needs_no_num_physpages():
    info = entries(line(0, 2 << 30, "pci+0x1/0x2 phys=0x80000000 ioremap"))
    report, _ = run(alloc(0, 2 << 30), "x86_64", ram="64M", vmallocinfo=info)
    assert report.backing == {"frames": 0, "ioremap": 1, "stand_in": 0, "vmap": 0}
    assert report.failures == []


def test_physical_addresses_the_entries_cannot_hold_have_a_stand_in():
    info = entries(
        line(0, 8 * KIB, "pci+0x1/0x2 phys=0x800000000 ioremap"),
        line(0x2000, 8 * KIB, "pci+0x1/0x2 phys=0xfffff000 ioremap"),
    )
    said = (
        "ioremap: 1 of 2 physical addresses does not fit this machine, or is not given; a stand-in frame, the "
        "first of RAM, is mapped"
    )
    report, kernel = run(alloc() + alloc(0x2000), "i386-highmem", vmallocinfo=info)
    start = kernel.layout.vmalloc_start
    assert [kernel.vmalloc_to_pfn(start + at) for at in (0, 0x2000)] == [0, 0xFFFFF]
    assert report.backing == {"frames": 0, "ioremap": 1, "stand_in": 1, "vmap": 0}
    assert [text for text in report.facts()["assumptions"] if "stand-in" in text] == [said]
    report, kernel = run(alloc() + alloc(0x2000), "i386-pae-highmem", vmallocinfo=info)
    start = kernel.layout.vmalloc_start
    assert [kernel.vmalloc_to_pfn(start + at) for at in (0, 0x2000)] == [0x800000, 0xFFFFF]
    assert report.backing == {"frames": 0, "ioremap": 2, "stand_in": 0, "vmap": 0}
    assert not any("stand-in" in text for text in report.assumptions)


def test_ioremap_without_a_physical_address_has_a_stand_in():
    report, _ = run(alloc(), vmallocinfo=entries(line(0, 8 * KIB, "pci+0x1/0x2 ioremap")))
    assert report.backing == {"frames": 0, "ioremap": 0, "stand_in": 1, "vmap": 0}
    assert any(text.startswith("ioremap: 1 of 1 physical address") for text in report.assumptions)


def test_a_freed_area_has_frames_whatever_stands_there_later():
    info = entries(
        line(0, 8 * KIB, "pci+0x1/0x2 phys=0xfebf1000 ioremap"), line(0x4000, 8 * KIB, "x+0x1/0x2 vmap")
    )
    report, _ = run(alloc() + free() + alloc(0x4000) + alloc(), "i386", vmallocinfo=info)
    assert report.backing == {"frames": 1, "vmap": 1, "ioremap": 1, "stand_in": 0}


def test_vmallocinfo_of_another_boot():
    text = "".join(alloc(n * 0x4000) for n in range(5)) + alloc(0x40000) + free(0x40000)
    found = [line(n * 0x4000, 8 * KIB, "x+0x1/0x2 vmap") for n in range(3)]
    strange = [line(0xC000, 12 * KIB, "x+0x1/0x2 vmap"), line(0x40000, 8 * KIB, "x+0x1/0x2 vmap")]
    report, _ = run(text, vmallocinfo=entries(*found, *strange))
    assert report.backing["vmap"] == 3
    for count in (0, 2):
        with pytest.raises(TraceError) as error:
            run(text, vmallocinfo=entries(*found[:count], *strange))
        assert str(error.value) == (
            f"t: {count} of 5 areas live at its end found in vmallocinfo by address and size, expected 3 or "
            "more; read both on the same boot, /proc/vmallocinfo right after the trace"
        )


def test_an_entry_of_another_size_is_not_joined():
    info = entries(line(0, 12 * KIB, "x+0x1/0x2 phys=0x1000 ioremap"), line(0x8000, 8 * KIB, "y+0x1/0x2 vmalloc"))
    report, _ = run(alloc() + alloc(0x8000), vmallocinfo=info)
    assert report.backing == {"frames": 2, "ioremap": 0, "stand_in": 0, "vmap": 0}


@pytest.mark.parametrize(
    ("name", "backing"),
    [("x86_64-l4", {"ioremap": 21, "vmap": 1}), ("arm64-4k-48", {"ioremap": 15, "vmap": 3})],
)
def test_samples_with_their_vmallocinfo(name, backing):
    report, kernel = replay_sample(name, "x86_64", ram="64M" if name == "arm64-4k-48" else "1G",
                                   vmallocinfo=vmallocinfo(name))  # fmt: skip
    assert {kind: n for kind, n in report.backing.items() if kind != "frames"} == backing | {"stand_in": 0}
    assert report.failures == []
    kernel.check()


# ---- the samples


@pytest.mark.parametrize("name", samples.names())
def test_figures_agree_with_a_second_count(name):
    with samples.open_sample(name) as stream, lzma.open(stream, "rt") as text:
        count = trace_count.count_trace(text)
    report, kernel = replay_sample(name, "x86_64", ram="1G")
    assert report.failures == []
    assert (report.peak.bytes, report.peak.line) == (count.peak_bytes, count.peak_bytes_line)
    assert report.demand == {"line": count.peak_bytes_line, "bytes": count.peak_bytes}
    assert report.most_areas == {"line": count.peak_areas_line, "areas": count.peak_areas}
    assert (report.end.areas, report.end.bytes) == (count.end_areas, count.end_bytes)
    events = report.events
    assert (events.alloc, events.purge) == (count.allocs, count.purges)
    assert events.free == count.frees - count.unknown_frees
    assert events.skipped.get("unknown_address", 0) == count.unknown_frees
    assert events.skipped.get("failed_on_source", 0) == count.failed
    assert max(size for _, _, size in report.samples) == count.peak_bytes
    assert sum(area.size for area in kernel.vmlist) == count.end_bytes
    kernel.check()


@pytest.mark.parametrize("name", samples.names())
@pytest.mark.parametrize("arch", ARCHES)
def test_every_sample_on_every_built_in_architecture(arch, name):
    trace = beginning_of_big(14_000) if name == BIG and arch != "armv7" else sample(name)
    report, kernel = replay_sample(trace, arch)
    kernel.check()
    events = report.events
    assert events.read == len(trace.events)
    assert events.read == events.alloc + events.free + events.purge + sum(events.skipped.values())
    assert set(events.skipped) <= set(SKIPPED)
    assert {failure.reason for failure in report.failures} <= set(REASONS)
    assert report.end.areas == len(kernel.vmlist)
    assert report.end.bytes == sum(area.size for area in kernel.vmlist)
    assert events.alloc == report.end.areas + events.free + len(report.failures)
    assert report.peak.bytes <= report.demand["bytes"]
    layout = kernel.layout
    windows = [layout.vmalloc, layout.modules or layout.vmalloc]
    for area in kernel.vmlist:
        assert any(w.start <= area.addr and area.addr + area.size <= w.end + (w.end & 1) for w in windows)
    assert json.loads(json.dumps(report.facts())) == report.facts()


def test_check_value():
    """One trace, one machine: the call that fails first is known from a replay made without vmcore."""
    report, kernel = replay_sample(BIG, "i386-highmem", ram="1G")
    layout = kernel.layout
    assert (layout.vmalloc_start, layout.vmalloc_end) == (0xF8800000, 0xFF7FE000)
    first = report.failures[0]
    assert (first.line, first.size, first.align, first.areas) == (12_652, 8192, 1, 9695)
    assert (first.window, first.reason, first.bytes) == ("vmalloc", "space", 117_161_984)
    assert (first.free, first.largest_hole) == (270_336, 4096)
    assert first.fragmentation == 1 - 4096 / 270_336
    assert (report.peak.line, report.peak.areas, report.peak.bytes) == (12_651, 9695, 117_161_984)
    assert len(report.failures) == report.events.skipped["failed_here"] == 27_098
    kernel.check()


@pytest.mark.parametrize(("vmalloc", "fits"), [("176M", False), ("192M", True)])
def test_the_window_that_is_large_enough(vmalloc, fits):
    report, _ = replay_sample(beginning_of_big(20_000), "i386-highmem", vmalloc=vmalloc)
    assert (not report.failures) is fits
