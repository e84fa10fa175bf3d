"""The shipped traces, against the numbers written down when they were recorded."""

import lzma
from collections import Counter

import pytest

from tests.support import trace_count
from vmcore import samples
from vmcore.errors import VmcoreError
from vmcore.texts.trace import ALLOC, FREE, PURGE, read_trace
from vmcore.texts.vmallocinfo import read_vmallocinfo

NAMES = [
    "arm-short",
    "arm64-4k-48",
    "i386-2level",
    "i386-pae",
    "riscv64-sv39",
    "test_vmalloc-x86_64",
    "x86_64-l4",
]

# lines, allocs with the failed ones, frees, purges, sum of num_purged, failed, unknown frees
COUNTS = {
    "arm-short": (10600, 3962, 3703, 2923, 3703, 0, 0),
    "arm64-4k-48": (17523, 7226, 6949, 3336, 6949, 0, 0),
    "i386-2level": (10273, 2655, 2423, 5183, 2300, 0, 0),
    "i386-pae": (21836, 4806, 4573, 12445, 4407, 0, 0),
    "riscv64-sv39": (2049, 961, 684, 392, 684, 0, 0),
    "test_vmalloc-x86_64": (146384, 72915, 72633, 798, 72633, 4, 14),
    "x86_64-l4": (18895, 7877, 7590, 3416, 7590, 0, 0),
}

# vstart, vend, allocations in it; vmalloc's first
WINDOWS = {
    "arm-short": [(0xF0800000, 0xFF800000, 2786), (0xBF000000, 0xBFE00000, 1176)],
    "arm64-4k-48": [
        (0xFFFF800080000000, 0xFFFFFDFFBF800000, 5985),
        (0xFFFF80007A4F0000, 0xFFFF8000824F0000, 1241),
    ],
    "i386-2level": [(0xF73FE000, 0xFEBFE000, 2655)],
    "i386-pae": [(0xF77FE000, 0xFEFFE000, 4806)],
    "riscv64-sv39": [
        (0xFFFFFFC600000000, 0xFFFFFFD600000000, 466),
        (0xFFFFFFFF01E6B000, 0xFFFFFFFF80000000, 495),
    ],
    "test_vmalloc-x86_64": [
        (0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF, 72538),
        (0xFFFFFFFFC0000000, 0xFFFFFFFFFF000000, 377),
    ],
    "x86_64-l4": [
        (0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF, 6441),
        (0xFFFFFFFFC0000000, 0xFFFFFFFFFF000000, 1436),
    ],
}

# line, start and num_purged of the purge that ends each trace
LAST = {
    "arm-short": (10600, 0xBF25D000, 3),
    "arm64-4k-48": (17523, 0xFFFF000007AA8000, 1),
    "i386-2level": (10273, 0xF93FE000, 1),
    "i386-pae": (21836, 0xF9846000, 1),
    "riscv64-sv39": (2049, 0xFFFFFFD60F480000, 1),
    "test_vmalloc-x86_64": (146384, 0xFFFF888010B17000, 1),
    "x86_64-l4": (18895, 0xFFFF888108A70000, 1),
}

# most areas live, line; most bytes, line; areas and bytes at the end; entries of vmallocinfo
LIVE = {
    "arm-short": (407, 1396, 38174720, 8741, 259, 34230272, 261),
    "arm64-4k-48": (613, 11832, 335241216, 11832, 277, 327065600, 283),
    "i386-2level": (389, 2216, 35688448, 9322, 232, 31342592, 233),
    "i386-pae": (398, 12894, 35790848, 20479, 233, 31350784, 234),
    "riscv64-sv39": (484, 1424, 403107840, 832, 277, 355704832, 278),
    "test_vmalloc-x86_64": (16662, 19618, 174235648, 19618, 292, 51576832, 295),
    "x86_64-l4": (610, 3150, 60301312, 10175, 287, 51482624, 288),
}


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def trace(name):
    with samples.open_sample(name) as stream:
        return read_trace(stream, name)


def live_at_end(trace):
    live = {}
    for _, kind, addr, size, _, _, failed, _ in trace.events:
        if kind == ALLOC and not failed:
            live[addr] = size
        elif kind == FREE:
            assert live.pop(addr, 0) == size
    return live


def test_every_sample_is_named():
    assert samples.names() == NAMES


def test_counts(name, trace):
    kinds = Counter(trace.events.kind)
    counts = (trace.lines, kinds[ALLOC], kinds[FREE], kinds[PURGE])
    rest = (sum(trace.events.num_purged), sum(trace.events.failed), len(trace.unknown_frees))
    assert counts + rest == COUNTS[name]
    assert len(trace.events) == samples.describe(name).events == sum(COUNTS[name][1:4])


def test_last_event(name, trace):
    line, start, num_purged = LAST[name]
    assert list(trace.events)[-1] == (line, PURGE, start, 0, 0, -1, 0, num_purged)


