"""Every reader of vmcore: what it is fed, what it may answer, and what its answer must not contradict.

An input is bytes. A reader returns a result, which is looked at here, or raises one of its errors, whose message
must begin with the place. Everything else is a fault.
"""

import functools
import io
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
from attrs import field, frozen
from click.testing import CliRunner

from tests.fuzz import mutate
from vmcore import samples
from vmcore.cli import COMMANDS, main
from vmcore.cli.dump_options import parse_address, parse_range
from vmcore.dump import open_dump
from vmcore.dump.audit.audit import audit
from vmcore.dump.root import find_root, read_vmcoreinfo
from vmcore.errors import (
    ArgumentError,
    ConfigurationError,
    DumpError,
    GoldenError,
    RootError,
    TraceError,
    UnitError,
    VmcoreError,
)
from vmcore.linking.registry import load
from vmcore.linking.selection import KEYS, PREFIX, select
from vmcore.paging.mmu import Mmu
from vmcore.testing import golden
from vmcore.testing.opscript import ScriptRun
from vmcore.testing.placement import replay_script
from vmcore.texts.lines import read_lines
from vmcore.texts.trace import ALLOC, FREE, read_trace
from vmcore.texts.tracepoints import FIELDS
from vmcore.texts.vmallocinfo import read_vmallocinfo
from vmcore.units import format_size, parse_ram, parse_size

CORPUS = Path(__file__).with_name("corpus")
LONGEST_MESSAGE = 4000  #: characters; an error is for people
WORD = 1 << 64


@functools.cache
def registry():
    """Return what is installed."""
    return load()


