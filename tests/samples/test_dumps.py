"""The shipped RAM dumps: what they say of themselves, and the commands that take them by name."""

import json
import lzma
import re

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.dumps import capture
from vmcore import samples
from vmcore.cli import main
from vmcore.dump import open_dump
from vmcore.errors import VmcoreError
from vmcore.texts.vmallocinfo import read_vmallocinfo

#: Name to the capture it was made from, its record, pages and areas.
DUMPS = {
    "arm-short-ram": ("arm-short", "armv7-highmem", 39, 256),
    "i386-pae-ram": ("i386-pae", "i386-pae-highmem", 32, 234),
    "x86_64-l4-ram": ("x86_64-l4", "x86_64", 169, 288),
}
NAMES = sorted(DUMPS)


def run(*arguments, **options):
    return CliRunner().invoke(main, list(map(str, arguments)), **options)


def test_every_dump_is_named_and_no_trace_has_its_name():
    assert samples.dumps() == NAMES
    assert not set(NAMES) & set(samples.names())


@pytest.mark.parametrize("name", NAMES)
def test_a_dump_is_the_capture_and_what_is_said_of_it_is_so(name):
    origin, record, pages, areas = DUMPS[name]
    sample = samples.describe_dump(name)
    assert (sample.name, sample.record, sample.pages, sample.areas) == (name, record, pages, areas)
    assert sample.kernel.startswith(f"Linux {capture(origin).meta['kernel_release']} (Debian ")
    assert "unmodified Debian kernel" in sample.source
    with samples.dump_file(name) as path, open_dump(path, name="it") as dump:
        assert path.read_bytes() == capture(origin).core.read_bytes()
        assert (dump.size, dump.name) == (pages * 4096, "it")
    folder = capture(origin).folder
    with samples.open_vmcoreinfo(name) as stream:
        assert stream.read() == (folder / "vmcoreinfo.txt").read_bytes()
    with samples.open_vmallocinfo(name) as packed, lzma.open(packed) as stream:
        assert stream.read() == (folder / "vmallocinfo.txt").read_bytes()
    with samples.open_vmallocinfo(name) as stream:
        assert len(read_vmallocinfo(stream)) == areas


@pytest.mark.parametrize("name", NAMES)
def test_a_dump_walks_and_audits_by_its_name_alone(name, monkeypatch, tmp_path):
    monkeypatch.delenv("VMCORE_ARCH", raising=False)
    monkeypatch.chdir(tmp_path)
    origin, record, _, areas = DUMPS[name]
    root = capture(origin).root
    rows = capture(origin).rows()
    addresses = tmp_path / "addresses"
    addresses.write_text("".join(f"{virtual:#x}\n" for virtual, _ in rows))
    assert run("walk", f"sample:{name}", "--addresses", addresses, "--npz", tmp_path / "a.npz").exit_code == 1
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["physical"].tolist() == [-1 if p is None else p for _, p in rows]
    listed = run("walk", f"sample:{name}")
    head = f"sample:{name} as {record}, the sample's record, root {root:#x} (sample:{name}: SYMBOL("
    assert (listed.exit_code, listed.stderr) == (0, "")
    assert listed.stdout.startswith(head)
    leaves = sum(capture(origin).meta["leaf_sizes"].values())
    assert listed.stdout.splitlines()[1].startswith(f"{leaves:,} mappings in ")
    audited = run("audit", f"sample:{name}", "--vmallocinfo", f"sample:{name}")
    assert (audited.exit_code, audited.stderr) == (0, "")
    assert audited.stdout.startswith(head)
    irregular = {"arm-short-ram": 2}.get(name, 1)
    assert f"\n{areas} areas, {irregular} of them not regular; 0 findings are odd\n" in audited.stdout


def test_the_record_of_a_sample_stands_before_the_environment_and_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("VMCORE_ARCH", "x86_64")
    (tmp_path / "vmcore.toml").write_text('arch = "armv5"\n')
    monkeypatch.chdir(tmp_path)
    answer = json.loads(run("walk", "sample:i386-pae-ram", "--json", "0xf7841000").stdout)
    assert (answer["arch"], answer["addresses"][0]["physical"]) == ("i386-pae-highmem", "0x17fc0d000")


def test_an_architecture_that_is_given_counts_and_is_not_the_samples():
    fits = run("walk", "sample:i386-pae-ram", "--arch", "i386-pae", "0xf7841000")
    assert (fits.exit_code, fits.stderr) == (0, "")
    assert fits.stdout.startswith("sample:i386-pae-ram as i386-pae, root 0x1f16000 (")
    wrong = run("walk", "sample:i386-pae-ram", "--arch", "x86_64", "0xf7841000")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert wrong.stderr == (
        "vmcore: error: sample:i386-pae-ram: not a kernel of 'x86_64': ELF e_machine is 3, expected 62; "
        "records that fit: i386-pae, i386-pae-highmem\n"
    )


def test_the_vmcoreinfo_of_a_sample_leads_to_the_root_of_its_capture():
    name = capture("arm-short")
    arguments = (
        "walk",
        name.core,
        "--arch",
        "armv7-highmem",
        "--vmcoreinfo",
        "sample:arm-short-ram",
        "0xbf00c000",
    )
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert ", root 0x40204000 (sample:arm-short-ram: SYMBOL(swapper_pg_dir)" in result.stdout
    assert result.stdout.endswith("\n  physical address 0xbe890000\n")


def test_a_root_that_is_given_counts_before_the_samples_vmcoreinfo():
    result = run("walk", "sample:arm-short-ram", "--root", "0x4020406a", "0xbf00c000")
    assert ", root 0x40204000 (given as 0x4020406a, without its low bits)\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["walk", "sample:i386-pae"],
            r"sample 'i386-pae' is a trace, for vmcore replay; expected one of arm-short-ram,",
        ),
        (
            ["walk", "sample:i386-pae-ramm"],
            r"no sample 'i386-pae-ramm', expected .*; did you mean 'i386-pae-ram'\?",
        ),
        (
            ["walk", "sample:arm-short-ram", "--vmcoreinfo", "sample:x"],
            "no sample 'x', expected one of arm-short-ram,",
        ),
        (
            ["audit", "sample:arm-short-ram", "--vmallocinfo", "sample:x"],
            "no sample 'x', expected one of arm-short,",
        ),
        (
            ["replay", "sample:i386-pae-ram", "--arch", "i386"],
            r"sample 'i386-pae-ram' is a RAM dump, for vmcore walk and vmcore audit; expected one of arm-short,",
        ),
    ],
)
def test_a_name_that_is_none_or_of_another_kind_is_said_to_be(arguments, message):
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.match(f"vmcore: error: {message}", result.stderr), result.stderr


def test_an_unknown_dump_in_python():
    with pytest.raises(VmcoreError, match=r"^no sample 'zzz', expected one of arm-short-ram, .*x86_64-l4-ram$"):
        samples.describe_dump("zzz")
