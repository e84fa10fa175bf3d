"""Small files that would become large jobs end soon, in little memory, with a line that says why.

Each command runs alone, under a limit of its address space and of its processor time. Peak memory is
what the host counted for it.
"""

import gzip
import json
import lzma
import resource
import struct
import subprocess
import sys
import zlib

import pytest

from tests.support.golden_scripts import first, scripts

MEMORY = 300 << 20  #: bytes that may be resident
SECONDS = 20  #: of processor time; 10 on an idle machine, and CI machines are slow
ROOM = 8 << 30  #: bytes of address space: numpy, and files that are mapped
BOMB = 32 << 20  #: bytes that a packed text becomes, four times as many as any text may

_RUN = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stdout[-2000:], done.stderr[-2000:], used.ru_maxrss << 10, used.ru_utime]))
"""


def run(*args, module="vmcore", room=ROOM):
    """Run a command alone; return its exit status, stdout and stderr, checked for memory and time."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        resource.setrlimit(resource.RLIMIT_CPU, (2 * SECONDS, 2 * SECONDS))

    command = [sys.executable, "-c", _RUN, sys.executable, "-m", module, *map(str, args)]
    done = subprocess.run(command, capture_output=True, preexec_fn=limit, check=True)
    code, out, err, memory, seconds = json.loads(done.stdout)
    assert memory < MEMORY, f"{memory >> 20} MiB"
    assert seconds < SECONDS
    assert "Traceback" not in err
    return code, out, err


