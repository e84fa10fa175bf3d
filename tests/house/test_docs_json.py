"""JSON of all commands: docs/json.md is up to date, and real output has exactly the documented keys."""

import json

import pytest
from attrs import evolve, fields
from attrs.exceptions import FrozenInstanceError
from click.testing import CliRunner

from tests.support import json_page
from tests.support.dumps import core
from vmcore.cli import COMMANDS, main
from vmcore.dump.audit.result import DumpAudit
from vmcore.dump.rooted import root_dump
from vmcore.dump.walk import MappingList, Translation, list_mappings, translate
from vmcore.errors import ArgumentError, PluginError
from vmcore.facts import Key, Schema, Shape
from vmcore.linking.installed import Installed
from vmcore.linking.registry import load
from vmcore.replay.result import ReplayResult
from vmcore.samples import SampleList
from vmcore.scenes.result import Performance, SceneList

SCHEMAS = {schema.name: schema for schema in json_page.SCHEMAS}
#: Commands whose outputs together have every documented key.
OUTPUTS = {
    "vmcore.arches/1": (["arches"], ["arches", "--vmalloc", "1M"]),
    "vmcore.samples/1": (["samples"],),
    "vmcore.replay/1": (
        ["replay", "sample:arm-short", "--arch", "armv7", "--vmalloc", "16M", "--vmallocinfo", "sample:arm-short"],
        ["replay", "sample:arm-short", "--arch", "armv7-highmem", "--check"],
    ),
    "vmcore.verify/1": (["verify", "sample:riscv64-sv39", "--kernel", "2.6.23"],),
    "vmcore.walk/1": (["walk", "SMALL", "0xc0012345", "0xc0400000", "0x0"],),
    "vmcore.mappings/1": (["walk", "SMALL"], ["walk", "sample:i386-pae-ram", "--limit", "1000"]),
    "vmcore.audit/1": (["audit", "sample:i386-pae-ram", "--vmallocinfo", "sample:i386-pae"],),
    "vmcore.demo/1": (["demo", "lazy-sync", "--arch", "i386-highmem"], ["demo", "vivt-alias", "--arch", "armv5"]),
    "vmcore.scenes/1": (["demo"],),
}


@pytest.fixture
def small(tmp_path):
    """A core with a root of i386: a page of 4 MiB at 0xc0000000, a table that is missing, and one not present."""
    table = bytearray(0x1000)
    table[0xC00:0xC0C] = bytes.fromhex("e30100006720000080500000")
    path = tmp_path / "small.elf"
    path.write_bytes(core([(0x1000, bytes(table))], machine=3))
    return path


def written(arguments, small):
    """Run a command with --json, and return the object."""
    given = ["--arch", "i386", "--root", "0x1000"] if "SMALL" in arguments else []
    words = [str(small) if word == "SMALL" else word for word in arguments]
    result = CliRunner().invoke(main, [*words, *given, "--json"])
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def documented(schema):
    keys = {(schema.name, key.name) for key in schema.keys}
    return keys | {(shape.name, key.name) for shape in json_page.shapes(schema.keys) for key in shape.keys}


def test_the_page_is_up_to_date():
    assert json_page.PAGE.read_text("utf-8") == json_page.page(), "run python -m tests.support.json_page"


def test_every_command_and_every_schema_is_tried():
    assert OUTPUTS.keys() == SCHEMAS.keys()
    assert {arguments[0] for tried in OUTPUTS.values() for arguments in tried} == COMMANDS.keys()
    for name, tried in OUTPUTS.items():
        assert {arguments[0] for arguments in tried} == {SCHEMAS[name].command.split()[1]}


@pytest.mark.parametrize("name", SCHEMAS)
def test_real_output_has_exactly_the_documented_keys(name, small, monkeypatch):
    def broken(block=()):
        registry = load(block)
        registry.broken["bad"] = PluginError("bad", "bad-plugin 0.1", "bad_module", "cannot be imported: no")
        return registry

    monkeypatch.setattr("vmcore.cli.arches.load", broken)
    schema, used = SCHEMAS[name], set()
    for arguments in OUTPUTS[name]:
        assert list(json_page.mismatches(schema, written(arguments, small), used)) == []
    missing = documented(schema) - used
    if name == "vmcore.replay/1":  # on these machines all flushes are there; the scenes have reports
        missing = {key for key in missing if key[0] != "report of the coherence checker"}
    assert missing == set()


def test_documentation_is_complete():
    for schema in SCHEMAS.values():
        assert schema.meaning.endswith(".")
        keys = [*schema.keys, *(key for shape in json_page.shapes(schema.keys) for key in shape.keys)]
        for key in keys:
            assert key.meaning.endswith("."), key
            assert ("object" in key.type.split()) == (key.shape is not None), key


def test_the_fast_json_of_runs_is_that_of_the_facts(small, opened, registry):
    source = root_dump(opened(small.read_bytes()), registry.get("i386"), root=0x1000)
    facts = list_mappings(source, 0, 1 << 32).facts()
    found = written(["walk", "SMALL"], small)
    assert facts["runs"]
    assert list(facts) == list(found)
    assert found | {"dump": facts["dump"]} == facts


def test_facts_need_the_steps_of_every_address(small, opened, registry):
    source = root_dump(opened(small.read_bytes()), registry.get("i386"), root=0x1000)
    assert len(translate(source, [0, 0xC0000000]).facts()["addresses"]) == 2
    few = translate(source, [0, 0xC0000000], detailed=1)
    with pytest.raises(ArgumentError, match="found 1 detailed walks, expected 2"):
        few.facts()


# ---- the comparison itself

PART = Shape("part", (Key("n", "number", "A number."),))
TRY = Schema(
    "vmcore.try/1",
    "vmcore try",
    "A try.",
    (
        Key("part", "object or null", "A part.", shape=PART),
        Key("parts", "map of object", "Parts.", shape=PART),
        Key("words", "list of string", "Words.", optional=True),
    ),
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"part": None, "parts": {}}, []),
        ({"part": {"n": 1}, "parts": {"a": {"n": 2}}, "words": ["b"]}, []),
        ({"part": None}, ["vmcore.try/1: found the keys ['part'], expected ['part', 'parts']"]),
        (
            {"parts": {}, "part": None},
            ["vmcore.try/1: found the keys ['parts', 'part'], expected ['part', 'parts']"],
        ),
        ({"part": {"n": "1"}, "parts": {}}, ["vmcore.try/1.part.n: found '1', expected a number"]),
        ({"part": {"n": True}, "parts": {}}, ["vmcore.try/1.part.n: found True, expected a number"]),
        ({"part": {"n": 1}, "parts": []}, ["vmcore.try/1.parts: found [], expected a map of object"]),
        ({"part": None, "parts": {"a": {}}}, ["vmcore.try/1.parts[a]: found the keys [], expected ['n']"]),
    ],
)
def test_a_difference_is_found(value, expected):
    assert list(json_page.mismatches(TRY, TRY.facts(**value), set())) == expected


def test_two_shapes_of_one_name_are_refused():
    other = evolve(PART, keys=())
    with pytest.raises(AssertionError, match="found two shapes of this name"):
        json_page.shapes((Key("a", "object", "A.", shape=PART), Key("b", "object", "B.", shape=other)))


RESULTS = (
    Installed, SampleList, ReplayResult, Translation, MappingList, DumpAudit, Performance, SceneList,
)  # fmt: skip


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.__name__)
def test_a_result_cannot_be_changed_after_its_job(result):
    with pytest.raises(FrozenInstanceError):
        setattr(object.__new__(result), fields(result)[0].name, None)
    assert callable(result.facts)
