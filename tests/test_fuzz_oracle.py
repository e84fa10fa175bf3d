"""As many fresh scripts as wanted against the compiled C file, where its programs are at hand.

VMCORE_ORACLE: a folder with ``oracle-x86_64``, ``oracle-i386``, ``oracle-i386-pae`` and ``oracle-arm``, the
compiled reference programs; VMCORE_ORACLE_GEN: the script generator that talks to them;
VMCORE_ORACLE_SCRIPTS: scripts per configuration (default 2000, a fifth of them end in BUG or OOPS);
VMCORE_ORACLE_SEED: the first seed.
"""

import os
import subprocess
import sys

import pytest

from vmcore.golden import replay_file

ORACLE, GENERATOR = os.environ.get("VMCORE_ORACLE"), os.environ.get("VMCORE_ORACLE_GEN")
SCRIPTS = int(os.environ.get("VMCORE_ORACLE_SCRIPTS", "2000"))
SEED = int(os.environ.get("VMCORE_ORACLE_SEED", "1000000"))
CHUNK = 100

pytestmark = pytest.mark.skipif(
    not (ORACLE and GENERATOR),
    reason="needs the compiled reference programs (VMCORE_ORACLE) and their generator (VMCORE_ORACLE_GEN)",
)


def chunks(count):
    for first in range(SEED, SEED + count, CHUNK):
        yield first, min(first + CHUNK, SEED + count) - 1


@pytest.mark.parametrize("config", ["x86_64", "i386", "i386-pae", "arm"])
@pytest.mark.parametrize(("ending", "count"), [([], SCRIPTS - SCRIPTS // 5), (["--ending"], SCRIPTS // 5)],
                         ids=["running", "ending"])  # fmt: skip
def test_fresh_scripts_replay_without_a_difference(tmp_path, registry, config, ending, count):
    scripts = 0
    for first, last in chunks(count):
        path = tmp_path / f"{config}-{first}.jsonl"
        command = [sys.executable, GENERATOR, "--bin", ORACLE, "--config", config, "--seeds", f"{first}-{last}"]
        made = subprocess.run([*command, *ending, "--out", str(path)], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr[-2000:]
        tally = replay_file(str(path), registry)
        assert tally.mismatches == 0, tally.first
        scripts += tally.scripts
        path.unlink()
    assert scripts == count
