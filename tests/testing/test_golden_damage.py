"""One wrong value of every kind in a golden bundle is found by the replay."""

import copy
import functools
import json

import pytest

from tests.support.golden_scripts import damage, first, other, places, scripts, write
from vmcore.errors import GoldenError
from vmcore.testing import golden


def found(path, lines, registry):
    """Replay damaged lines; True: a mismatch, or refused with file and line."""
    file = write(path / "damaged.jsonl", lines)
    try:
        tally = golden.replay_file(file, registry)
    except GoldenError as error:
        where, number = str(error).split(": ")[0].rsplit(":", 1)
        return where == file and 1 <= int(number) <= len(lines)
    return tally.mismatches == 1 and tally.first.startswith(f"{file}:")


# ---- headers


def whole(wanted):
    return copy.deepcopy(next(script for script in scripts() if wanted(script)))


HEADERS = {
    "bits": lambda h: h.update(bits=96 - h["bits"]),
    "page_shift": lambda h: h.update(page_shift=13),
    "name of a level": lambda h: h["levels"][0].__setitem__(0, "p4d"),
    "shift of a level": lambda h: h["levels"][0].__setitem__(1, h["levels"][0][1] + 1),
    "entries of a level": lambda h: h["levels"][-1].__setitem__(2, h["levels"][-1][2] * 2),
    "a level less": lambda h: h["levels"].pop(0),
    "ioremap_max_order": lambda h: h.update(ioremap_max_order=20),
    "a zone less": lambda h: h["zones"].remove("NORMAL"),
    "zones in another order": lambda h: h["zones"].reverse(),
    "another zone": lambda h: h["zones"].__setitem__(0, "DMA64"),
    "sizeof_vm_struct": lambda h: h.update(sizeof_vm_struct=h["sizeof_vm_struct"] + 4),
    "vmalloc_start": lambda h: h.update(vmalloc_start=other(h["vmalloc_start"])),
    "vmalloc_end": lambda h: h.update(vmalloc_end=other(h["vmalloc_end"])),
    "physpages": lambda h: h.update(physpages=h["physpages"] + 1),
    "num_physpages": lambda h: h.update(num_physpages=h["num_physpages"] + 1),
    "page_kernel": lambda h: h.update(page_kernel=3),
    "page_kernel_exec": lambda h: h.update(page_kernel_exec=1),
    "page_kernel_exec not defined": lambda h: h.update(page_kernel_exec=None),
    **{f"argv[{n}]": lambda h, n=n: h["argv"].__setitem__(n, other(h["argv"][n])) for n in range(6)},
    "argv shorter": lambda h: h["argv"].pop(),
    "hdr": lambda h: h.update(hdr=99),
    "alias": lambda h: h.update(alias=1),
    "config": lambda h: h.update(config="z80"),
    "script": lambda h: h.update(script="z80-1"),
    "kind": lambda h: h.update(kind="mixd"),
    "another option": lambda h: h["argv"].extend(["--num-physpages", "7"]),
}


@pytest.mark.parametrize("harm", HEADERS.values(), ids=HEADERS)
def test_a_damaged_header(tmp_path, registry, harm):
    def wanted(script):
        exec_page = any(op["op"].startswith("vmalloc_exec") and op.get("ret") for op in script[1:])
        return len(script[0]["argv"]) == 6 and exec_page and script[0]["page_kernel_exec"] is not None

    lines = whole(wanted)
    harm(lines[0])
    assert found(tmp_path, lines, registry)


KEYS = [key for key in scripts()[0][0] if key not in ("hdr", "config", "alias", "script", "kind", "argv")]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["x", -1, [5], {"a": 1}, None], ids=str)
def test_a_header_field_of_the_wrong_kind(tmp_path, registry, key, value):
    lines = first(lambda op: op["op"].startswith("vmalloc_exec 0x") and op["ret"])
    lines[0][key] = value
    if key == "page_kernel_exec" and value is None:
        pytest.skip("None is how a bundle says that PAGE_KERNEL_EXEC is not defined")
    assert found(tmp_path, lines, registry)


@pytest.mark.parametrize("value", ["x", -1, [5], {"a": 1}, None], ids=str)
def test_an_argv_of_the_wrong_kind(tmp_path, registry, value):
    lines = first(lambda op: op["op"].startswith("vmalloc 0x"))
    lines[0]["argv"] = value
    with pytest.raises(GoldenError, match=r"damaged.jsonl:1: header field 'argv': found .*, expected a list"):
        golden.replay_file(write(tmp_path / "damaged.jsonl", lines), registry)


@pytest.mark.parametrize("key", KEYS)
def test_a_header_without_a_field(tmp_path, registry, key):
    lines = first(lambda op: op["op"].startswith("vmalloc 0x"))
    del lines[0][key]
    with pytest.raises(GoldenError, match=f"damaged.jsonl:1: the header lacks {key}$"):
        golden.replay_file(write(tmp_path / "damaged.jsonl", lines), registry)


# ---- ops


def has(key, *parts):
    """Return a test for ops whose field has something at a path."""

    def wanted(op):
        value = op.get(key)
        for part in parts:
            if not value or (isinstance(value, list) and part >= len(value)):
                return False
            value = value[part]
        return value not in (None, [], {})

    return wanted


