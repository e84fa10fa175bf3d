"""Time walks through page tables: the limits, and ratios to other tools where they are installed.

The same image, the same addresses and the same run for all. volatility3 and drgn come with the extra
``bench-peers``; without them their columns are left out. Run by ``tox run -e bench-peers``.
"""

import importlib.util
import statistics
import time

import numpy as np
import pytest

from tests.support.dumps import core
from vmcore import Kernel
from vmcore.dump import open_dump
from vmcore.linking.registry import load
from vmcore.paging.mappings import find_mappings
from vmcore.paging.mmu import Mmu
from vmcore.paging.runs import merge

PAGES = 262_144
START = 0xFFFFC90000000000
ROOT = 0x1000
SINGLE = 20_000  # addresses translated one by one
RNG = np.random.default_rng(262144)
FRAMES = RNG.permutation(PAGES).astype(np.uint64)  # frames that nothing can be merged from
ROWS = []  # (what, measured, ratio to volatility3, to drgn, limit, verdict)


def image():
    """Return 262,144 pages of 4 KiB mapped at `START`, as the bytes of physical memory from `ROOT` up."""
    last = PAGES // 512
    tables = np.zeros((3 + last, 512), np.uint64)
    tables[0, START >> 39 & 511] = 0x2067
    tables[1, 0] = 0x3067
    tables[2, :last] = 0x4067 + 0x1000 * np.arange(last, dtype=np.uint64)
    tables[3:] = (FRAMES << np.uint64(12) | np.uint64(0x163)).reshape(last, 512)
    return tables.tobytes()


def addresses(count):
    return START + RNG.integers(0, PAGES << 12, count).astype(np.uint64)


def median(job, rounds=9):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def judge(what, measured, peers, limit, ok):
    """Note a row of the final table; ``peers`` is (seconds here, at volatility3, at drgn), None: not measured."""
    here, *others = peers
    ratios = ["-" if other is None else f"{other / here:,.3g}x" for other in others]
    ROWS.append((what, measured, *ratios, limit, "ok" if ok else "TOO SLOW"))
    assert ok, f"{what}: {measured}, limit {limit}"


@pytest.fixture(scope="module", autouse=True)
def _table():
    yield
    lines = [("what", "median", "volatility3 / here", "drgn / here", "limit", ""), *ROWS]
    widths = [max(len(row[n]) for row in lines) for n in range(6)]
    print("\n")
    for row in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for name in ("volatility3", "drgn"):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed (extra bench-peers): its ratios are left out")


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    path = tmp_path_factory.mktemp("walk") / "ram.elf"
    path.write_bytes(core([(ROOT, image())]))
    return Mmu(load().get("x86_64"), open_dump(path), ROOT)


@pytest.fixture(scope="module")
def simulated():
    k = Kernel("x86_64", ram="4G")
    start = k.vmalloc(PAGES << 12)
    return Mmu(k.arch, k.memory, k.init_mm.root), start


@pytest.fixture(scope="module")
def volatility():
    """Return volatility3's layer over the image, None where it is not installed."""
    if importlib.util.find_spec("volatility3") is None:
        return None
    contexts, interfaces, intel = (
        importlib.import_module(f"volatility3.framework.{name}")
        for name in ("contexts", "interfaces", "layers.intel")
    )

    class Image(interfaces.layers.DataLayerInterface):
        """The image at its physical addresses; all memory is there."""

        data = bytes(ROOT) + image()
        minimum_address, maximum_address = 0, (1 << 52) - 1

        def is_valid(self, offset, length=1):
            return True

        def read(self, offset, length, pad=False):
            return self.data[offset : offset + length].ljust(length, b"\0")

        def write(self, offset, data):
            raise AssertionError("volatility3 was to translate, not to write")

        @classmethod
        def get_requirements(cls):
            return []

    context = contexts.Context()
    context.layers.add_layer(Image(context, "base", "base"))
    context.config["intel.memory_layer"], context.config["intel.page_map_offset"] = "base", ROOT
    layer = intel.Intel32e(context, "intel", "intel")
    context.layers.add_layer(layer)
    return layer


