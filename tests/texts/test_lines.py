"""Lines from paths, streams and stdin, plain and compressed, whole and damaged."""

import bz2
import contextlib
import gzip
import io
import lzma
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcore.errors import TraceError
from vmcore.texts.lines import read_lines, source_name

LINES = [b"# first\n", b"second\n", b"last, without newline"]
TEXT = b"".join(LINES)


def lines_of(data):
    return list(read_lines(io.BytesIO(data), "t"))


def problem(data):
    with pytest.raises(TraceError) as error:
        lines_of(data)
    return str(error.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_compression_is_recognised_by_content(tmp_path, pack):
    path = tmp_path / "trace.txt"
    path.write_bytes(pack(TEXT))
    for source in (path, str(path), io.BytesIO(path.read_bytes())):
        assert list(read_lines(source, "t")) == LINES


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_two_compressed_files_one_behind_the_other(pack):
    assert lines_of(pack(LINES[0]) + pack(LINES[1] + LINES[2])) == LINES


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_a_stream_is_left_open(pack):
    stream = io.BytesIO(pack(TEXT))
    assert list(read_lines(stream, "t")) == LINES
    assert not stream.closed


def test_stdin():
    program = "from vmcore.texts.lines import read_lines; print(list(read_lines('-', 't')))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=lzma.compress(TEXT), capture_output=True, check=True)
    assert done.stdout.decode() == f"{LINES}\n"


def test_names_of_sources(tmp_path):
    path = tmp_path / "a"
    path.touch()
    with path.open("rb") as stream:
        names = [source_name(source) for source in ("-", path, "b", stream, io.BytesIO())]
    assert names == ["<stdin>", str(path), "b", str(path), "<stream>"]


def test_the_shortest_texts():
    assert lines_of(b"") == []
    assert lines_of(gzip.compress(b"")) == []
    assert lines_of(b"\n") == [b"\n"]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
@pytest.mark.parametrize("part", [0.2, 0.9, 0.9999])
def test_a_compressed_file_that_ends_early(pack, part):
    packed = pack(b"".join(b"line %d\n" % n for n in range(100000)))
    expected = "the compressed file ends early, expected its end marker; copy it again"
    assert problem(packed[: int(len(packed) * part)]).endswith(f": {expected}")


def test_a_compressed_file_with_a_changed_checksum():
    packed = gzip.compress(TEXT)
    message = problem(packed[:-8] + b"\0\0\0\0" + packed[-4:])
    assert message.startswith("t: damaged compression (")
    assert message.endswith("incorrect data check), expected a whole file; copy it again")


def test_a_damaged_xz_file():
    packed = bytearray(lzma.compress(TEXT))
    packed[8] ^= 0xFF
    expected = "expected a whole file; copy it again"
    assert problem(bytes(packed)) == f"t: damaged compression (Corrupt input data), {expected}"


def test_a_file_that_cannot_be_opened(tmp_path):
    for path, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(TraceError) as error:
            list(read_lines(path, "t"))
        assert str(error.value) == f"t: cannot be read: {reason}"


def test_no_text_at_all():
    expected = "no newline within 65536 bytes, expected lines of text; is this the right file?"
    assert problem(b"\n" + b"x" * 70000) == f"t:2: {expected}"
    assert lines_of(b"x" * 65535 + b"\n") == [b"x" * 65535 + b"\n"]
    expected = "a trace.dat of trace-cmd, expected text; convert it with: trace-cmd report"
    assert problem(b"\x17\x08\x44tracing6\0") == f"t: {expected}"


@pytest.mark.parametrize(
    ("data", "compression", "program"),
    [
        (bz2.compress(TEXT), "bzip2", "bzip2 -dc"),
        (bz2.compress(b""), "bzip2", "bzip2 -dc"),
        (b"\x28\xb5\x2f\xfd\x04\x58" + TEXT, "Zstandard", "zstd -dc"),
    ],
)
def test_other_compressions_are_named(data, compression, program):
    expected = f"t: compressed by {compression}, expected text, gzip or xz; unpack it first: {program}"
    assert problem(data) == expected


@given(st.data())
def test_no_mutation_of_compressed_text_raises_anything_but_trace_error(data):
    packed = bytearray(data.draw(st.sampled_from([gzip.compress(TEXT), lzma.compress(TEXT)])))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    with contextlib.suppress(TraceError):
        lines_of(bytes(packed))
