"""Arguments that name a dump, its architecture and its root table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import wraps
from typing import Any

import click

from vmcore import samples
from vmcore.architecture import Architecture
from vmcore.cli.inputs import sample_name
from vmcore.cli.options import machine_options
from vmcore.cli.output import echo
from vmcore.dump.open import NAMES, open_dump
from vmcore.dump.root import read_vmcoreinfo
from vmcore.dump.rooted import RootedDump, root_dump
from vmcore.errors import ConfigurationError, UnitError
from vmcore.linking.registry import load
from vmcore.linking.selection import Selection
from vmcore.texts.vmcoreinfo import VmcoreInfo
from vmcore.units import Bank, parse_ram, parse_size

Function = Callable[..., Any]


def warn(source: RootedDump, partial: Iterable[str]) -> None:
    """Write warnings to stderr: the problems of a dump, and why a result is partial."""
    for problem in source.problems:
        echo(f"vmcore: warning: {source.dump.name}: {problem}", err=True)
    for why in partial:
        echo(f"vmcore: partial: {why}", err=True)


_OPTIONS = (
    click.argument("dump_file", metavar="DUMP"),
    click.option("--root", metavar="PA", help="Physical address of the root table, or the register that has it."),
    click.option("--vmcoreinfo", metavar="FILE", help="The kernel's VMCOREINFO, to find the root with."),
    click.option("--base", metavar="PA", help="Raw image: physical address of its first byte."),
    click.option("--bank", "banks", metavar="START-END", multiple=True, help="Raw image: a bank (repeatable)."),
    click.option("--format", "kind", metavar="|".join(NAMES), help="What DUMP is, where it does not say so."),
)


def dump_options(function: Function) -> Function:
    """Decorate a command with the arguments of a dump. It is called with ``source=``."""

    @wraps(function)
    def command(
        *args: Any, dump_file: str, root: str | None, vmcoreinfo: str | None, base: str | None,
        banks: tuple[str, ...], kind: str | None, by_sample: bool, selection: Selection, **others: Any,
    ) -> Any:  # fmt: skip
        registry = load(selection.block)
        arch = registry.get(selection.arch)
        given = None if root is None else parse_address(root, "--root", _PHYSICAL_MOST)
        info = None if vmcoreinfo is None else _read_vmcoreinfo(vmcoreinfo)
        start = None if base is None else parse_size(base, "--base")
        with ExitStack() as stack:
            path = _dump_path(dump_file, stack)
            dump = stack.enter_context(
                open_dump(path, base=start, banks=_banks(banks), format=kind, name=dump_file)
            )
            source = root_dump(
                dump,
                arch,
                root=given,
                vmcoreinfo=info,
                records=registry.architectures.values(),
                by_sample=by_sample,
            )
            return function(*args, source=source, **others)

    machine = machine_options("arch", "block")(command)

    @wraps(machine)
    def decorated(*args: Any, dump_file: str, arch: str | None, vmcoreinfo: str | None, **others: Any) -> Any:
        sample, by_sample = sample_name(dump_file), False
        if sample is not None:
            record = samples.describe_dump(sample).record
            arch, by_sample = arch or record, arch is None
            vmcoreinfo = dump_file if vmcoreinfo is None else vmcoreinfo
        return machine(*args, dump_file=dump_file, arch=arch, vmcoreinfo=vmcoreinfo, by_sample=by_sample, **others)

    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _dump_path(file: str, stack: ExitStack) -> str:
    sample = sample_name(file)
    return file if sample is None else str(stack.enter_context(samples.dump_file(sample)))


def _read_vmcoreinfo(file: str) -> VmcoreInfo:
    sample = sample_name(file)
    if sample is None:
        return read_vmcoreinfo(file)
    with samples.open_vmcoreinfo(sample) as stream:
        return VmcoreInfo.parse(stream.read(), file)


def _banks(texts: tuple[str, ...]) -> tuple[Bank, ...] | None:
    """Read banks, in the order of the raw image."""
    found: list[Bank] = []
    for text in texts:
        banks = parse_ram(text)
        if isinstance(banks, int):
            raise UnitError(f"--bank: found {text!r}, expected START-END such as 0-3G")
        found += banks
    return tuple(found) or None


_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]+")
_BARE = re.compile(r"(?=[0-9]*[a-f])[0-9a-f]{1,16}")
_PHYSICAL_MOST = (1 << 64) - 1  #: of registers of 8 bytes


def parse_address(text: str, argument: str, most: int) -> int:
    """Read an address in hexadecimal with ``0x``, because digits alone may be meant as decimal.

    Args:
        text: The address.
        argument: Its name, for messages.
        most: Largest address.

    Raises:
        ConfigurationError: It is not an address, or larger than ``most``.
    """
    if not _ADDRESS.fullmatch(text):
        bare = text.strip().replace("_", "").lower().removeprefix("0x")
        meant = f"0x{bare}" if _BARE.fullmatch(bare) else "0xc0000000"
        raise ConfigurationError(
            f"{argument}: found {text[:40]!r}, expected an address in hexadecimal with 0x, such as {meant}"
        )
    address = int(text, 16)
    if address > most:
        found = f"{address:#x}" if address < 1 << 128 else f"{text[:40]}..."
        raise ConfigurationError(f"{argument}: found {found}, expected at most {most:#x}")
    return address


def parse_range(text: str, arch: Architecture) -> tuple[int, int]:
    """Read ``START-END``, END not included, or ``START-`` up to the end of the address space.

    Raises:
        ConfigurationError: It is not a range, or the range is empty.
    """
    first, dash, last = text.partition("-")
    if not first or not dash:
        raise ConfigurationError(f"--range: found {text[:80]!r}, expected START-END such as 0xf8000000-0xfe000000")
    start = parse_address(first, "--range", arch.word_mask)
    end = parse_address(last, "--range", arch.word_mask + 1) if last else arch.word_mask + 1
    if end <= start:
        raise ConfigurationError(f"--range: found {start:#x}-{end:#x}, expected an end above the start")
    return start, end
