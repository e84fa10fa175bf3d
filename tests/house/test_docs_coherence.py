"""docs/coherence.md: its sessions run, its scenes are what the command prints, its tables are what is there."""

import doctest
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from click.testing import CliRunner
from vmcore_arches.arm.armv7 import ALIASING_VIPT

from vmcore.cli import main
from vmcore.coherence import report as coherence
from vmcore.flags import VM
from vmcore.scenes.catalogue import SCENES

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "coherence.md").read_text("utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_the_sessions_print_what_they_show(number):
    assert len(blocks("pycon")) == 2
    test = doctest.DocTestParser().get_doctest(blocks("pycon")[number], {}, "coherence.md", "coherence.md", 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(test, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("number", [0, 1])
def test_the_scenes_are_what_the_command_prints(number):
    assert len(blocks("console")) == 2
    command, _, printed = blocks("console")[number].partition("\n")
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert program == "vmcore"
    assert arguments[1] in SCENES
    result = CliRunner().invoke(main, arguments, env={"COLUMNS": "100"})
    assert (result.exit_code, result.output) == (0, printed)


def test_the_table_of_tlbs_and_caches_is_what_the_records_say(registry):
    rows = re.findall(r"^\| (`.*`) \| (\d+)(, tagged)? \| .* \| (.*) \|$", TEXT, re.MULTILINE)
    found = {}
    for names, slots, tagged, cache in rows:
        for name in re.findall(r"`([^`]+)`", names):
            found[name] = int(slots), bool(tagged), cache.endswith("not modelled")
    built_in = [name for name, plugin in registry.origin.items() if plugin == "builtin"]
    assert set(found) == set(built_in)
    for name in built_in:
        hardware = registry.get(name).hardware
        modelled = hardware.cache is not None and hardware.cache.modelled
        assert found[name] == (hardware.tlb.entries, hardware.tlb.tagged, not modelled)
        assert not hardware.tlb.keeps_absent
    cache = registry.get("armv5").hardware.cache
    assert (cache.kind, cache.size, cache.ways, cache.line) == ("vivt", 32 << 10, 4, 32)
    assert (cache.writes_back_by, cache.write_allocate) == ("virtual", False)


def test_the_table_of_reports_has_every_kind():
    kinds = re.findall(r"^\| `([a-z ]+)` \| .* \| `", TEXT, re.MULTILINE)
    kinds += re.findall(r"^\| `([a-z ]+)` \| .* \| the same \|$", TEXT, re.MULTILINE)
    assert set(kinds) == {
        coherence.STALE_TRANSLATION, coherence.FRAME_IN_USE, coherence.STALE_LINE, coherence.LOST_LINE,
        coherence.UNREPAIRED_FAULT,
    }  # fmt: skip


def test_the_flush_that_reaches_only_the_calling_cpu_is_reported(registry, kernel):
    """The last paragraph, with the record it tells how to make."""
    record = registry.get("armv7")
    k = kernel(evolve(record, hardware=evolve(record.hardware, cache=ALIASING_VIPT)), cpus=2, check_coherence=True)
    frames = k.alloc_pages(2, 0xD0, -1).tolist()
    linear = {frame: (frame << 12) - k.layout.phys_offset + k.layout.page_offset for frame in frames}
    frame = next(f for f in frames if (linear[f] ^ k.layout.vmalloc_start) & 0x3000)
    k.cpus[1].load(linear[frame], 5)
    k.cpus[1].store(linear[frame], b"newer")
    mapped = k.vmap(np.array([frame]), 1, int(VM.MAP), k.page_kernel)
    assert k.cpus[0].load(mapped, 5) == bytes(5)
    (report,) = k.coherence.reports
    assert (report.kind, report.cpu, report.address, report.missing, report.reached) == (
        coherence.STALE_LINE, 1, mapped, "flush_cache_vmap", 0,
    )  # fmt: skip
    assert "reached that CPU only" in report.text


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_links_lead_somewhere(target):
    assert (DOCS / target).exists()
