"""Reading a trace and vmallocinfo: layouts, notes, and every kind of damage by its exact message."""

import gzip
import io
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmcore.errors import TraceError, VmcoreError
from vmcore.texts.trace import ALLOC, FREE, NO_WINDOW, PURGE, read_trace

START = 0xFFFFC90000000000
WINDOW = "vstart=0xffffc90000000000 vend=0xffffe8ffffffffff"
MODULES = "vstart=0xffffffffc0000000 vend=0xffffffffff000000"
TASK = "          <idle>-0       [000] d..1.     0.000000: "
TORN = "the line is torn or was edited: take the trace again, or delete the line if it may be missed"
EDITED = "the line was edited, or the source page is not as given"
A_LINE = "expected 'TASK-PID [CPU] FLAGS TIME: EVENT: ...'"


def alloc(offset=0, size=8192, *, align=1, window=WINDOW, failed=0, start=START):
    body = f"va_start: {start + offset} size={size} align={align} {window} failed={failed}"
    return f"{TASK}alloc_vmap_area: {body}\n"


def free(offset=0):
    return f"{TASK}free_vmap_area_noflush: va_start={START + offset:#x} nr_lazy=2 nr_lazy_max=32768\n"


def purge(count=1):
    return f"{TASK}purge_vmap_area_lazy: start={START:#x} end={START + 0x2000:#x} num_purged={count}\n"


def read(text, **options):
    return read_trace(io.BytesIO(text if isinstance(text, bytes) else text.encode()), "t", **options)


def problem(text, **options):
    with pytest.raises(TraceError) as error:
        read(text, **options)
    return str(error.value)


SMALL = "# tracer: nop\n#\n" + alloc() + alloc(0x3000, 4096) + free() + purge() + alloc(0, 12288)


def test_events_become_columns():
    trace = read(SMALL)
    assert list(trace.events) == [
        (3, ALLOC, START, 8192, 1, 0, 0, 0),
        (4, ALLOC, START + 0x3000, 4096, 1, 0, 0, 0),
        (5, FREE, START, 8192, 0, 0, 0, 0),
        (6, PURGE, START, 0, 0, NO_WINDOW, 0, 1),
        (7, ALLOC, START, 12288, 1, 0, 0, 0),
    ]
    assert trace.events.line == [3, 4, 5, 6, 7]
    assert (trace.lines, trace.page_size, trace.entries, trace.notes()) == (7, 4096, None, [])


@pytest.mark.parametrize(
    "prefix",
    [
        "            sshd-1234    [001]  1234.567890: ",
        "            sshd-1234    [001] dN.2.  1234.567890: ",
        "            sshd-1234    ( 1230) [001] .....  1234.567890: ",
        "            sshd-1234    (-------) [001] .....  1234.567890: ",
        "            sshd-1234     1234.567890: ",
        "    sshd-1234    0d..1.   12us+: ",
        "    sshd-1234    0d..1.   12us : ",
        "           <...>-1234    [001] .....    987654: ",
        "   kworker/u8:2-1234    [001] .....  1.5: ",
        "  Web Content 1-1234    [001] .....  1.5: ",
        "        caf\N{LATIN SMALL LETTER E WITH ACUTE}-1234    [001] .....  1.5: ",
    ],
)
def test_layouts_of_the_columns_before_the_event(prefix):
    text = SMALL.replace(TASK, prefix)
    assert list(read(text).events) == list(read(SMALL).events)


def test_trace_cmd_report_pads_after_the_event_and_has_a_preamble():
    text = "version = 7\nCPU 1 is empty\ncpus=2\n" + SMALL.replace("area: va", "area:      va")
    assert [kind for _, kind, *_ in read(text).events] == [ALLOC, ALLOC, FREE, PURGE, ALLOC]


def test_carriage_returns_and_empty_lines():
    assert read("\r\n" + SMALL.replace("\n", "\r\n")).events.line == [4, 5, 6, 7, 8]


def test_the_widest_window_is_first_wherever_it_appears():
    trace = read(alloc(0, start=0xFFFFFFFFC0000000, window=MODULES) + alloc() + free())
    assert trace.windows == ((START, 0xFFFFE8FFFFFFFFFF), (0xFFFFFFFFC0000000, 0xFFFFFFFFFF000000))
    assert trace.events.window == [1, 0, 0]


