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

from vmcore.testing.golden import replay_file

ORACLE, GENERATOR = os.environ.get("VMCORE_ORACLE"), os.environ.get("VMCORE_ORACLE_GEN")
SCRIPTS = int(os.environ.get("VMCORE_ORACLE_SCRIPTS", "2000"))
SEED = int(os.environ.get("VMCORE_ORACLE_SEED", "1000000"))
CHUNK = 100

pytestmark = pytest.mark.skipif(
    not (ORACLE and GENERATOR),
    reason="needs the compiled reference programs (VMCORE_ORACLE) and their generator (VMCORE_ORACLE_GEN)",
)


def generate(path, config, first, last, options):
    """Ask the generator for scripts; it gives up on a seed now and then, and then on the whole range."""
    command = [sys.executable, GENERATOR, "--bin", ORACLE, "--config", config, "--seeds", f"{first}-{last}"]
    made = subprocess.run([*command, *options, "--out", str(path)], capture_output=True, text=True, check=False)
    return made.returncode == 0


def bundles(folder, config, count, options):
    """Yield files with scripts; a range that the generator gives up on is asked for seed by seed."""
    for first in range(SEED, SEED + count, CHUNK):
        path, last = folder / f"{config}-{first}.jsonl", min(first + CHUNK, SEED + count) - 1
        if generate(path, config, first, last, options):
            yield path
            continue
        for seed in range(first, last + 1):
            if generate(path, config, seed, seed, options):
                yield path


@pytest.mark.parametrize("config", ["x86_64", "i386", "i386-pae", "arm"])
@pytest.mark.parametrize(("options", "count"), [([], SCRIPTS - SCRIPTS // 5), (["--ending"], SCRIPTS // 5)],
                         ids=["running", "ending"])  # fmt: skip
def test_fresh_scripts_replay_without_a_difference(tmp_path, registry, config, options, count):
    scripts = 0
    for path in bundles(tmp_path, config, count, options):
        tally = replay_file(str(path), registry)
        assert tally.mismatches == 0, tally.first
        scripts += tally.scripts
        path.unlink()
    assert scripts >= count - max(1, count // 100)