@pytest.fixture(scope="module")
def drgn_translate():
    """Return drgn's translation of one address in the image, None where it is not installed."""
    if importlib.util.find_spec("drgn") is None:
        return None
    drgn, internal = importlib.import_module("drgn"), importlib.import_module("_drgn")
    data = bytes(ROOT) + image()
    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    program.add_memory_segment(0, len(data), lambda _address, count, at, _physical: data[at : at + count], True)
    info = ["OSRELEASE=6.12.0", "PAGESIZE=4096", "KERNELOFFSET=0", "SYMBOL(_stext)=ffffffff81000000",
            f"SYMBOL(swapper_pg_dir)={0xFFFFFFFF80000000 + ROOT:x}", "NUMBER(phys_base)=0",
            "NUMBER(pgtable_l5_enabled)=0", ""]  # fmt: skip
    program.set_linux_kernel_custom("\n".join(info), False)
    return lambda address: internal._linux_helper_follow_phys(program, 0xFFFFFFFF80000000 + ROOT, address)


def test_enumerate(dumped, simulated, volatility):
    found = find_mappings(dumped)
    assert (found.physical >> 12).tolist() == FRAMES.tolist()
    here = median(lambda: find_mappings(dumped))
    there = None
    if volatility is not None:
        low = START & (1 << 48) - 1
        begin = time.perf_counter()
        count = sum(1 for _ in volatility.mapping(low, PAGES << 12, ignore_errors=True))
        there = time.perf_counter() - begin
        assert count > PAGES // 2
    limit = "<= 10 ms"
    judge("enumerate 262,144 mappings, dump", f"{here * 1e3:.2f} ms", (here, there, None), limit, here <= 0.01)
    m, start = simulated
    assert len(find_mappings(m, start, start + (PAGES << 12))) == PAGES
    inside = median(lambda: find_mappings(m, start, start + (PAGES << 12)))
    judge("the same, simulated RAM", f"{inside * 1e3:.2f} ms", (inside, there, None), limit, inside <= 0.01)
    both = median(lambda: merge(dumped, find_mappings(dumped)))
    judge("the same and merge, dump", f"{both * 1e3:.2f} ms", (both, there, None), "none", True)


def test_translate_in_batches(dumped, simulated):
    for what, m, start in (("dump", dumped, START), ("simulated RAM", *simulated)):
        asked = addresses(1_000_000) - np.uint64(START) + np.uint64(start)
        for count in (1_000_000, 20_000):
            batch = asked[:count]
            assert (m.translate_many(batch) >= 0).all()
            seconds = median(lambda batch=batch, m=m: m.translate_many(batch))
            rate = count / seconds
            text = f"{rate / 1e6:.1f} M/s"
            judge(f"translate {count:,} at once, {what}", text, (seconds, None, None), ">= 10 M/s", rate >= 10e6)


def test_translate_one_by_one(dumped, simulated, volatility, drgn_translate):
    asked = addresses(SINGLE).tolist()
    expected = [int(FRAMES[a - START >> 12]) << 12 | a & 0xFFF for a in asked]
    assert [dumped.translate(a) for a in asked] == expected
    seconds = median(lambda: [dumped.translate(a) for a in asked])
    others = []
    for peer in (None if volatility is None else lambda a: volatility.translate(a)[0], drgn_translate):
        if peer is None:
            others.append(None)
            continue
        assert [peer(a) for a in asked[:100]] == expected[:100]
        others.append(median(lambda peer=peer: [peer(a) for a in asked], 3))
    limit = ">= 300 k/s"
    rate = SINGLE / seconds
    judge("translate one address, dump", f"{rate / 1e3:.0f} k/s", (seconds, *others), limit, rate >= 300e3)
    m, start = simulated
    moved = [a - START + start for a in asked]
    inside = median(lambda: [m.translate(a) for a in moved])
    rate = SINGLE / inside
    judge("the same, simulated RAM", f"{rate / 1e3:.0f} k/s", (inside, *others), limit, rate >= 300e3)
    batch = np.array(asked, np.uint64)
    assert dumped.translate_many(batch).tolist() == expected
    many = median(lambda: dumped.translate_many(batch))
    text = f"{many * 1e3:.2f} ms"
    judge(f"the same {SINGLE:,} addresses at once, dump", text, (many, *others), "none", True)
