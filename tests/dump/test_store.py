"""Dumps: what every format gives, what a sparse one lacks, what damaged ones say."""

import gzip
import hashlib
import lzma
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.dumps import RECORDS, capture, core, ehdr, lime, note, phdr
from vmcore.dump import open_dump
from vmcore.dump import store as dump_module
from vmcore.dump.mapped_file import map_file
from vmcore.errors import DumpError, NotInDump
from vmcore.paging.mmu import Mmu
from vmcore.units import Bank

PAGE = 0x1000
RNG = np.random.default_rng(20)
LOW, HIGH = RNG.bytes(2 * PAGE), RNG.bytes(3 * PAGE)
SEGMENTS = [(0x10000, LOW), (0x40000, HIGH)]
BANKS = [Bank(0x10000, 0x12000), Bank(0x40000, 0x43000)]
FLAT = LOW + bytes(0x2E000) + HIGH


@pytest.mark.parametrize(
    ("data", "options"),
    [
        pytest.param(core(SEGMENTS), {}, id="elf64"),
        pytest.param(core(SEGMENTS, kind=1, machine=3), {}, id="elf32"),
        pytest.param(core(SEGMENTS, skew=3), {}, id="elf64 at odd offsets"),
        pytest.param(core(SEGMENTS[::-1]), {}, id="segments in falling order"),
        pytest.param(lime(SEGMENTS), {}, id="lime"),
        pytest.param(LOW + HIGH, {"banks": BANKS}, id="raw, banks one after the other"),
        pytest.param(FLAT, {"banks": BANKS, "base": 0x10000, "format": "flat"}, id="raw with holes"),
        pytest.param(gzip.compress(core(SEGMENTS)), {}, id="gzip"),
        pytest.param(lzma.compress(lime(SEGMENTS)), {}, id="xz"),
        pytest.param(lzma.compress(LOW) + lzma.compress(HIGH), {"banks": BANKS}, id="two xz streams"),
    ],
)
def test_every_format_gives_the_same_memory(opened, data, options):
    with opened(data, **options) as dump:
        assert dump.problems == ()
        assert dump.banks == tuple(BANKS)
        assert dump.size == 5 * PAGE
        assert dump.read(0x10000, 2 * PAGE) == LOW
        assert dump.read(0x40FFF, 3) == HIGH[0xFFF:0x1002]
        for size in (4, 8):
            at = np.array([0x10000, 0x11FF8, 0x12000, 0x42FF8, 0x3FFF8, 0, 1 << 60, -8, 0x43000])
            words, there = dump.words(at, size)
            place = [LOW[:size], LOW[0x1FF8:][:size], None, HIGH[0x2FF8:][:size], None, None, None, None, None]
            expected = [int.from_bytes(x or b"", "little") for x in place]
            assert words.tolist() == expected
            assert words.dtype == np.dtype(f"u{size}")
            assert there.tolist() == [x is not None for x in place]
            assert [dump.word(int(a), size) for a in at] == [
                w if x is not None else None for w, x in zip(expected, place, strict=True)
            ]
        rows, there = dump.rows(np.array([0x11000, 0x12000, 0x42000]), PAGE, 8)
        assert there.tolist() == [True, False, True]
        assert rows.shape == (3, 512)
        assert rows[0].tobytes() == LOW[PAGE:]
        assert not rows[1].any()
        assert rows[2].tobytes() == HIGH[2 * PAGE :]


def test_a_plain_raw_image_needs_only_its_base(opened):
    with opened(LOW, base=0x80000000) as dump:
        assert dump.banks == (Bank(0x80000000, 0x80002000),)
        assert dump.word(0x80000008, 8) == int.from_bytes(LOW[8:16], "little")


