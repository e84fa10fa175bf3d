"""Time the port, as a ratio to the compiled C where it is at hand; judge against the limits.

``VMCORE_ORACLE`` names the folder of the compiled C. Without it, the ratios are left out and only the limits
that need none are judged. Run by ``tox run -e bench``; the ordinary tests leave this out.
"""

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmcore import Kernel, flags
from vmcore.replay import replay
from vmcore.samples import open_sample
from vmcore.texts.trace import read_trace

ORACLE = os.environ.get("VMCORE_ORACLE")
PAIR = re.compile(r"bench vmalloc\+vfree \d+ pages: ([\d.]+) ns per pair")
AREA = re.compile(r"\(shuffled list\): get ([\d.]+) ns \(min [\d.]+\), free_vm_area of the last ([\d.]+) ns")
REPLAY = ("replay", "sample:test_vmalloc-x86_64", "--arch", "x86_64", "--json")
PEAK = """\
import resource, sys
from vmcore.cli import main
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""
ROWS = []  # (what, measured, ratio to C, limit, verdict)
MEDIANS = {}  # live areas -> seconds of a pair


def oracle_ns(pattern, *arguments):
    """Run the compiled C's benchmark now and return the nanoseconds it names, summed; None without it."""
    if not ORACLE:
        return None
    command = [Path(ORACLE) / "oracle-x86_64", "--physpages", "300000", "bench", *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sum(map(float, pattern.search(output).groups()))


def judge(what, measured, ratio, limit, value):
    """Note a row of the final table; ``value`` is what the limit is about, None: it cannot be judged."""
    verdict = "not judged" if value is None else "ok" if value <= limit[1] else "TOO SLOW"
    ROWS.append((what, measured, "-" if ratio is None else f"{ratio:,.3g}x", limit[0], verdict))
    assert verdict != "TOO SLOW", f"{what}: {measured}, {value:,.4g}, limit {limit[0]}"


def microseconds(seconds):
    return f"{seconds * 1e6:,.2f} us"


@pytest.fixture(scope="module", autouse=True)
def _table():
    yield
    lines = [("what", "median", "ratio to C", "limit", ""), *ROWS]
    widths = [max(len(row[n]) for row in lines) for n in range(5)]
    print("\n")
    for row in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not ORACLE:
        print("VMCORE_ORACLE is not set: the ratios to the compiled C are left out")


@pytest.mark.parametrize(("pages", "limit", "rounds"), [(1, 900, 2000), (512, 40, 500), (262_144, 1, 15)])
def test_vmalloc_and_vfree(benchmark, pages, limit, rounds):
    k = Kernel("x86_64", ram="4G")

    def pair():
        k.vfree(k.vmalloc(pages << 12))

    benchmark.pedantic(pair, rounds=rounds, iterations=1, warmup_rounds=3)
    median = benchmark.stats.stats.median
    c = oracle_ns(PAIR, "vmalloc", pages)
    ratio = median * 1e9 / c if c else None
    judge(f"vmalloc+vfree, {pages:,} pages", microseconds(median), ratio, (f"<= {limit}x", limit), ratio)


@pytest.mark.parametrize(("live", "limit"), [(1_000, None), (10_000, 0.7), (100_000, 0.01)])
def test_get_vm_area_behind_many(benchmark, live, limit):
    k = Kernel("x86_64", ram="4G")
    for _ in range(live):
        k.get_vm_area(4096, int(flags.VM.ALLOC))

    def pair():
        k.free_vm_area(k.get_vm_area(4096, int(flags.VM.ALLOC)))

    benchmark.pedantic(pair, rounds=2000, iterations=1, warmup_rounds=10)
    MEDIANS[live] = median = benchmark.stats.stats.median
    c = oracle_ns(AREA, "getarea", live) if limit else None
    ratio = median * 1e9 / c if c else None
    text = f"<= {limit}x" if limit else "none"
    judge(f"get_vm_area+free_vm_area, {live:,} live", microseconds(median), ratio, (text, limit), ratio)


def test_growth_with_the_number_of_areas():
    if {1_000, 100_000} - MEDIANS.keys():
        pytest.skip("the pairs with 1,000 and 100,000 live areas were not timed in this run")
    growth = MEDIANS[100_000] / MEDIANS[1_000]
    judge("the same, 100,000 / 1,000 live", f"{growth:.2f}", None, ("<= 2", 2), growth)


def test_replay_rate():
    with open_sample("test_vmalloc-x86_64") as stream:
        trace = read_trace(stream, "test_vmalloc-x86_64")
    rates = [replay(trace, Kernel("x86_64", ram="4G")).rate for _ in range(3)]
    rate = statistics.median(rates)
    judge("replay of test_vmalloc-x86_64", f"{rate:,.0f}/s", None, (">= 20,000/s", 1), 20_000 / rate)


def test_help_starts_fast():
    times = []
    for _ in range(9):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "vmcore", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    judge("vmcore --help", f"{median:.3f} s", None, ("<= 0.3 s", 0.3), median)


def test_peak_memory_of_a_replay():
    done = subprocess.run([sys.executable, "-c", PEAK, *REPLAY], check=True, capture_output=True, text=True)
    mib = int(done.stderr.split()[-1]) / 1024
    judge("replay, peak memory", f"{mib:,.0f} MiB", None, ("<= 300 MiB", 300), mib)
