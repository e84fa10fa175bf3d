"""What to run and on what: the nearest of argument, environment and file, each key on its own.

The file is the nearest ``vmcore.toml``, or ``pyproject.toml`` with a ``[tool.vmcore]`` table, from the
current directory upwards; in one directory ``vmcore.toml`` wins. Every layer is checked whole, also
where a nearer one overrides it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attrs import field, fields, frozen
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from vmcore.architecture import Architecture, LayoutRequest
from vmcore.errors import ConfigurationError, UnitError, choices
from vmcore.units import Bank, parse_ram, parse_size

PREFIX = "VMCORE_"


@frozen(kw_only=True)
class Selection:
    """What was chosen, and where each choice comes from.

    Attributes:
        arch: name of an architecture; empty only where `select` was told that none is needed.
        ram: bytes or banks; None: the architecture's default.
        vmalloc: bytes of ``vmalloc=``; None: not given.
        platform: one of the architecture's platforms; None: its first.
        cpus: number of CPUs.
        nodes: number of memory nodes.
        block: entry-point names of plugins to leave out.
        sources: key to "--arch", "VMCORE_ARCH", "vmcore.toml", ... for the keys somebody gave.
    """

    arch: str = ""
    ram: int | tuple[Bank, ...] | None = None
    vmalloc: int | None = None
    platform: str | None = None
    cpus: int = 1
    nodes: int = 1
    block: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(factory=dict, eq=False)

    def origin(self, key: str) -> str:
        """Return "from VMCORE_ARCH" and the like, or "by default", for messages."""
        return f"from {self.sources[key]}" if key in self.sources else "by default"

    def request(self, arch: Architecture) -> LayoutRequest:
        """Return what *arch* is to lay out, its default RAM where none was chosen."""
        ram = arch.default_ram if self.ram is None else self.ram
        return LayoutRequest(ram=ram, vmalloc=self.vmalloc, platform=self.platform)


KEYS = tuple(f.name for f in fields(Selection) if f.name != "sources")


def _invalid(value: object, expected: str) -> ConfigurationError:
    return ConfigurationError(f"found {value!r}, expected {expected}")


def _name(value: object, _: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _invalid(value, "a name")
    return value.strip()


def _ram(value: object, _: object) -> int | tuple[Bank, ...]:
    if isinstance(value, tuple) and value and all(isinstance(bank, Bank) for bank in value):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise _invalid(value, "a size such as 512M or 0x20000000, or banks such as 0-3G,4G-5G")
    return parse_ram(value)


def _vmalloc(value: Any, _: object) -> int:
    return parse_size(value, "vmalloc")


def _count(value: object, _: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _invalid(value, "a whole number, 1 or more")
    return value


def _names(value: object, _: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(n, str) and n for n in value):
        raise _invalid(value, "a list of plugin names")
    return tuple(value)


_converter = Converter(detailed_validation=True)
_converter.register_structure_hook(
    Selection,
    make_dict_structure_fn(
        Selection,
        _converter,
        _cattrs_forbid_extra_keys=True,
        arch=override(struct_hook=_name),
        ram=override(struct_hook=_ram),
        vmalloc=override(struct_hook=_vmalloc),
        platform=override(struct_hook=_name),
        cpus=override(struct_hook=_count),
        nodes=override(struct_hook=_count),
        block=override(struct_hook=_names),
        sources=override(omit=True),
    ),
)


@frozen
class _Layer:
    """Values somebody gave in one place; ``where`` names the place of one key in an error."""

    raw: Mapping[str, object]
    where: Callable[[str], str]
    source: Callable[[str], str]

    def read(self) -> dict[str, object]:
        """Return key to checked value, for the keys that were given."""
        try:
            chosen = _converter.structure(self.raw, Selection)
        except ClassValidationError as error:
            raise self._explain(error) from None
        return {key: getattr(chosen, key) for key in self.raw}

    def _explain(self, error: ClassValidationError) -> ConfigurationError:
        """Turn what cattrs collected into one error; further ones become its notes."""
        attributes, others = error.group_exceptions()
        unknown = [e for e in others if isinstance(e, ForbiddenExtraKeysError)]
        lines = [f"{self.where(key)}: unknown, {choices(key, KEYS, 'valid')}"
                 for e in unknown for key in sorted(e.extra_fields)]  # fmt: skip
        lines += [f"{self.where(note.name)}: {str(e).removeprefix(f'{note.name}: ')}" for e, note in attributes]
        strangers = [e for e in others if e not in unknown]
        strangers += [e for e, _ in attributes if not isinstance(e, (ConfigurationError, UnitError))]
        if strangers:
            raise error
        first = ConfigurationError(lines[0])
        for line in lines[1:]:
            first.add_note(line)
        return first


def _read_text(key: str, text: object) -> object:
    """Read what only text can carry (a command line, a variable): numbers and lists."""
    if not isinstance(text, str):
        return text
    if key == "block":
        return [part.strip() for part in text.split(",") if part.strip()]
    if key in ("cpus", "nodes") and re.fullmatch(r"\s*[+-]?[0-9]+\s*", text):
        return int(text)
    return text


def _from_arguments(arguments: Mapping[str, object], named: str) -> _Layer:
    raw = {key: _read_text(key, value) for key, value in arguments.items() if value is not None}
    return _Layer(raw, named.format, named.format)


def _variable(key: str) -> str:
    return PREFIX + key.upper()


def _from_environment() -> _Layer:
    known = [_variable(key) for key in KEYS]
    for name in os.environ:
        # Other programs have variables of this prefix too: only what looks like a slip is an error.
        bare = [v.removeprefix(PREFIX) for v in known]
        slip = name not in known and name.startswith(PREFIX)
        if slip and get_close_matches(name.removeprefix(PREFIX), bare, cutoff=0.7):
            raise ConfigurationError(f"{name}: unknown environment variable, {choices(name, known, 'valid')}")
    raw = {key: _read_text(key, os.environ[_variable(key)]) for key in KEYS if os.environ.get(_variable(key))}
    return _Layer(raw, _variable, _variable)


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode()
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+)", str(error))
        line = at[1] if at else str(text.count("\n") + 1)
        raise ConfigurationError(f"{path}:{line}: not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: found a byte that is not UTF-8, {error}") from error


def _table(path: Path) -> Mapping[str, object] | None:
    """Return the keys of one file; None where a ``pyproject.toml`` is not about vmcore."""
    document = _load(path)
    if path.name != "pyproject.toml":
        return document
    tool = document.get("tool")
    if not isinstance(tool, dict) or "vmcore" not in tool:
        return None
    found = tool["vmcore"]
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path}: tool.vmcore: found {found!r}, expected a table [tool.vmcore]")
    return found


def _from_file() -> _Layer:
    path = Path("vmcore.toml")
    try:
        here = Path.cwd()
        for path in (d / name for d in (here, *here.parents) for name in ("vmcore.toml", "pyproject.toml")):
            if path.is_file() and (found := _table(path)) is not None:
                return _file_layer(path.name if path.parent == here else str(path), found)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    return _Layer({}, str, str)


def _file_layer(shown: str, found: Mapping[str, object]) -> _Layer:
    inside = "tool.vmcore." if shown.endswith("pyproject.toml") else ""
    return _Layer(found, lambda key: f"{shown}: {inside}{key}", lambda key: shown)


def select(*, need_arch: bool = True, named: str = "argument {}", **arguments: object) -> Selection:
    """Choose architecture, memory, CPUs and plugins: argument, else environment, else file, else default.

    Args:
        need_arch: whether it is an error that nobody chose an architecture.
        named: how messages call an argument; the command line has ``--{}``.
        **arguments: `Selection` by its attributes; None: not given. Text is read as a command line has it:
            "2" for a number, "a,b" for a list.

    Raises:
        ConfigurationError: an unknown key or a bad value in any place, a file that cannot be read, no
            architecture anywhere.
    """
    chosen: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in (_from_file(), _from_environment(), _from_arguments(arguments, named)):
        values = layer.read()
        chosen.update(values)
        sources.update({key: layer.source(key) for key in values})
    selection = Selection(**chosen, sources=sources)
    if need_arch and not selection.arch:
        raise _no_architecture(selection)
    return selection


def _no_architecture(selection: Selection) -> ConfigurationError:
    from vmcore.registry import load  # noqa: PLC0415  # costs the import of every plugin: only for this message

    installed = ", ".join(load(selection.block).architectures) or "none (install the package: pip install .)"
    return ConfigurationError(
        'no architecture chosen: give the argument arch="...", the option --arch, the variable VMCORE_ARCH, '
        f'or arch = "..." in vmcore.toml or [tool.vmcore] of pyproject.toml; installed: {installed}'
    )
