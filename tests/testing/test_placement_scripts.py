"""Placement scripts on the command line: what is counted, and what is refused."""

import json
import lzma
from pathlib import Path

import pytest
from click.testing import CliRunner

from vmcore.testing.golden import main

DATA = Path(__file__).parents[1] / "data"
SCRIPT = DATA / "placement" / "6.9-03.jsonl.xz"
LINES = lzma.decompress(SCRIPT.read_bytes()).decode().splitlines()
HEADER = json.loads(LINES[0])


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def written(tmp_path, lines):
    path = tmp_path / "script.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_scripts_and_bundles_together():
    done = run(SCRIPT, DATA / "placement" / "3.0-00.jsonl.xz", DATA / "golden" / "arm.jsonl.xz")
    assert done.exit_code == 0
    first, last = done.output.splitlines()
    assert first.startswith(f"{DATA / 'golden' / 'arm.jsonl.xz'}: 60 scripts, ")
    assert last.startswith("2 scripts, 4000 operations, 0 mismatches, ")


def test_the_rules_of_another_generation():
    done = run("--generation", "3.0", SCRIPT)
    assert done.exit_code == 1
    assert done.output.startswith(f"first mismatch: {SCRIPT}:")
    assert " 1 mismatch, " in done.output


def test_a_generation_that_is_none():
    done = run("--generation", "newest", SCRIPT)
    assert done.exit_code == 2
    assert "kernel 'newest': expected a version such as 6.12, or a name, " in done.output


def test_a_changed_answer_is_a_mismatch(tmp_path):
    at = next(n for n, line in enumerate(LINES) if line.startswith('["a"') and "null" not in line)
    op = json.loads(LINES[at])
    op[6] += HEADER["page"]
    done = run(written(tmp_path, [*LINES[:at], json.dumps(op), *LINES[at + 1 :]]))
    assert (done.exit_code, f"script.jsonl:{at + 1}: expected {op[6]:#x}" in done.output) == (1, True)


def test_other_free_blocks_at_the_end_are_a_mismatch(tmp_path):
    end = json.loads(LINES[-1])
    end[1][0][1] -= HEADER["page"]
    done = run(written(tmp_path, [*LINES[:-1], json.dumps(end)]))
    assert (done.exit_code, f"script.jsonl:{len(LINES)}: expected " in done.output) == (1, True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([LINES[0]], "found 1 line, expected a header and operations"),
        ([json.dumps({"generation": "6.9"})], "script.jsonl:1: the header lacks word_bits, page"),
        ([json.dumps(HEADER | {"word_bits": 31})], "field 'word_bits': found 31, expected 32 or 64"),
        ([json.dumps(HEADER | {"page": 5000})], "field 'page': found 5000, expected one of 4096"),
        ([json.dumps(HEADER | {"cpus": 0})], "field 'cpus': found 0, expected 1 to 8192"),
        ([json.dumps(HEADER | {"early": [[1]]})], "field 'early': found [[1]], expected a list of [start, end]"),
        ([json.dumps(HEADER | {"end": HEADER["start"]})], "expected start < end < 2^32"),
        ([json.dumps(HEADER | {"generation": "next"}), *LINES[1:]], "kernel 'next': expected a version"),
        ([LINES[0], "{}"], "script.jsonl:2: found {}, expected an operation: a, f, p, P, c, end"),
        ([LINES[0], '["a", 1]'], 'script.jsonl:2: found ["a", 1], expected ["a", cpu, size, align'),
        ([LINES[0], '["a", 0, 4096, 3, 0, 9, 0, 0]'], 'expected ["a", cpu, size, align'),
        ([LINES[0], '["f", 0, 4096, 0]'], "script.jsonl:2: frees 0x1000, where no area is allocated"),
        ([*LINES, LINES[1]], "a line behind the end, expected none"),
        ([LINES[0], '["f", 0'], "script.jsonl:2: not JSON: "),
        ([LINES[0], "[" * 100_000], "script.jsonl:2: not JSON: "),
    ],
)
def test_a_bad_script_is_refused_with_its_line(tmp_path, lines, message):
    done = run(written(tmp_path, lines))
    assert (done.exit_code, message in done.output) == (2, True), done.output
    assert "Traceback" not in done.output


def test_a_torn_script(tmp_path):
    path = tmp_path / "torn.jsonl.xz"
    path.write_bytes(SCRIPT.read_bytes()[:3000])
    done = run(path)
    assert (done.exit_code, str(path) in done.output) == (2, True)