@frozen
class Reader:
    """One reader.

    Attributes:
        name: of it, and of its folder in the corpus.
        read: feeds it an input and looks at the result; AssertionError: it contradicts itself.
        errors: what it may raise.
        place: pattern that the message of an error begins with.
        mutate: makes another input of one.
        covers: the public functions that are fed, for the test that none is forgotten.
    """

    name: str
    read: Callable
    errors: tuple
    place: str
    mutate: Callable
    covers: tuple = field(default=())

    @functools.cached_property
    def seeds(self):
        """The inputs of the corpus, in the order of their names."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]

    def judge(self, data):
        """Feed one input; return whether it was read, or else refused.

        Raises:
            Exception: whatever is a fault.
        """
        try:
            self.read(data)
        except self.errors as error:
            _check_message(str(error), self.place)
            return False
        return True


def _check_message(message, place):
    assert re.match(place, message), f"no place in the message ({message[:200]!r})"
    assert len(message) <= LONGEST_MESSAGE, f"a long message ({len(message)}: {message[:80]!r})"
    assert message.isprintable(), f"not printable ({message[:200]!r})"


READERS: dict[str, "Reader"] = {}


def reader(*errors, place, mutation, covers=()):
    """Enter a function into `READERS`."""

    def enter(read):
        name = read.__name__.replace("_", "-")
        READERS[name] = Reader(name, read, errors, place, mutation, tuple(covers))
        return read

    return enter


@contextmanager
def lent(data):
    """Lend the path of a nameless file that holds an input."""
    descriptor = os.memfd_create("input")
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


FILE = r"(/proc/self/fd/[0-9]+|in)"

# ---- texts

_EVENTS = (*FIELDS, b"CPU:0 [LOST 7 EVENTS]", b"# entries-in-buffer/entries-written: 3/3   #P:1\n")
_TEXT = r"in(:[0-9]+)?: "


@reader(TraceError, place=_TEXT, mutation=mutate.text(_EVENTS), covers=["texts.trace.read_trace"])
def trace(data):
    found = read_trace(io.BytesIO(data), "in")
    events = found.events
    assert len({len(column) for column in (events.line, events.kind, events.addr, events.size, events.cpu)}) == 1
    assert all(a < b for a, b in pairwise(events.line))
    assert events.line[-1] <= found.lines
    assert found.page_size in (4096, 8192, 16384, 32768, 65536)
    assert found.lost < WORD * max(1, len(found.lost_lines))
    held: dict[int, int] = {}
    for _, kind, addr, size, align, window, failed, _ in events:
        assert 0 <= addr < WORD
        if kind == ALLOC and not failed:
            start, end = found.windows[window]
            assert start <= addr < addr + size <= end
            assert addr % align == 0
            assert not any(a < addr + size and addr < a + s for a, s in held.items())
            held[addr] = size
        elif kind == FREE:
            held.pop(addr, None)
    assert all(found.notes())


_AREAS = mutate.text([b" pages=3", b" phys=0xfee00000", b" ioremap", b" vmalloc", b" N0=3", b" vm_map_ram"])


@reader(TraceError, place=_TEXT, mutation=_AREAS, covers=["texts.vmallocinfo.read_vmallocinfo"])
def vmallocinfo(data):
    for entry in read_vmallocinfo(io.BytesIO(data), "in"):
        assert 0 <= entry.start < entry.end <= WORD
        assert entry.end - entry.start == entry.size
        assert entry.phys is None or entry.phys < WORD
        assert entry.pages < WORD
        assert all(node < WORD and pages < WORD for node, pages in entry.nodes)


@functools.cache
def _tables():
    return open_dump(CORPUS / "files" / "core")


@reader(
    TraceError, ArgumentError, place=rf"{_TEXT}|vmallocinfo: ", mutation=_AREAS, covers=["dump.audit.audit.audit"]
)
def areas(data):
    """Read vmallocinfo, and audit it against tables."""
    mmu = Mmu(registry().get("i386"), _tables(), 0x1000)
    entries = read_vmallocinfo(io.BytesIO(data), "in")
    report = audit(mmu, entries, vmalloc=(0xF7800000, 0xFF000000))
    assert report.areas == len(entries)
    assert all(finding.start <= finding.last < 1 << 32 for finding in report.findings)


@reader(
    TraceError,
    place=_TEXT,
    mutation=mutate.packed(mutate.text()),
    covers=["texts.lines.read_lines"],
)
def packed_text(data):
    for line in read_lines(io.BytesIO(data), "in"):
        assert 0 < len(line) <= 1 << 16


@reader(
    RootError,
    place=FILE + ": ",
    mutation=mutate.text([b"SYMBOL(swapper_pg_dir)=", b"NUMBER(phys_base)=", b"PAGESIZE=4096\n", b"-0x1"]),
    covers=["dump.root.read_vmcoreinfo"],
)
def vmcoreinfo(data):
    with lent(data) as path:
        info = read_vmcoreinfo(path)
    for name in ("swapper_pg_dir", "init_top_pgt", "_stext"):
        assert 0 <= (info.symbol(name) or 0) < WORD
    for name in ("phys_base", "PHYS_OFFSET", "VMALLOC_START"):
        assert -WORD < (info.number(name) or 0) < WORD
    page = info.page_size()
    assert page is None or 0 <= page < WORD


# ---- dumps

_RECORDS = ("x86_64", "i386", "i386-pae-highmem", "armv7-highmem")


def _look_at(dump):
    """Read a dump in every way."""
    banks = dump.banks
    assert dump.size == sum(bank.size for bank in banks) > 0
    assert all(bank.start < bank.end for bank in banks)
    assert all(a.end < b.start for a, b in pairwise(banks))
    ends = [place for bank in banks[:8] for place in (bank.start & -8, bank.end - 8 & -8, bank.end & -8)]
    places = np.array([place for place in ends if 0 <= place < 1 << 62], np.int64)
    words, there = dump.words(places, 8)
    assert not words[~there].any()
    for place, word, present in zip(places.tolist(), words.tolist(), there.tolist(), strict=True):
        assert dump.word(place, 8) == (word if present else None)
    first = banks[0]
    length = min(first.size, 64)
    assert len(dump.read(first.start, length)) == length
    assert dump.read_partial(first.end, 8)[1]
    assert all(len(problem) < LONGEST_MESSAGE for problem in dump.problems)


def _walk(dump):
    """Look for the root of every record, and walk from it."""
    for name in _RECORDS:
        arch = registry().get(name)
        try:
            root = find_root(dump, arch, records=registry().architectures.values())
        except RootError as error:
            _check_message(str(error), "")
            continue
        addresses = np.array([0, 0xC0000000, arch.word_mask & -4096], np.uint64)
        mmu = Mmu(arch, dump, root.address)
        many = mmu.walk_many(addresses)
        for address, physical in zip(addresses.tolist(), many.physical.tolist(), strict=True):
            assert mmu.translate(address) == (physical if physical >= 0 else None)


_DUMP = r"(/proc/self/fd/[0-9]+|in)(, offset 0x[0-9a-f]+)?: found "


@reader(
    DumpError,
    place=_DUMP,
    mutation=mutate.binary(300),
    covers=["dump.open.open_dump", "dump.formats.elf.read_elf"],
)
def elf(data):
    with lent(data) as path, open_dump(path, name="in") as dump:
        _look_at(dump)


@reader(DumpError, place=_DUMP, mutation=mutate.binary(120), covers=["dump.formats.lime.read_lime"])
def lime(data):
    with lent(data) as path, open_dump(path, format="lime", name="in") as dump:
        _look_at(dump)


@reader(
    DumpError,
    UnitError,
    place=rf"{_DUMP}|base: |ram",
    mutation=mutate.text([b"raw", b"flat", b"-", b",", b"4G", b"0x1000"]),
    covers=["dump.formats.raw.read_raw", "dump.formats.raw.read_flat"],
)
def raw(data):
    """Read a raw image; the first line has its format, base and banks."""
    options, _, image = data.partition(b"\n")
    kind, base, banks, *_ = options.decode("latin-1").split(";") + [""] * 3
    given = parse_ram(banks) if banks else None
    if isinstance(given, int):
        given = None
    start = parse_size(base, "base") if base else None
    with lent(image) as path, open_dump(path, base=start, banks=given, format=kind or None, name="in") as dump:
        _look_at(dump)


@reader(DumpError, place=_DUMP, mutation=mutate.binary(16), covers=["dump.formats.refused.refuse_unknown"])
def other_formats(data):
    with lent(data) as path, open_dump(path, name="in") as dump:
        _look_at(dump)


@reader(DumpError, place=_DUMP, mutation=mutate.packed(mutate.binary(300)), covers=["dump.mapped_file.map_file"])
def packed_dump(data):
    with lent(data) as path, open_dump(path, name="in") as dump:
        _look_at(dump)


@reader(
    DumpError,
    place=_DUMP,
    mutation=mutate.binary(1100),
    covers=["dump.cpu_notes.root_by_cpus", "dump.root.find_root", "dump.root.find_vmcoreinfo"],
)
def notes(data):
    with lent(data) as path, open_dump(path, name="in") as dump:
        _walk(dump)


# ---- numbers and names that people write


def _lines_of(data):
    return data.decode("utf-8", "replace").split("\n")


@reader(
    UnitError,
    place="(size|ram)",
    mutation=mutate.text([b"K", b"M", b"GiB", b"1.5G", b"0-3G,4G-5G", b",", b"-"]),
    covers=["units.parse_size", "units.parse_ram"],
)
def units(data):
    """Read every line as a size and as RAM; the last refusal is told."""
    refused = None
    for line in _lines_of(data):
        try:
            size = parse_size(line)
            assert size >= 0
            assert len(format_size(size)) < LONGEST_MESSAGE
        except UnitError as error:
            refused = error
        try:
            banks = parse_ram(line)
        except UnitError as error:
            refused = error
            continue
        if isinstance(banks, tuple):
            assert all(bank.size > 0 for bank in banks)
            assert all(a.end <= b.start for a, b in pairwise(banks))
    if refused is not None:
        raise refused


@reader(
    ConfigurationError,
    place="(ADDR|--range): ",
    mutation=mutate.text([b"0x", b"-", b"0xc0000000"]),
    covers=["cli.dump_options.parse_address", "cli.dump_options.parse_range"],
)
def addresses(data):
    arch, refused = registry().get("i386"), None
    for line in _lines_of(data):
        try:
            assert 0 <= parse_address(line, "ADDR", arch.word_mask) <= arch.word_mask
        except ConfigurationError as error:
            refused = error
        try:
            start, end = parse_range(line, arch)
            assert 0 <= start < end <= arch.word_mask + 1
        except ConfigurationError as error:
            refused = error
    if refused is not None:
        raise refused


@functools.cache
def _folder():
    """Return a folder of this process, which becomes the current one."""
    folder = tempfile.TemporaryDirectory(prefix="vmcore-fuzz-")
    os.chdir(folder.name)
    return folder


def _check_selection(chosen):
    assert chosen.cpus >= 1
    assert chosen.nodes >= 1
    assert chosen.ram is None or isinstance(chosen.ram, tuple) or chosen.ram >= 0
    assert set(chosen.sources) <= set(KEYS)


_TOML = mutate.text([
    b"[tool.vmcore]\n", b"[[tool]]\n", b"arch = ", b'ram = "1G"\n', b"cpus = 2\n", b"block = [", b'"""',
    b"[" * 3000, b"a." * 3000, b"{a={b=", b"1e400", b"0o17", b"0b1", b"12:00:00", b"2000-01-01T00:00:00Z",
])  # fmt: skip