def test_a_failed_allocation_occupies_nothing():
    failed = alloc(start=0xFFFFE8FFFFFFFFFF, failed=1)
    trace = read(alloc() + failed + failed)
    assert trace.events.failed == [0, 1, 1]
    assert trace.page_size == 8192


@pytest.mark.parametrize(
    ("sizes", "page"), [((8192, 12288), 4096), ((32768, 49152), 16384), ((131072, 262144), 65536)]
)
def test_page_size_divides_all_sizes_and_addresses(sizes, page):
    assert read(alloc(0, sizes[0]) + alloc(0x100000, sizes[1])).page_size == page
    assert read(alloc(0x1000, sizes[0]) + alloc(0x100000, sizes[1])).page_size == 4096


def test_page_size_given():
    assert read(alloc(), source_page=4096).page_size == 4096
    expected = f"t:1: alloc_vmap_area: found size=8192, expected a multiple of the page size, 16384; {EDITED}"
    assert problem(alloc(), source_page=16384) == expected


@pytest.mark.parametrize("page", [0, -4096, 2048, 5000, 131072])
def test_page_size_that_no_kernel_has(page):
    expected = f"t: source page of {page} bytes, expected a power of two from 4096 to 65536"
    assert problem(alloc(), source_page=page) == expected


def test_foreign_events_and_stack_traces_are_counted():
    switch = f"{TASK}sched_switch: prev_comm=a ==> next_comm=b\n"
    stack = f"{TASK}<stack trace>\n => alloc_vmap_area\n => __vmalloc_node\n"
    function = f"{TASK}vfree <-kvfree\n"
    trace = read(alloc() + switch + stack + switch + function)
    assert trace.foreign == {"sched_switch": 2, "<stack trace>": 1, "vfree": 1}
    assert trace.notes()[1] == "t: 2 lines of event sched_switch skipped"


def test_a_marker_that_quotes_an_event_is_foreign():
    trace = read(alloc() + f"{TASK}tracing_mark_write: see alloc_vmap_area: va_start: 1 failed=0\n")
    assert trace.foreign == {"tracing_mark_write": 1}
    assert len(trace.events) == 1


@pytest.mark.parametrize(
    ("kept", "written", "notes"),
    [
        (5, 5, []),
        (5, 9, ["t: 4 events were overwritten before the trace was read, of 9"]),
        (4, 4, ["t: 5 events read, the header counts 4"]),
    ],
)
def test_entries_of_the_header(kept, written, notes):
    trace = read(f"# entries-in-buffer/entries-written: {kept}/{written}   #P:2\n{SMALL}")
    assert trace.entries == (kept, written)
    assert trace.notes() == notes


COUNTS = ["x/1", "5", "5/", "7/5", f"1/{1 << 64}", f"1/{'9' * 5000}", f"{'9' * 5000}/1"]


@pytest.mark.parametrize("counts", COUNTS, ids=lambda text: text[:8])
def test_a_header_whose_counts_are_none(counts):
    message = problem(f"# entries-in-buffer/entries-written: {counts}   #P:2\n{SMALL}")
    assert message.startswith("t:1: found '# entries-in-buffer/entries-written: ")
    assert "expected numbers KEPT/WRITTEN, WRITTEN no smaller than KEPT; the line is torn" in message


@pytest.mark.parametrize("number", ["9" * 5000, 1 << 64], ids=["digits", "bits"])
def test_a_loss_of_more_events_than_a_counter_holds(number):
    line = f"CPU:0 [LOST {number} EVENTS]"
    assert problem(f"{SMALL}{line}\n").startswith(f"t:8: found '{line[:20]}")


@pytest.mark.parametrize("headers", [[6], [2, 4]])
def test_a_text_with_fewer_events_than_its_headers_count(headers):
    """All that a header counts is there, other events included: what is missing was cut off."""
    header = "".join(f"# entries-in-buffer/entries-written: {kept}/{kept}   #P:2\n" for kept in headers)
    foreign = f"{TASK}sched_switch: prev_comm=a\n"
    assert len(read(header + SMALL + foreign).events) == 5
    assert problem(header + SMALL) == (
        f"t:{7 + len(headers)}: the text ends after 5 events, its header counts 6; take the "
        "trace again, or remove the header's line if lines were left out on purpose"
    )


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("CPU:1 [LOST 17 EVENTS]", 17),
        ("CPU:1 [LOST EVENTS]", 0),
        ("CPU:0 [17 EVENTS DROPPED]", 17),
        ("CPU:0 [EVENTS DROPPED]", 0),
    ],
)
def test_lost_events_are_counted(text, lost):
    trace = read(alloc() + text + "\n")
    assert (trace.lost, trace.lost_lines) == (lost, [2])
    assert trace.notes() == [f"t: {lost} events lost in 1 place, first at line 2"]