FIELDS = {
    "op": has("op"),
    "args": has("args", 0),
    "second argument": has("args", 1),
    "ret": has("ret"),
    "ret that is null": lambda op: "ret" in op and op["ret"] is None,
    "area": has("area"),
    "advanced": has("advanced"),
    "crc32": has("crc32"),
    "head": has("head"),
    "vm_flags": lambda op: op.get("vm_flags", "0x0") != "0x0",
    "BUG": lambda op: op.get("end") == "BUG",
    "OOPS": lambda op: op.get("end") == "OOPS",
    "live": has("live"),
    "i": lambda op: op["i"] == 1,
    "vmlist": has("vmlist", 0),
    "second of vmlist": has("vmlist", 1),
    "ptes": has("ptes", 0),
    "second run of ptes": has("ptes", 1),
    "tables": has("tables"),
    "free_stack": has("free_stack", 1),
    "next_page": has("next_page"),
    "next_kmalloc": has("next_kmalloc"),
}  # fmt: skip
NAMES = {"second argument": "args", "ret that is null": "ret", "BUG": "end", "OOPS": "end",
         "second of vmlist": "vmlist", "second run of ptes": "ptes"}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_a_damaged_field(tmp_path, registry, name):
    lines, key = first(FIELDS[name]), NAMES.get(name, name)
    every = list(places({key: lines[-1][key]}))
    assert every
    for path in every:
        harmed = copy.deepcopy(lines)
        damage(harmed[-1], path)
        assert found(tmp_path, harmed, registry), path


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field(tmp_path, registry, name):
    lines = first(FIELDS[name])
    del lines[-1][NAMES.get(name, name)]
    assert found(tmp_path, lines, registry)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [7, "x", [3], None, {}, [[]]], ids=str)
def test_a_field_of_the_wrong_kind(tmp_path, registry, name, value):
    lines, key = first(FIELDS[name]), NAMES.get(name, name)
    if lines[-1][key] == value:
        pytest.skip("that is what the field holds")
    lines[-1][key] = value
    assert found(tmp_path, lines, registry)


@pytest.mark.parametrize("value", [7, "x", [3], None, {}, [[]], [["set_pte"]], [["set_pte", 3, 4, [5]]],
                                   [["clear_pte", "0x", [1]]], [["set_pte", "0x1000", 1, 5]],
                                   [{}]], ids=str)  # fmt: skip
def test_events_of_the_wrong_kind(tmp_path, registry, value):
    lines = first(lambda op: op["op"].startswith("vmalloc 0x") and op["ret"])
    lines[-1]["ev"] = value
    assert found(tmp_path, lines, registry)


def test_a_field_nobody_expects(tmp_path, registry):
    lines = first(has("ret"))
    lines[-1]["advanced"] = 0
    assert found(tmp_path, lines, registry)


def test_an_op_that_is_missing(tmp_path, registry):
    lines = first(lambda op: op["i"] == 3)
    for gone in (1, 2, 3):
        assert found(tmp_path, lines[:gone] + lines[gone + 1 :], registry)


def test_ops_in_another_order(tmp_path, registry):
    lines = first(lambda op: op["i"] == 2)
    lines[1], lines[2] = lines[2], lines[1]
    assert found(tmp_path, lines, registry)


def test_another_op_with_the_same_arguments(tmp_path, registry):
    lines = first(lambda op: op["op"].startswith("vmalloc 0x") and op["ret"])
    lines[-1]["op"] = lines[-1]["op"].replace("vmalloc", "vmalloc_user")
    assert found(tmp_path, lines, registry)


# ---- events

KINDS = [
    "kmalloc", "kfree", "alloc_page", "free_page", "h_alloc_page", "h_free_page", "pgtable_alloc", "set_pte",
    "clear_pte", "flush_cache_vmap", "flush_cache_vunmap", "flush_tlb_kernel_range", "vmalloc_sync_all",
    "vm_insert_page", "printk", "WARN_ON", "BUG", "oops",
]  # fmt: skip


@functools.cache
def with_event(kind):
    return first(lambda op: any(event[0] == kind for event in op["ev"]))


def test_every_kind_of_event_is_damaged():
    assert {event[0] for script in scripts() for op in script[1:] for event in op["ev"]} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_event(tmp_path, registry, kind):
    lines = with_event(kind)
    n = next(n for n, event in enumerate(lines[-1]["ev"]) if event[0] == kind)
    for path in places(lines[-1]["ev"][n]):
        harmed = copy.deepcopy(lines)
        damage(harmed[-1]["ev"][n], path)
        assert found(tmp_path, harmed, registry), path


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_more_or_less_or_elsewhere(tmp_path, registry, kind):
    lines = with_event(kind)
    events = lines[-1]["ev"]
    n = next(n for n, event in enumerate(events) if event[0] == kind)
    less, twice = events[:n] + events[n + 1 :], events[: n + 1] + events[n:]
    moved = [*less, events[n]] if n + 1 < len(events) else [events[n], *less]
    for changed in (less, twice, *([moved] if moved != events else [])):
        harmed = [*copy.deepcopy(lines[:-1]), {**lines[-1], "ev": changed}]
        assert found(tmp_path, harmed, registry)


@pytest.mark.parametrize("kind", [k for k in KINDS if isinstance(with_event(k)[-1]["ev"][0][-1], list)])
def test_a_call_more_or_less_in_a_run(tmp_path, registry, kind):
    lines = with_event(kind)
    n = next(n for n, event in enumerate(lines[-1]["ev"]) if event[0] == kind)
    if not isinstance(lines[-1]["ev"][n][-1], list):
        return
    for change in (lambda ids: ids[:-1], lambda ids: [*ids, 77], lambda ids: ids[::-1] if len(ids) > 1 else [99]):
        harmed = json.loads(json.dumps(lines))
        harmed[-1]["ev"][n][-1] = change(harmed[-1]["ev"][n][-1])
        assert found(tmp_path, harmed, registry)