def test_reading_what_is_missing_names_the_first_address(opened):
    with opened(core(SEGMENTS)) as dump:
        with pytest.raises(NotInDump, match="physical address 0x12000 is not in the dump") as caught:
            dump.read(0x11000, 2 * PAGE)
        assert caught.value.address == 0x12000
        data, missing = dump.read_partial(0x11000, 0x30000)
        assert missing == (Bank(0x12000, 0x40000),)
        assert data == LOW[PAGE:] + bytes(0x2E000) + HIGH[:PAGE]
        assert dump.read_partial(0, 16) == (bytes(16), (Bank(0, 16),))
        assert dump.read_partial(0x43000, 16) == (bytes(16), (Bank(0x43000, 0x43010),))


@pytest.mark.parametrize("name", RECORDS)
def test_captures_read_as_qemu_read_the_machine(name, registry):
    found = capture(name)
    arch = registry.architectures.get(RECORDS[name])
    if arch is None:
        pytest.skip(f"no plugin for {RECORDS[name]} is installed")
    with open_dump(found.core) as dump:
        assert dump.problems == ()
        assert dump.machine == found.meta["ram_elf"]["e_machine"]
        assert dump.size == found.meta["ram_elf"]["pages"] * PAGE
        mmu = Mmu(arch, dump, found.root)
        assert [(v, mmu.translate(v)) for v, _ in found.rows()] == found.rows()
        for sample in found.meta["content"]:
            pages = [dump.read(int(p, 16), PAGE) for p in sample["pages_phys"]]
            assert hashlib.sha256(b"".join(pages)).hexdigest() == sample["sha256"]


@pytest.mark.parametrize(("size", "cut"), [(4, 0x1002), (8, 0x1004), (8, 0x1001)])
def test_words_on_both_sides_of_a_seam_are_joined(opened, size, cut):
    data, tail = bytes(range(1, 17)), b"\xaa" * 5
    end = 0x1010 + len(tail)
    segments = [(0x1000, data[: cut - 0x1000]), (cut, data[cut - 0x1000 :]), (0x1010, tail)]
    with opened(core(segments)) as dump:
        at = np.array([0x1000, 0x1008, end & -size, end + 3 & -size, 0x2000, 0xFF8])
        first, second = (int.from_bytes(data[x : x + size], "little") for x in (0, 8))
        last = int.from_bytes(tail[:4], "little") if size == 4 else None
        expected = [first, second, None, None, None, None]
        words, there = dump.words(at, size)
        assert words.tolist() == [x or 0 for x in expected]
        assert there.tolist() == [x is not None for x in expected]
        assert [dump.word(int(a), size) for a in at] == expected
        assert dump.word(0x1010, size) == last
        assert dump.rows(np.array([0x1000]), 16, size)[0].tobytes() == data


def test_text_is_found_across_the_pieces_it_is_searched_in(opened, monkeypatch):
    monkeypatch.setattr(dump_module, "_CHUNK", 16)
    data = bytearray(256)
    for at in (3, 10, 14, 30, 61, 252):
        data[at : at + 4] = b"text"
    with opened(core([(0x1000, bytes(data)), (0x1100, b"text"), (0x5000, b"..text")])) as dump:
        assert list(dump.find(b"text", 1 << 20)) == [
            0x1003,
            0x100A,
            0x100E,
            0x101E,
            0x103D,
            0x10FC,
            0x1100,
            0x5002,
        ]
        assert list(dump.find(b"text", 0x20)) == [0x1003, 0x100A, 0x100E, 0x101E]
        assert list(dump.find(b"text", 0x105)) == [0x1003, 0x100A, 0x100E, 0x101E, 0x103D, 0x10FC, 0x1100]


# ---- what a file may say


def test_memory_beyond_p_filesz_is_not_in_the_dump(opened):
    head = ehdr(2, 1) + phdr(2, 1, 120, 0x1000, PAGE, 4 * PAGE)
    with opened(head + LOW[:PAGE]) as dump:
        assert dump.problems == ()
        assert dump.banks == (Bank(0x1000, 0x2000),)
        assert dump.word(0x2000, 8) is None