def test_frees_that_nobody_waits_for_are_counted():
    trace = read(free() + alloc(0x9000) + free(0x9000) + free(0x9000))
    assert trace.unknown_frees == [1, 4]
    assert trace.events.size == [0, 8192, 8192, 0]
    assert trace.events.window == [NO_WINDOW, 0, 0, NO_WINDOW]
    assert trace.notes() == ["t: 2 frees of unknown addresses, first at line 1"]


def at(time, line, cpu=0, prefix="          <idle>-0       [{cpu:03}] d..1.     {time}: "):
    return line.replace(TASK, prefix.format(cpu=cpu, time=time))


LATENCY = "    sshd-1234    {cpu}d..1.   {time}us+: "


@pytest.mark.parametrize(
    ("times", "prefix"),
    [
        (("1.000001", "1.000000"), "          <idle>-0       [{cpu:03}] d..1.     {time}: "),
        (("10.5", "9.75"), "  a [b]-7 c-12   ( 1230) [{cpu:03}] .....  {time}: "),
        (("10000", "9999"), "           <...>-1234    [{cpu:03}] .....    {time}: "),
        (("100", "99"), LATENCY),
        (("100", "99"), LATENCY.replace("d..1.", ".....")),
    ],
)
def test_a_time_that_runs_backwards_on_its_cpu(times, prefix):
    late, early = times
    text = at(late, alloc(), 1, prefix) + at(late, alloc(0x4000), 2, prefix)
    assert problem(text + at(early, free(), 1, prefix)) == (
        f"t:3: found time {early} on CPU 1 after {late} of line 1, expected no earlier time; "
        "lines are out of order: take the trace again"
    )
    assert read(text + at(early, free(), 3, prefix)).unknown_frees == []
    assert read(text + at(late, free(), 1, prefix)).unknown_frees == []


def test_a_free_moved_before_its_allocation_with_its_time():
    ordered = [at("1.0", alloc(0x9000)), at("2.0", alloc()), at("3.0", free())]
    assert read("".join(ordered)).unknown_frees == []
    assert problem(ordered[0] + ordered[2] + ordered[1]) == (
        "t:3: found time 2.0 on CPU 0 after 3.0 of line 2, expected no earlier time; "
        "lines are out of order: take the trace again"
    )


def test_without_a_cpu_times_are_not_compared():
    prefix = "            sshd-1234     {time}: "
    assert len(read(at("2.0", alloc(), 0, prefix) + at("1.0", free(), 0, prefix)).events) == 2


def test_the_error_knows_file_and_line():
    with pytest.raises(ValueError) as error:
        read(alloc() + "x\n")
    assert isinstance(error.value, VmcoreError)
    assert (error.value.file, error.value.line) == ("t", 2)
    assert str(error.value) == f"t:2: {error.value.problem}"


