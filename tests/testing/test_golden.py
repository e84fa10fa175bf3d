"""Golden bundles replay without a difference, and what is no bundle is refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.golden_scripts import BUNDLES, first, write
from vmcore.errors import GoldenError
from vmcore.testing import golden, opscript
from vmcore.units import Bank

COUNTS = {
    "arm-ending": (120, 761), "arm": (60, 7093), "i386-ending": (120, 747), "i386": (60, 7303),
    "i386-pae-ending": (120, 732), "i386-pae": (60, 7479), "x86_64-ending": (120, 749), "x86_64": (60, 7385),
}  # fmt: skip


def test_all_eight_are_here():
    assert sorted(path.name.split(".")[0] for path in BUNDLES) == sorted(COUNTS)


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.name.split(".")[0])
def test_a_bundle_replays_without_a_difference(registry, path):
    tally = golden.replay_file(str(path), registry)
    assert tally.first == ""
    assert (tally.mismatches, tally.scripts, tally.ops) == (0, *COUNTS[path.name.split(".")[0]])
    assert tally.events > tally.ops


def run_module(*arguments):
    command = [sys.executable, "-m", "vmcore.golden", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))


def test_from_the_command_line():
    path = next(path for path in BUNDLES if path.name == "arm-ending.jsonl.xz")
    done = run_module(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{path}: 120 scripts, 761 ops, ")
    assert ", 0 mismatches, " in done.stdout


def main(*arguments):
    return CliRunner().invoke(golden.main, [str(a) for a in arguments], catch_exceptions=False)


def test_a_mismatch_is_status_1_and_shown_in_context(tmp_path):
    script = first(lambda op: op["op"].startswith("vread") and op["i"] > 4 and "ret" in op)
    script[-1]["ret"] += 1
    path = write(tmp_path / "damaged.jsonl", script)
    result = main(path)
    assert result.exit_code == 1
    ops, last = [line["op"] for line in script[1:]], script[-1]
    line, shown = result.output.split("\n", 1)
    assert line.startswith(f"{path}: 1 script, {len(ops)} ops, ")
    assert ", 1 mismatch, " in line
    assert shown == (
        f"first mismatch: {path}:{len(script)}: {script[0]['script']}: ret: expected {last['ret']}, "
        f"got {last['ret'] - 1}\n" + "".join(f"    {op}\n" for op in ops[-4:-1]) + f"  > {ops[-1]}\n"
    )


def test_a_mismatch_in_an_event_says_which(tmp_path, registry):
    script = first(lambda op: any(e[0] == "flush_tlb_kernel_range" for e in op["ev"]))
    events = script[-1]["ev"]
    at = next(n for n, e in enumerate(golden.expand(events)) if e[0] == "flush_tlb_kernel_range")
    next(e for e in events if e[0] == "flush_tlb_kernel_range")[2] = "0x1"
    tally = golden.replay_file(write(tmp_path / "b", script), registry)
    assert f": ev[{at}] of {len(golden.expand(events))}: expected ('flush_tlb_kernel_range', " in tally.first


def test_a_script_is_left_at_its_first_mismatch_and_the_others_are_replayed(tmp_path, registry):
    good = first(lambda op: op["op"].startswith("vfree"))
    bad = first(lambda op: op["op"].startswith("vfree"))
    bad[1]["live"][0] += 1
    bad[-1]["live"][0] += 1
    tally = golden.replay_file(write(tmp_path / "b", [*bad, *good]), registry)
    assert (tally.scripts, tally.mismatches, tally.ops) == (2, 1, 1 + len(good) - 1)


def test_several_files_and_a_blocked_plugin(tmp_path):
    path = write(tmp_path / "b", first(lambda op: op["op"].startswith("vfree")))
    assert main(path, path).output.count(" 1 script, ") == 2
    result = main("--block", "nobody", path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "cannot block plugin 'nobody'" in result.stderr
    result = main("--block", "builtin", path)
    assert result.exit_code == 2
    assert f"{path}:1: no installed architecture has " in result.stderr


HEADER = json.dumps(first(lambda op: True)[0]).encode() + b"\n"
UNREADABLE = {
    "empty": (b"", "found no script, expected a golden bundle"),
    "not JSON": (b"hello\n", "1: not JSON: "),
    "not JSON further on": (HEADER + b'{"i": 0,\n', "2: not JSON: "),
    "not UTF-8": (HEADER + b"\xff\xfe\xff\n", "2: not JSON: "),
    "a list": (b"[1, 2]\n", "1: found b'[1, 2]\\n', expected a JSON object"),
    "an op first": (b'{"i": 0, "op": "dump"}\n', "1: an op before any header; is this a golden bundle?"),
    "a header of something else": (b'{"hdr": 1}\n', "1: the header lacks bits, page_shift, "),
    "truncated xz": (BUNDLES[0].read_bytes()[:3000], "the compressed file ends early, expected its end marker"),
    "damaged xz": (
        BUNDLES[0].read_bytes()[:2000] + b"\0" * 2000,
        "damaged compression (Corrupt input data), expected a whole file",
    ),
}


@pytest.mark.parametrize(("content", "text"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_bundle(tmp_path, registry, content, text):
    path = tmp_path / "bundle"
    path.write_bytes(content)
    with pytest.raises(GoldenError) as caught:
        golden.replay_file(str(path), registry)
    assert str(caught.value).startswith(f"{path}:")
    assert text in str(caught.value)
    result = main(path)
    assert (result.exit_code, result.stderr.count("\n"), result.stdout) == (2, 1, "")
    assert result.stderr.startswith(f"vmcore.golden: error: {path}:")


def test_a_file_that_cannot_be_opened(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        result = main(path)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert f"{path}:1: cannot be read: " in result.stderr


def test_without_a_file_it_says_how_it_is_used():
    assert (main().exit_code, "Usage:" in main().stderr) == (2, True)


def test_no_machine_has_the_geometry(tmp_path, registry):
    script = first(lambda op: op["op"].startswith("vfree"))
    script[0]["levels"] = [["pgd", 22, 1024], ["pte", 13, 512]]
    path = write(tmp_path / "b", script)
    with pytest.raises(GoldenError, match=r"b:1: no installed architecture has \d\d bits, levels .*; install one"):
        golden.replay_file(path, registry)


@pytest.mark.parametrize(
    "op",
    ["vmalloc", "vmalloc x", "vfree $99", "frobnicate 1", "vread 0x1000", "put_pages 3", "free_vm_area $0",
     "fail pages 1", "", "vmalloc $"],
)  # fmt: skip
def test_an_op_that_cannot_be_run_is_a_mismatch_with_its_reason(tmp_path, registry, op):
    script = first(lambda op: op["op"].startswith("vmalloc 0x"))
    script.append({"i": len(script) - 1, "op": op, "args": [], "ev": [], "live": script[-1]["live"]})
    path = write(tmp_path / "b", script)
    tally = golden.replay_file(path, registry)
    assert tally.mismatches == 1
    assert tally.first.startswith(f"{path}:{len(script)}: ")


@pytest.mark.parametrize(
    ("op", "found"),
    [
        ("vmap 1 4 1 0xffffffff", "found a page array of 0xffffffff entries, expected at most 0x100000"),
        ("map_vm_area $0 1 0x100001", "found a page array of 0x100001 entries, expected at most 0x100000"),
        ("alloc_vm_area 0x100000000000", "found tables for 0x100000000 pages, expected at most 0x100000"),
    ],
)
def test_an_op_that_needs_more_memory_than_a_script_may(registry, op, found):
    header = first(lambda op: len(str(op.get("ret"))) == 18)[0]
    run = opscript.ScriptRun(registry, header)
    run.run("get_vm_area 0x1000 2")
    with pytest.raises(GoldenError) as error:
        run.run(op)
    assert str(error.value) == f"op {op!r}: {found}; is the op damaged?"


def test_a_script_that_needs_more_tables_than_there_are(registry, monkeypatch):
    monkeypatch.setattr(opscript, "_TABLES", Bank(0x4000_0000, 0x4000_2000))
    run = opscript.ScriptRun(registry, first(lambda op: len(str(op.get("ret"))) == 18)[0])
    with pytest.raises(GoldenError) as error:
        run.run("alloc_vm_area 4096")
    assert str(error.value) == (
        "op 'alloc_vm_area 4096': found more page tables than 0x2000 bytes hold, expected smaller areas"
    )


def test_a_script_whose_machine_would_take_too_much_memory(tmp_path, registry):
    lines = first(lambda op: op["op"].startswith("vmalloc 0x"))
    lines[0]["physpages"] = opscript.MAX_PAGES + 1
    with pytest.raises(GoldenError, match=r"'physpages': found 32769, expected 1 to 32768$"):
        golden.replay_file(write(tmp_path / "b", lines), registry)


def test_protection_numbers_stay_apart(registry):
    for arch in registry.architectures.values():
        protections = opscript.Protections(arch)
        bits = [protections.bits(n) for n in range(16)]
        assert len(set(bits)) == 16
        assert [protections.number(b) for b in bits] == list(range(16))
        present = [n for n in range(16) if bits[n] & arch.levels[-1].present_mask]
        assert present == list(range(15))
        assert bits[15] & arch.levels[-1].none_mask


def test_the_readme_speaks_of_every_bundle():
    text = (Path(__file__).parents[1] / "data" / "golden" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in COUNTS if not name.endswith("-ending"))


def test_a_script_sees_entries_that_were_overwritten_without_a_flush(registry):
    """The harness has no TLB: after map_vm_area over mapped pages a read gives the bytes of the new ones."""
    run = opscript.ScriptRun(registry, first(lambda op: len(str(op.get("ret"))) == 18)[0])
    run.run("vmalloc 0x1000")
    before = run.run("vread $0 0x10")["crc32"]
    run.run("get_vm_area 0x1000 2")
    assert run.run("map_vm_area $2 2 2")["ret"] == 0
    again = run.run("vread $2 0x10")["crc32"]
    run.run("map_vm_area $2 2 2")
    assert len({before, again, run.run("vread $2 0x10")["crc32"]}) == 3