def repeated(pack, piece, size):
    """Return equal pieces of about so many bytes together, packed without holding them."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31) if pack is gzip else lzma.LZMACompressor(preset=0)
    block = piece * ((1 << 20) // len(piece))
    parts = [packer.compress(block) for _ in range(size >> 20)]
    return b"".join([*parts, packer.flush()])


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    """Return how to get the path of a packed bomb, made once."""
    folder, made = tmp_path_factory.mktemp("bombs"), {}

    def bomb(pack, piece, size=BOMB):
        key = pack, piece, size
        if key not in made:
            made[key] = folder / f"{len(made)}.txt"
            made[key].write_bytes(repeated(pack, piece, size))
        return made[key]

    return bomb


@pytest.mark.parametrize(
    ("pack", "piece"),
    [(gzip, b"\n"), (lzma, b"#\n"), (gzip, b"x-1 1: a: b\n")],
    ids=["empty", "comments", "events"],
)
def test_trace(bombs, pack, piece):
    code, _, err = run("replay", bombs(pack, piece), "--arch", "i386")
    assert code == 2
    assert "expected" in err


def test_trace_of_empty_lines_that_is_not_packed(tmp_path):
    path = tmp_path / "trace"
    path.write_bytes(b"\n" * (1 << 19))
    code, _, err = run("replay", path, "--arch", "i386")
    assert code == 2
    assert "found 262,144 lines that are empty, comments or stack traces and 0 events" in err


@pytest.mark.parametrize("pack", [gzip, lzma], ids=["gzip", "xz"])
def test_vmallocinfo(bombs, pack):
    areas = bombs(pack, b"0xf7ffe000-0xf8000000    8192 a+0x1/0x2 vmap\n")
    code, _, err = run("audit", "sample:i386-pae-ram", "--vmallocinfo", areas)
    assert code == 2
    assert "more than 128 times as large" in err


def test_addresses(bombs):
    code, _, err = run("walk", "sample:i386-pae-ram", "--addresses", bombs(lzma, b"0xc0000000\n"))
    assert code == 2
    assert "more than 128 times as large" in err


@pytest.mark.parametrize(("pack", "piece"), [(lzma, b"["), (gzip, b"\n")], ids=["nested", "empty"])
def test_golden_bundle(bombs, pack, piece):
    code, _, err = run(bombs(pack, piece), module="vmcore.golden")
    assert code == 2
    assert "expected" in err or "golden bundle?" in err


def test_golden_bundle_of_one_endless_script(tmp_path):
    path = tmp_path / "bundle"
    header = json.dumps(first(lambda op: op["op"].startswith("vmalloc 0x"))[0])
    path.write_text(f"{header}\n" + '{"op": "x"}\n' * (1 << 20))
    code, _, err = run(path, module="vmcore.golden")
    assert code == 2
    assert "a script of more than 8 MiB, expected a header before" in err


def test_golden_bundle_that_is_nested_deeply(tmp_path):
    path = tmp_path / "bundle"
    path.write_text("[" * 100_000 + "\n")
    code, _, err = run(path, module="vmcore.golden")
    assert (code, "not JSON" in err) == (2, True)


@pytest.mark.parametrize(
    "ops",
    [
        ["vwrite {start} 0x100000000 1"],
        ["vread {start} 0x100000000"],
        ["vmap 1 0 0 0x100000000"],
        ["vmap 0xfffff 0 0 0x7fffffffffff"],
        ["vmalloc 0x300000000000"],
        ["vmalloc 0x7ffffff000"],
        ["map_vm_area $0 0 0x7fffffffffff"],
    ],
    ids=lambda ops: ops[0].split(" ")[0] + ops[0][-6:],
)
def test_golden_op_of_a_huge_size(tmp_path, ops):
    """An area of 4 GiB without pages, and what would go over all of it."""
    header = next(script[0] for script in scripts() if script[0]["bits"] == 64)
    area = {"i": 0, "op": "get_vm_area 0x100000000 0"}
    lines = [header, area, *({"i": 1, "op": op.format(start="$0")} for op in ops)]
    path = tmp_path / "bundle"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = run(path, module="vmcore.golden")
    assert code in (1, 2)
    assert out + err


def test_dump(bombs):
    path = bombs(lzma, b"\0", 1200 << 20)
    code, _, err = run("walk", path, "--base", "0x0", "--arch", "i386", "--root", "0x300000")
    assert code == 2
    assert "more than 128 times as large when unpacked, expected less beyond the first 1 GiB" in err


def test_dictionary_of_a_second_stream(tmp_path):
    """The limit holds for every stream of a file."""
    path = tmp_path / "trace"
    path.write_bytes(lzma.compress(b"# first\n") + _with_dictionary(lzma.compress(b"\n"), 36))
    code, _, err = run("replay", path, "--arch", "i386")
    assert code == 2
    assert "xz data with a dictionary that takes more than 128 MiB" in err


def _with_dictionary(stream, code):
    """Return an xz stream whose block header asks for the dictionary of a code (36: 1 GiB), checksum included."""
    size = (stream[12] + 1) * 4
    header = bytearray(stream[12 : 12 + size - 4])
    at = header.index(b"\x21\x01") + 2
    header[at] = code
    return bytes(stream[:12] + header + struct.pack("<I", zlib.crc32(header)) + stream[12 + size :])


def test_members_of_nothing(tmp_path):
    """Zeros behind a member, and many members, do not count as packed bytes."""
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress(b"\n" * (1 << 20)) * 200)
    assert run("replay", path, "--arch", "i386")[0] == 2
    path.write_bytes(gzip.compress(b"# one line\n"))
    with path.open("r+b") as file:
        file.truncate(20 << 30)
    assert run("replay", path, "--arch", "i386")[0] == 2


def test_elf_core_with_endless_headers(tmp_path):
    path = tmp_path / "core"
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 4096, 64, 0, 64, 56, 0xFFFF, 64, 1, 0)
    with path.open("wb") as file:
        file.write(header + struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0, 0))
        file.truncate(20 << 30)
    code, _, err = run("walk", path, "--arch", "x86_64", "--root", "0x1000", room=64 << 30)
    assert code == 2
    assert "found 0xffffffff program headers, expected 0x100000 at most" in err


def test_search_of_a_sparse_core(tmp_path):
    """Memory that is searched for VMCOREINFO does not stay in this process."""
    path = tmp_path / "core"
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    with path.open("wb") as file:
        file.write(header + struct.pack("<IIQQQQQQ", 1, 7, 4096, 0, 4096, 1 << 30, 1 << 30, 0))
        file.truncate((1 << 30) + 4096)
    code, _, err = run("walk", path, "--arch", "x86_64")
    assert code == 2
    assert "expected one; give the root table's physical address" in err


@pytest.mark.parametrize(("arch", "width", "entries"), [("x86_64", 8, 512), ("i386", 4, 1024)])
def test_page_tables_that_loop(tmp_path, arch, width, entries):
    path = tmp_path / "ram"
    table = (0x1067).to_bytes(width, "little") * entries
    path.write_bytes(bytes(4096) + table + bytes(1 << 20))
    code, out, _ = run("walk", path, "--base", "0x0", "--arch", arch, "--root", "0x1000")
    assert code in (0, 1)
    assert "pages of" in out or "bits" in out