@reader(
    ConfigurationError, place=r"vmcore\.toml(:[0-9]+)?: |/", mutation=_TOML, covers=["linking.selection.select"]
)
def configuration(data):
    _folder()
    Path("vmcore.toml").write_bytes(data)
    try:
        _check_selection(select(need_arch=False))
    finally:
        Path("vmcore.toml").unlink()


@reader(ConfigurationError, place=r"pyproject\.toml(:[0-9]+)?: |/", mutation=_TOML)
def project_file(data):
    _folder()
    Path("pyproject.toml").write_bytes(data)
    try:
        _check_selection(select(need_arch=False))
    finally:
        Path("pyproject.toml").unlink()


_VARIABLES = mutate.text([b"VMCORE_", b"CPUS=", b"RAM=", b"BLOCK=a,b", b"ARCH="])


@reader(ConfigurationError, place="VMCORE_", mutation=_VARIABLES)
def environment(data):
    """Read lines VARIABLE=value as the environment; variables of other programs are left out."""
    _folder()
    pairs = (line.replace("\0", "").partition("=") for line in _lines_of(data))
    added = {name: value for name, _, value in pairs if name.startswith(PREFIX)}
    with suppress(UnicodeError):  # no such variable can be made
        os.environ.update(added)
    try:
        _check_selection(select(need_arch=False))
    finally:
        for name in added:
            os.environ.pop(name, None)