def test_segments_with_the_same_bytes_may_overlap_as_in_proc_vmcore(opened):
    with opened(core([(0x11000, LOW[PAGE:]), (0x10000, LOW)])) as dump:
        assert dump.problems == ()
        assert dump.read(0x10000, 2 * PAGE) == LOW


def test_segments_with_different_bytes_for_one_address_are_told(opened):
    with opened(core([(0x10000, LOW), (0x11000, HIGH)])) as dump:
        assert dump.read(0x10000, 4 * PAGE) == LOW + HIGH[PAGE:]
        assert dump.problems == (
            "physical 0x11000-0x12000 is in two segments with different bytes; those at file offset 0x10b0 "
            "are used, those at 0x20b0 are not",
        )


def test_virtual_segments_of_proc_kcore_are_no_memory(opened):
    head = ehdr(2, 2) + phdr(2, 1, 176, (1 << 64) - 1, PAGE) + phdr(2, 1, 176, 0x5000, PAGE)
    with opened(head + LOW) as dump:
        assert (dump.banks, dump.problems) == ((Bank(0x5000, 0x6000),), ())


def test_a_file_that_was_cut_is_a_partial_dump(opened):
    data = core(SEGMENTS)
    with opened(data[:-PAGE]) as dump:
        assert dump.problems == (
            "the segment of 0x3000 bytes for physical address 0x40000 at file offset 0x20b0 runs past the end of "
            "the file, 0x40b0; what is missing is not in the dump",
        )
        assert dump.banks[1] == Bank(0x40000, 0x42000)
    with opened(data[: -3 * PAGE]) as dump:
        assert "begins beyond the end of the file, 0x20b0; it is left out" in dump.problems[0]
        assert dump.banks == (BANKS[0],)
    with opened(data[: -2 * PAGE - 5]) as dump:  # in the middle of a word
        assert dump.word(0x40FF0, 8) is not None
        assert dump.word(0x40FF8, 8) is None
        assert dump.words(np.array([0x40FF0, 0x40FF8]), 8)[1].tolist() == [True, False]
        assert dump.words(np.array([0x40FF4, 0x40FF8]), 4)[1].tolist() == [True, False]
        assert dump.rows(np.array([0x40000]), PAGE, 8)[1].tolist() == [False]


def test_absurd_sizes_and_addresses_are_told_and_cost_nothing(opened):
    head = ehdr(2, 4) + phdr(2, 1, 288, 0x1000, 1 << 60) + phdr(2, 1, 288, 1 << 63, PAGE)
    head += phdr(2, 1, 1 << 61, 0, 1 << 61) + phdr(2, 1, 288, 0x40000, PAGE)
    with opened(head + LOW) as dump:
        segment = "the segment of {:#x} bytes for physical address {:#x} at file offset {:#x} "
        assert dump.problems == (
            segment.format(PAGE, 1 << 63, 0x120) + "is at an address no machine has; it is left out",
            segment.format(1 << 61, 0, 1 << 61) + "begins beyond the end of the file, 0x2120; it is left out",
            segment.format(1 << 60, 0x1000, 0x120)
            + "runs past the end of the file, 0x2120; what is missing is not in the dump",
            "the bytes at file offset 0x120 stand for physical 0x40000 and for another address too; one of the "
            "segment headers is damaged",
        )
        assert dump.banks == (Bank(0x1000, 0x3000), Bank(0x40000, 0x41000))


def test_more_headers_than_the_file_holds(opened):
    head = ehdr(2, 0xFFFE) + phdr(2, 1, 120, 0x1000, PAGE)
    with opened(head + LOW) as dump:
        assert dump.problems[0] == (
            "0xfffe program headers at file offset 0x40, but the file ends after 0x93 of them"
        )