CUT = f"{TASK}alloc_vmap_area: va_start: 18446683600570023936 si"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CUT, f"alloc_vmap_area: found 'si', expected 'size=' and a decimal number; {TORN}"),
        (
            f"{TASK}alloc_vmap_area:",
            f"alloc_vmap_area: found the end of the line, expected 'va_start:' and a decimal number; {TORN}",
        ),
        (
            f"{TASK}free_vmap_area_noflush",
            f"free_vmap_area_noflush: found the end of the line, expected ':' and the fields; {TORN}",
        ),
        (f"{TASK}free_vma", f"found 'free_vma' at the end of the line, {A_LINE}; {TORN}"),
        ("     kworker/0:2-125     [000] ..", f"found 'kworker/0:2-125     [000] ..', {A_LINE}; {TORN}"),
        ("hello world", f"found 'hello world', {A_LINE}; {TORN}"),
        (
            alloc(size=-4096)[:-1],
            f"alloc_vmap_area: found 'size=-4096 align=1 {WINDOW[:-8]}...', "
            f"expected 'size=' and a decimal number; {TORN}",
        ),
        (
            alloc()[:-1].replace("align=1 ", ""),
            f"alloc_vmap_area: found '{WINDOW} failed=0', expected 'align=' and a decimal number; {TORN}",
        ),
        (
            alloc()[:-1].replace("failed=0", "failed=2"),
            f"alloc_vmap_area: found 'failed=2', expected 'failed=' and 0 or 1; {TORN}",
        ),
        (alloc()[:-1] + " x", f"alloc_vmap_area: found 'x', expected the end of the line; {TORN}"),
        (
            alloc()[:-1].replace(str(START), hex(START)),
            f"alloc_vmap_area: found 'va_start: 0xffffc90000000000 "
            f"size=8192 align=1 vstart=0xffff...', expected 'va_start:' and a decimal number; {TORN}",
        ),
        (
            free()[:-1].replace(hex(START), str(START)),
            "free_vmap_area_noflush: found "
            "'va_start=18446683600570023936 nr_lazy=2 nr_lazy_max=32768', "
            f"expected 'va_start=' and a hexadecimal number with 0x; {TORN}",
        ),
        (
            purge()[:-1].replace("num_purged=1", "num_purged="),
            f"purge_vmap_area_lazy: found 'num_purged=', expected 'num_purged=' and a decimal number; {TORN}",
        ),
        (
            f"{TASK}sched_switch: prev_com{free()[:-1]}",
            f"found a vmalloc event inside the line of event sched_switch, expected one event per line; {TORN}",
        ),
    ],
)
def test_a_torn_line_in_the_middle_and_at_the_end(line, message):
    assert problem(f"{alloc()}{line}\n{alloc(0x9000)}") == f"t:2: {message}"
    assert problem(f"{alloc()}{line}") == f"t:2: {message}"


def test_a_last_line_without_newline():
    assert read(SMALL[:-1]).events.kind[-1] == ALLOC
    assert read(SMALL + free() + f"{TASK}sched_switch: prev_comm=a").events.kind[-1] == FREE
    found = "purge_vmap_area_lazy: found num_purged=12 without a newline, expected one"
    assert problem((alloc() + purge(12))[:-1]) == f"t:2: {found}; {TORN}"
    found = "free_vmap_area_noflush: found nr_lazy_max=3276 without a newline, expected one"
    assert problem((alloc() + free())[:-2]) == f"t:2: {found}; {TORN}"


@pytest.mark.parametrize("kept", range(11, len(alloc()) - 1))
def test_a_cut_anywhere_in_an_allocation_is_seen(kept):
    torn = alloc(0x9000)[:kept]
    assert problem(alloc() + torn).startswith("t:2: ")
    assert problem(f"{alloc()}{torn}\n{alloc(0x20000)}").startswith("t:2: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "t: the file is empty, expected a trace"),
        (gzip.compress(b"", mtime=0), "t: the file is empty, expected a trace"),
        (
            b"# tracer: nop\n#\n",
            "t: 0 events in 2 lines, none of them alloc_vmap_area; enable events/vmalloc before tracing",
        ),
        (
            free().encode(),
            "t: 1 event in 1 line, none of them alloc_vmap_area; enable events/vmalloc before tracing",
        ),
        (b"\x7fELF\x02\0\0\n", "t:1: NUL in column 6, expected text; is this file a trace?"),
        (
            alloc().encode() + b"a\xff\n",
            "t:2: undecodable byte 0xff in column 2, expected UTF-8 text; is this file a trace?",
        ),
        (b"x" * 70000, "t:1: no newline within 65536 bytes, expected lines of text; is this the right file?"),
        (
            b"\x17\x08\x44tracing6\0",
            "t: a trace.dat of trace-cmd, expected text; convert it with: trace-cmd report",
        ),
    ],
)
def test_a_file_that_is_not_a_trace(text, message):
    assert problem(text) == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (alloc(size=0), "size=0, expected a multiple of the page size, 4096"),
        (alloc(size=8193), "size=8193, expected a multiple of the page size, 4096"),
        (alloc(align=0), "align=0, expected a power of two"),
        (alloc(align=3), "align=3, expected a power of two"),
        (
            alloc(0x1000, align=8192),
            "va_start 0xffffc90000001000, expected a multiple of align=8192 and of the page size, 4096",
        ),
        (alloc(0x800, 0x1800), "size=6144, expected a multiple of the page size, 4096"),
        (
            alloc(0x800),
            "va_start 0xffffc90000000800, expected a multiple of align=1 and of the page size, 4096",
        ),
        (
            alloc(-4096),
            "an area 0xffffc8fffffff000-0xffffc90000001000, expected one inside its window "
            "0xffffc90000000000-0xffffe8ffffffffff",
        ),
        (
            alloc(start=0xFFFFE8FFFFFFE000),
            "an area 0xffffe8ffffffe000-0xffffe90000000000, expected one inside "
            "its window 0xffffc90000000000-0xffffe8ffffffffff",
        ),
        (
            alloc(size=1 << 65, failed=1),
            "va_start 18446683600570023936 size=36893488147419103232 align=1, expected numbers of 64 bits",
        ),
    ],
)
def test_an_allocation_that_no_kernel_makes(line, message):
    text = alloc(0x100000, 0x3000) + line
    assert problem(text) == f"t:2: alloc_vmap_area: found {message}; {EDITED}"