def test_windows_and_page_size(name, trace):
    counts = Counter(w for w, kind in zip(trace.events.window, trace.events.kind, strict=True) if kind == ALLOC)
    assert [(*window, counts[index]) for index, window in enumerate(trace.windows)] == WINDOWS[name]
    assert trace.page_size == 4096


def test_nothing_is_lost(name, trace):
    expected = len(trace.events) + sum(trace.foreign.values())
    assert trace.entries == (expected, expected)
    assert (trace.lost, trace.lost_lines) == (0, [])
    if name != "test_vmalloc-x86_64":
        assert trace.notes() == []


def test_live_areas_at_the_end_are_in_vmallocinfo_with_their_sizes(name, trace):
    live = live_at_end(trace)
    with samples.open_vmallocinfo(name) as stream:
        entries = read_vmallocinfo(stream, name)
    assert (len(live), sum(live.values()), len(entries)) == LIVE[name][4:]
    assert live.items() <= {entry.start: entry.size for entry in entries}.items()


def test_the_independent_count_agrees(name, trace):
    with samples.open_sample(name) as packed, lzma.open(packed, "rt") as lines:
        count = trace_count.count_trace(lines)
    peak = (count.peak_areas, count.peak_areas_line, count.peak_bytes, count.peak_bytes_line)
    assert (*peak, count.end_areas, count.end_bytes) == LIVE[name][:6]
    purges = (count.purges, count.purged, count.failed, count.unknown_frees)
    assert (count.allocs + count.failed, count.frees, *purges) == COUNTS[name][1:]


def test_frees_of_percpu_chunks_and_markers_are_counted():
    with samples.open_sample("test_vmalloc-x86_64") as stream:
        trace = read_trace(stream, "t")
    assert trace.foreign == {"tracing_mark_write": 26}
    assert trace.unknown_frees[0] == 141284
    assert trace.notes() == [
        "t: 14 frees of unknown addresses, first at line 141284",
        "t: 26 lines of event tracing_mark_write skipped",
    ]
    assert [line for line, *_, failed, _ in trace.events if failed] == [141102, 141104, 141214, 141216]


def test_description_of_a_sample():
    sample = samples.describe("i386-pae")
    assert sample.name == "i386-pae"
    assert sample.kernel == "Linux 6.5.0-0.deb12.4-686-pae (Debian 6.5.10-1~bpo12+1)"
    assert sample.architecture == ("x86", "i386", "32-bit", "PAE", "3 levels")
    assert sample.events == 21824
    assert sample.description.startswith("32-bit x86 with PAE")
    assert "unmodified Debian kernel" in sample.source


@pytest.mark.parametrize("ask", [samples.describe, samples.open_sample, samples.open_vmallocinfo])
def test_unknown_name_lists_all_and_the_nearest(ask):
    with pytest.raises(VmcoreError) as error:
        ask("x86_64-l5")
    assert str(error.value) == (
        "no sample 'x86_64-l5', expected one of arm-short, arm64-4k-48, i386-2level, i386-pae, "
        "riscv64-sv39, test_vmalloc-x86_64, x86_64-l4; did you mean 'x86_64-l4'?"
    )


def test_unknown_name_without_a_near_one():
    with pytest.raises(VmcoreError, match=r"x86_64-l4$"):
        samples.open_sample("zzz")


TRACE_TABLE = """[{name}]
description = "d"
kernel = "k"
architecture = ["x86"]
events = 3
source = "s"
"""


def test_a_manifest():
    found = samples.read_manifest(TRACE_TABLE.format(name="a").encode(), "m", samples.Sample)
    assert found == {"a": samples.Sample("a", "d", "k", ("x86",), 3, "s")}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("events = 3", 'events = "3"', "m: 'a.events': found '3', expected the type of its field: a text"),
        ("events = 3", "events = true", "m: 'a.events': found True, expected the type of its field"),
        ('["x86"]', "[1]", "m: 'a.architecture': found \\[1\\], expected the type of its field"),
        ("events = 3", "", "m: 'a': found the keys .*, expected a table of description, kernel, architecture"),
        ("events = 3", "events = 3\nmore = 1", "m: 'a': found the keys .*'more'"),
        ("[a]", "a = 1\n[b]", "m: 'a': found 1, expected a table of"),
        ("events = 3", "events = ", "m: not valid TOML: "),
        ("events = 3", f"events = {'9' * 5000}", "m: not valid TOML: "),
        ("events = 3", f"events = {'[' * 5000}", "m: not valid TOML: "),
        ("[a]", "[a\0]", "m: not valid TOML: "),
    ],
    ids=["text", "bool", "numbers", "missing", "more", "no table", "syntax", "digits", "depth", "NUL"],
)
def test_a_manifest_that_is_none(old, new, message):
    text = TRACE_TABLE.format(name="a").replace(old, new)
    with pytest.raises(VmcoreError, match=f"^{message}"):
        samples.read_manifest(text.encode(), "m", samples.Sample)