def test_a_header_count_beyond_e_phnum_is_in_the_first_section_header(opened):
    section = bytes(44) + struct.pack("<I", 1) + bytes(16)
    data = ehdr(2, 0xFFFF, shoff=120) + phdr(2, 1, 184, 0x1000, PAGE) + section + LOW[:PAGE]
    with opened(data) as dump:
        assert dump.read(0x1000, PAGE) == LOW[:PAGE]
    with pytest.raises(DumpError, match="found no section header"):
        opened(ehdr(2, 0xFFFF) + LOW)


def test_notes_are_read_and_damaged_ones_told(opened):
    good = note("CORE", 1, b"abcde") + note("VMCOREINFO", 0, b"OSRELEASE=6\n")
    with opened(core(SEGMENTS, good)) as dump:
        assert [tuple(n) for n in dump.notes] == [("CORE", 1, b"abcde"), ("VMCOREINFO", 0, b"OSRELEASE=6\n")]
    with opened(core(SEGMENTS, good + struct.pack("<III", 4, 1 << 30, 0))) as dump:
        assert len(dump.notes) == 2
        assert dump.problems == ("the note at file offset 0x128 is larger than its segment",)
    with opened(core(SEGMENTS, good + bytes(100))) as dump:  # as the kernel pads them
        assert (len(dump.notes), dump.problems) == (2, ())
    with opened(core(SEGMENTS, struct.pack("<III", 0, 0, 1) * 0x5000)) as dump:
        assert len(dump.notes) == 0x4000
        assert dump.problems == ("more than 0x4000 notes; those from file offset 0x300e8 are left out",)


def test_rows_may_cross_from_one_segment_to_the_next(opened):
    with opened(core([(0x10000, LOW[:0xC00]), (0x10C00, LOW[0xC00:])], skew=8)) as joined:
        assert joined.banks == (Bank(0x10000, 0x12000),)
    data = ehdr(2, 2) + phdr(2, 1, 176 + 0x1400, 0x10000, 0xC00) + phdr(2, 1, 176, 0x10C00, 0x1400)
    with opened(data + LOW[0xC00:] + LOW[:0xC00]) as dump:
        assert len(dump.runs.starts) == 2
        rows, there = dump.rows(np.array([0x10000, 0x11000, 0x12000]), PAGE, 4)
        assert there.tolist() == [True, True, False]
        assert rows.tobytes() == LOW + bytes(PAGE)
        assert dump.words(np.array([0x10BF8, 0x10C00]), 8)[0].tobytes() == LOW[0xBF8:0xC08]


def test_the_other_banks_of_a_short_raw_image_are_told(opened):
    with opened(LOW + HIGH[:PAGE], banks=BANKS) as dump:
        assert "runs past the end of the file, 0x3000" in dump.problems[0]
        assert dump.banks == (BANKS[0], Bank(0x40000, 0x41000))
    with opened(LOW + HIGH + LOW, banks=BANKS) as dump:
        assert dump.problems == ("the file has 0x7000 bytes, the banks only 0x5000; the rest is left out",)