@pytest.mark.parametrize(("offset", "size"), [(0x4000, 8192), (0x3000, 8192), (0x5000, 4096), (0, 0x10000)])
def test_areas_that_overlap(offset, size):
    start = START + offset
    message = problem(alloc(0, 4096) + alloc(0x4000) + alloc(0x8000) + free() + alloc(offset, size))
    assert message == (
        f"t:5: alloc_vmap_area: found {start:#x}-{start + size:#x} "
        "over 0xffffc90000004000-0xffffc90000006000 of line 2, expected a free in between; "
        "lines are missing or out of order: take the trace again"
    )


OVER = "found 0xffffc90000000000-0xffffc90000002000 over 0xffffc90000000000-0xffffc90000002000"


def test_an_overlap_by_a_free_out_of_order_names_its_line():
    assert problem(alloc(0x9000) + free() + alloc() + alloc()) == (
        f"t:4: alloc_vmap_area: {OVER} of line 3, expected a free in between; one stands at line 2, too "
        "early: sort the lines by time"
    )


def test_an_overlap_after_lost_events_says_so():
    lost = "CPU:0 [LOST 3 EVENTS]\n"
    assert problem(lost + alloc() + lost + alloc()) == (
        f"t:4: alloc_vmap_area: {OVER} of line 2, expected a free in between; events were lost at line 3: "
        "trace again with a larger buffer_size_kb"
    )


def test_neighbours_do_not_overlap():
    assert len(read(alloc(0x2000) + alloc(0x6000) + alloc(0x4000) + alloc(0)).events) == 4


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_mutation_raises_anything_but_trace_error(data):
    text = bytearray((SMALL + free(0x3000) + f"{TASK}foo: bar\n").encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        drop = data.draw(st.sampled_from([0, 0, 1, 2, 30, 200]))
        text[at : at + drop] = data.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"0x", b"-", b"\n", b"9"]))
        )
    try:
        trace = read(bytes(text))
    except TraceError:
        return
    assert len(trace.events) == len(trace.events.num_purged) > 0


LONG = 60_000


@pytest.mark.parametrize(
    "line",
    [
        f"          <idle>-0       [000] ...1{'1' * LONG}. 0.0: alloc_vmap_area: va_start: 1",
        f"          <idle>-0       [000] {'1' * LONG}: alloc_vmap_area: va_start: 1",
        f"          <idle>-0       [000] ...1. 0.0: foo: {'1' * LONG}",
        f"x-{'1' * LONG}",
        "-1 " * (LONG // 3),
        "-1 [" * (LONG // 4),
        f"{TASK} alloc_vmap_area: {' ' * LONG}va_start: x",
    ],
    ids=["flags", "time", "foreign", "pid", "tasks", "brackets", "spaces"],
)
def test_a_long_line_takes_a_time_that_grows_with_its_length(line):
    before = time.process_time()
    with suppress(TraceError):
        read(SMALL + line + "\n")
    assert time.process_time() - before < 2.0  # a quadratic search took minutes
