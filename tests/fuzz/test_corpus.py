"""The corpus of the fuzzer: each input that once was a fault, and each seed, gives a result or a clear refusal."""

import inspect
import pkgutil
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import vmcore
from tests.fuzz import mutate, run
from tests.fuzz.readers import CORPUS, LONGEST_MESSAGE, READERS, Reader
from vmcore.errors import UnitError

INPUTS = [(name, path) for name in READERS for path in sorted((CORPUS / name).iterdir())]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Some readers change the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "path"), INPUTS, ids=[f"{name}-{path.name}" for name, path in INPUTS])
def test_an_input_of_the_corpus(name, path):
    run.one(READERS[name], path.read_bytes())


@pytest.mark.parametrize("name", READERS)
def test_the_inputs_of_a_reader_depend_on_seed_and_number_alone(name):
    reader = READERS[name]
    first = [run.input_of(reader, 1, number) for number in range(3)]
    assert [run.input_of(reader, 1, number) for number in reversed(range(3))] == first[::-1]
    assert [run.input_of(reader, 2, number) for number in range(3)] != first
    for data in first:
        assert run.one(reader, data) in (True, False)


def test_the_corpus_is_small():
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 1 << 20


def readers_of_vmcore():
    """Return the public functions of the package that read what people or other programs wrote."""
    found = set()
    for info in pkgutil.walk_packages(vmcore.__path__, "vmcore."):
        if info.name == "vmcore.__main__":
            continue
        module = import_module(info.name)
        for name, value in inspect.getmembers(module, inspect.isfunction):
            if value.__module__ == info.name and name.startswith(("read_", "parse_", "open_dump", "map_file")):
                found.add(f"{info.name}.{name}".removeprefix("vmcore."))
    return found


def test_every_reader_is_fuzzed():
    covered = {name for reader in READERS.values() for name in reader.covers}
    missing = sorted(readers_of_vmcore() - covered)
    assert missing == [], "enter it into tests/fuzz/readers.py, with seeds in tests/fuzz/corpus"


def test_every_function_that_a_reader_covers_exists():
    for name in {name for reader in READERS.values() for name in reader.covers}:
        module, _, function = f"vmcore.{name}".rpartition(".")
        assert callable(getattr(import_module(module), function)), name


# ---- the fuzzer itself


def reader_of(read, errors=(UnitError,), place="size: "):
    return Reader("made-up", read, errors, place, mutate.text())


def fails(message, kind=UnitError):
    def read(data):
        if b"\n7" in data:
            raise kind(message)

    return read


def test_a_refusal_names_its_place_is_short_and_printable():
    assert run.one(reader_of(fails("size: found 7")), b"x\n7") is False
    for message, why in (
        ("found 7", "no place"),
        ("size: \x1b[31m", "not printable"),
        ("size: " + "x" * LONGEST_MESSAGE, "a long message"),
    ):
        with pytest.raises(AssertionError, match=why):
            run.one(reader_of(fails(message, OSError), (OSError,)), b"x\n7")


def test_what_is_no_error_of_the_reader_is_a_fault():
    with pytest.raises(KeyError):
        run.one(reader_of(lambda data: {}[data]), b"x")


def test_an_input_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(run, "SECONDS_EACH", 0.2)

    def read(data):
        while True:
            pass

    with pytest.raises(run.Hang):
        run.one(reader_of(read), b"")


def test_an_input_that_takes_too_much_memory(monkeypatch):
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of other tests
    monkeypatch.setattr(run, "MEMORY", 32 << 20)
    with pytest.raises(run.Fat):
        run.one(reader_of(lambda data: len(bytearray(random.randbytes(1)) * (1 << 28))), b"")


def test_a_fault_is_minimised_as_far_as_it_stays_the_same():
    reader = reader_of(fails("found 7"))
    data = b"".join(b"line %d\n" % n for n in range(50)) + b"a\n7\nb\n"
    try:
        run.one(reader, data)
    except AssertionError as error:
        kind = run.kind_of(error)
    assert run.minimise(reader, data, kind) == b"\n7"


def test_a_run_finds_keeps_and_reports_a_fault(monkeypatch, tmp_path):
    (tmp_path / "made-up").mkdir()
    (tmp_path / "made-up" / "seed").write_bytes(b"1\n2\n3\n")
    monkeypatch.setattr(run, "CORPUS", tmp_path)
    monkeypatch.setattr("tests.fuzz.readers.CORPUS", tmp_path)
    monkeypatch.setitem(READERS, "made-up", reader_of(lambda data: 1 // (data.count(b"\n") - 2)))
    told: list[Any] = []
    monkeypatch.setattr(run, "SLICE", 0.1)
    scores = run.run(["made-up"], seed=1, inputs=300, seconds=30, processes=1, tell=told.append)
    assert [fault.kind.split()[0] for fault in told] == ["ZeroDivisionError"]
    assert scores["made-up"].inputs >= 300
    assert scores["made-up"].again.total() > 1
    kept = told[0].keep()
    with pytest.raises(ZeroDivisionError):
        run.one(READERS["made-up"], kept.read_bytes())
    with pytest.raises(ZeroDivisionError):
        run.one(READERS["made-up"], run.input_of(READERS["made-up"], 1, told[0].number))


def test_shares_are_equal_times_of_which_none_takes_all():
    shares = run.shares({"fast": 10_000.0, "slow": 10.0, "middle": 100.0}, 10_000, 5_000)
    assert shares["fast"] == 5_001
    assert shares["middle"] == pytest.approx(10 * shares["slow"], rel=0.01)
    assert sum(shares.values()) == pytest.approx(10_000, rel=0.01)