def test_a_lime_file_that_was_cut_or_damaged(opened):
    data = lime(SEGMENTS)
    with opened(data[:-PAGE]) as dump:
        assert dump.banks[1] == Bank(0x40000, 0x42000)
        assert "runs past the end of the file" in dump.problems[0]
    with opened(data + b"EMiL") as dump:
        assert dump.problems == (
            "file offset 0x5040: only 0x4 bytes are left, expected a LiME header; what follows is left out",
        )
    damaged = bytearray(data)
    damaged[32 + 2 * PAGE + 4] = 9
    with opened(damaged) as dump:
        assert dump.banks == (BANKS[0],)
        assert "magic b'EMiL', version 9" in dump.problems[0]
    with pytest.raises(DumpError, match="a range 0x2000-0x1000, expected a LiME header"):
        opened(struct.pack("<IIQQQ", 0x4C694D45, 1, 0x2000, 0x1000, 0) + LOW)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_cut_compression_is_a_partial_dump_that_says_so(opened, pack):
    big = RNG.bytes(4 << 20)
    packed = pack(core([(0x100000, big)]))
    with opened(packed[: len(packed) * 3 // 4]) as dump:
        assert "the compression is damaged or cut after 0x" in dump.problems[0]
        assert 1 << 20 <= dump.size < 4 << 20
        assert dump.read(0x100000, dump.size) == big[: dump.size]
    with pytest.raises(DumpError, match="damaged or cut after 0x0 bytes"):
        opened(packed[:20])


def test_unpacking_keeps_holes_and_has_a_limit(tmp_path):
    path = tmp_path / "zeros.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
        file.write(b"end")
    mapped, problems = map_file(str(path))
    assert (len(mapped), mapped[-3:], problems) == ((64 << 20) + 3, b"end", ())
    mapped.close()
    with pytest.raises(DumpError, match="found more than 32 MiB when unpacked"):
        map_file(str(path), 32 << 20)


# ---- what is refused

BIG = ehdr(2, 1, order=2)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"", {}, "offset 0x0: found an empty file"),
        (BIG, {}, "offset 0x5: found a big-endian ELF file"),
        (ehdr(2, 1, of_type=2) + LOW, {}, "found ELF type 2, expected 4, a core; give the memory dump"),
        (ehdr(2, 1, entsize=57) + LOW, {}, "found e_phentsize 0x39, expected 0x38"),
        (ehdr(2, 0) + LOW, {}, "offset 0x40: found no program header"),
        (ehdr(2, 1, phoff=1 << 60) + LOW, {}, "offset 0x1000000000000000: found no program header"),
        (ehdr(3, 1) + LOW, {}, "found ELF class 03, byte order 01"),
        (ehdr(2, 1)[:40], {}, "offset 0x28: found the end of the file, expected an ELF header"),
        (b"\x7fELF", {}, "found ELF class none, byte order none"),
        (ehdr(2, 1) + phdr(2, 1, 120, 0, 0) + LOW, {}, "found no memory"),
        (core([(0, LOW), (0, HIGH)]), {}, "no physical address in any segment, expected the core of a machine"),
        (b"KDUMP   " + LOW, {}, "a compressed kdump file, .*makedumpfile -E"),
        (b"DISKDUMP" + LOW, {}, "a diskdump file, .*makedumpfile -E"),
        (b"makedumpfile\0" + LOW, {}, "a flattened makedumpfile file, .*makedumpfile -R"),
        (b"\xd2\xbe\xd2\xbe" + LOW, {}, "a VMware snapshot state, .*vmem"),
        (b"LVMA" + LOW, {}, "a compressed AVML file, .*avml-convert"),
        (b"\x28\xb5\x2f\xfd" + LOW, {}, "found Zstandard data, .*zstd -dc"),
        (b"unknown!" + LOW, {}, r"first bytes 75 6e 6b 6e .*--base, --bank.*say where it belongs"),
        (LOW, {"format": "elf"}, "offset 0x0: found magic b.*expected b'.*ELF' of the elf format"),
        (LOW, {"format": "rwa"}, "found format 'rwa', expected one of elf, lime, raw, flat"),
        (core(SEGMENTS), {"format": "elf", "base": 5}, "found a base or banks for the elf format"),
        (LOW, {"base": 1, "banks": BANKS}, "found base 0x1 beside banks"),
        (LOW, {"banks": BANKS[::-1]}, "banks in address order"),
        (LOW, {"banks": []}, "found no bank"),
        (LOW, {"banks": [Bank(5, 5)]}, "found bank 0x5-0x5, expected one that is not empty"),
        (LOW, {"banks": BANKS, "base": 0x20000, "format": "flat"}, "starts at base 0x20000 or above"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_what_to_do(opened, data, options, message):
    with pytest.raises(DumpError, match=message) as caught:
        opened(data, **options)
    assert "dump: found " in str(caught.value) or "dump, offset 0x" in str(caught.value)


def test_no_such_file_and_a_directory(tmp_path):
    with pytest.raises(
        DumpError, match=r"found nothing that can be read \(No such file or directory\), expected a file of RAM"
    ):
        open_dump(tmp_path / "none")
    with pytest.raises(DumpError, match=r"found nothing that can be read \(Is a directory\)"):
        open_dump(tmp_path)


def test_a_closed_dump_gives_its_file_back(tmp_path):
    path = tmp_path / "dump"
    path.write_bytes(core(SEGMENTS))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with open_dump(path) as dump:
            dump.words(np.array([0x10000]), 8)
            dump.rows(np.array([0x10000]), PAGE, 8)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ValueError, match="closed"):
        dump.word(0x10000, 8)


# ---- any runs


@st.composite
def runs(draw):
    """Draw segments that do not overlap, at addresses and of sizes of some granularity."""
    unit = draw(st.sampled_from([1, 2, 4, 8, 0x400, PAGE]))
    parts = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3 * PAGE // unit)), min_size=1, max_size=6))
    at, out = draw(st.integers(0, 40)) * unit, []
    for gap, length in parts:
        at += gap * unit
        out.append((at, length * unit))
        at += length * unit
    return out


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_words_and_rows_are_those_of_a_plain_array(opened, data):
    places = data.draw(runs())
    end = places[-1][0] + places[-1][1]
    memory = np.frombuffer(np.random.default_rng(end).bytes(end + 2 * PAGE), np.uint8).copy()
    there = np.zeros(len(memory), bool)
    for start, length in places:
        there[start : start + length] = True
    segments = data.draw(st.permutations([(s, memory[s : s + n].tobytes()) for s, n in places]))
    with opened(core(segments, skew=data.draw(st.integers(0, 9)))) as dump:
        assert dump.problems == ()
        for size in (4, 8):
            at = np.arange(0, end + PAGE, size)
            inside = there[at[:, None] + np.arange(size)].all(axis=1)
            words, found = dump.words(at, size)
            # a word across two runs that are apart in the file may be missing, no other
            assert not (found & ~inside).any()
            lost = inside & ~found
            assert all(any(s % size and a < s < a + size for s, _ in places) for a in at[lost].tolist())
            expected = memory[at[:, None] + np.arange(size)].copy().view(f"u{size}").ravel()
            assert (words == np.where(found, expected, 0)).all()
            for a, w, f in zip(at[:99].tolist(), words[:99].tolist(), found[:99].tolist(), strict=True):
                assert dump.word(a, size) == (w if f else None)
        starts = np.arange(0, end, PAGE)
        rows, found = dump.rows(starts, PAGE, 4)
        inside = there[starts[:, None] + np.arange(PAGE)].all(axis=1)
        assert (found == inside).all()
        pages = memory[starts[:, None] + np.arange(PAGE)]
        assert rows.tobytes() == np.where(found[:, None], pages, 0).astype(np.uint8).tobytes()


# ---- costs

_OPEN = """
import sys, time
import numpy as np
from vmcore.dump import store as dump_module
from vmcore.dump import open_dump
open_dump(sys.argv[1], base=0).close()  # imports, page cache of the header
start = time.perf_counter()
dump = open_dump(sys.argv[1], base=0x80000000)
took = time.perf_counter() - start
words, there = dump.words(np.arange(0x80000000, 0x80000000 + (4 << 30), 1 << 20), 8)
assert there.all() and words[-1] == 0 and dump.size == 4 << 30
assert dump.word(0x80000000 + (4 << 30) - 8, 8) == 7
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(took, status["VmHWM"].split()[0])  # the most there ever was, KiB; ru_maxrss begins with the parent's
"""


def test_a_large_raw_image_opens_at_once_and_is_not_read_whole(tmp_path):
    path = tmp_path / "raw"
    with path.open("wb") as file:
        file.truncate(4 << 30)
        file.seek((4 << 30) - 8)
        file.write(b"\7")
    command = [sys.executable, "-c", _OPEN, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    assert float(out[0]) <= 0.05
    assert int(out[1]) <= 100 << 10