# ---- golden scripts and bundles

_OPS = [*(name.encode() for name in ScriptRun._HANDLERS), b"$0", b"$1", b"keep", b"ULONG_MAX", b"VMALLOC_END"]


@reader(
    GoldenError,
    place=FILE + r":([0-9]+:)? ",
    mutation=mutate.json_lines(_OPS),
    covers=["testing.golden.read_bundle"],
)
def bundle(data):
    with lent(data) as path:
        tally = golden.replay_file(path, registry())
    assert tally.mismatches <= tally.scripts
    assert bool(tally.first) == bool(tally.mismatches)


@reader(
    GoldenError,
    place=FILE + r":([0-9]+:)? ",
    mutation=mutate.json_lines([b"a", b"f", b"p", b"P", b"c", b"end", b"3.0", b"5.2", b"6.9", b"4096"]),
    covers=["testing.placement.read_script"],
)
def placement(data):
    with lent(data) as path:
        tally = replay_script(path, registry().placement)
    assert bool(tally.first) == bool(tally.mismatches)


@reader(GoldenError, place="(op |unknown op )", mutation=mutate.text(_OPS))
def script(data):
    """Run lines as ops on a small machine."""
    header, *ops = (data.decode("utf-8", "replace")).split("\n")
    run = ScriptRun(registry(), _HEADERS["64" if "64" in header else "32"])
    for op in ops[:40]:
        if op.strip():
            line = run.run(op)
            assert len(line["live"]) == 4
            if "end" in line:
                break


def _header(bits, levels, start, end, zones):
    sizes = {"page_shift": 12, "ioremap_max_order": 19, "physpages": 300, "num_physpages": 300}
    window = {"vmalloc_start": start, "vmalloc_end": end, "page_kernel": 1, "page_kernel_exec": 2}
    return {"bits": bits, "levels": levels, "zones": zones, **sizes, **window}


#: By the number of bits.
_HEADERS = {
    "32": _header(32, [["pgd", 22, 1024], ["pte", 12, 1024]],
                  "0xf8800000", "0xff7fe000", ["DMA", "NORMAL", "HIGHMEM"]),
    "64": _header(64, [["pgd", 39, 512], ["pud", 30, 512], ["pmd", 21, 512], ["pte", 12, 512]],
                  "0xffffc20000000000", "0xffffe1ffffffffff", ["DMA", "DMA32", "NORMAL"]),
}  # fmt: skip


# ---- manifests of samples


@reader(VmcoreError, place=_TEXT, mutation=_TOML, covers=["samples.read_manifest"])
def manifest(data):
    found: dict[str, samples.DumpSample] | dict[str, samples.Sample]
    if b"record" in data:
        found = samples.read_manifest(data, "in", samples.DumpSample)
    else:
        found = samples.read_manifest(data, "in", samples.Sample)
    assert all(sample.name == name for name, sample in found.items())


# ---- commands

_FILES = ("trace", "info", "core", "addresses", "vmcoreinfo")
_WRITTEN = ("--npz", "--save-ram")  #: whose values would be written to
_RAM_MOST = 1 << 36  #: bytes; tables that map more take memory, as they should


@functools.cache
def _command_files():
    _folder()
    for name in _FILES:
        Path(name).write_bytes((CORPUS / "files" / name).read_bytes())


def _ram_of(option, value):
    """Return the end of the RAM that an option and the argument behind it, or one argument alone, ask for."""
    if option != "--ram" and not value.startswith("--ram="):
        return 0
    try:
        ram = parse_ram(value.removeprefix("--ram="))
    except UnitError:
        return 0
    return ram if isinstance(ram, int) else ram[-1].end


@reader(
    VmcoreError,
    place="vmcore: error: |Usage: |Error: ",
    mutation=mutate.text(w.encode() for w in (*COMMANDS, *_FILES, "--json", "--arch\ni386\n", "--ram\n64M\n")),
)
def commands(data):
    """Run the command line; a line is an argument."""
    _command_files()
    arguments = [line for line in _lines_of(data.replace(b"\0", b"")) if line]
    arguments = [a.partition("=")[0] + "=out" if a.startswith(_WRITTEN) else a for a in arguments]
    if any(_ram_of(before, after) > _RAM_MOST for before, after in pairwise(("", *arguments))):
        return
    result = CliRunner().invoke(main, arguments, input=b"")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2), result.exit_code
    for line in (*result.stdout.split("\n"), *result.stderr.split("\n")):
        assert line.isprintable(), f"not printable ({line[:200]!r})"
    if result.exit_code == 2:
        refused = [line for line in result.stderr.splitlines() if "warning: " not in line[:20]]
        raise VmcoreError(refused[0] if refused else "no message")
