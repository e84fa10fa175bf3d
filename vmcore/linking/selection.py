"""Choose the machine to run. Each key comes from an argument, else the environment, else a file.

The file is the nearest ``vmcore.toml``, or ``pyproject.toml`` with a ``[tool.vmcore]`` table, from the current
directory upwards. In one directory ``vmcore.toml`` wins. Every place is checked as a whole, also if another one
overrides its keys. A ``pyproject.toml`` that cannot be read and does not name ``tool.vmcore`` belongs to another
project and is passed over.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
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
    """The choices, and the place where each was found.

    Attributes:
        arch: name of an architecture; empty only if `select` was called with ``need_arch=False``.
        ram: bytes or banks; None: the architecture's default.
        vmalloc: bytes of ``vmalloc=``; None: not given.
        platform: one of the architecture's platforms; None: its first.
        cpus: number of CPUs.
        nodes: number of memory nodes.
        block: entry-point names of plugins to leave out.
        sources: key to "--arch", "VMCORE_ARCH", "vmcore.toml", ... for the keys that were given.
        warnings: lines about variables and files that may have been meant for vmcore.
    """

    arch: str = ""
    ram: int | tuple[Bank, ...] | None = None
    vmalloc: int | None = None
    platform: str | None = None
    cpus: int = 1
    nodes: int = 1
    block: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(factory=dict, eq=False)
    warnings: tuple[str, ...] = field(default=(), eq=False)

    def origin(self, key: str) -> str:
        """Return "from VMCORE_ARCH" and the like, or "by default", for messages."""
        return f"from {self.sources[key]}" if key in self.sources else "by default"

    def request(self, arch: Architecture) -> LayoutRequest:
        """Return the request for a layout of *arch*. Without a choice of RAM, it has the default of *arch*."""
        ram = arch.default_ram if self.ram is None else self.ram
        return LayoutRequest(ram=ram, vmalloc=self.vmalloc, platform=self.platform)


KEYS = tuple(f.name for f in fields(Selection) if f.name not in ("sources", "warnings"))

_FILE_MOST = 1 << 20  #: bytes of a configuration file
_PARTS_MOST = 64  #: parts of a dotted key
#: An unterminated string ends at the end of its line, so that no text is read twice.
_TOKENS = re.compile(
    r"""(?P<part>[\w-]++|"(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?)|(?P<dot>[ \t]*+\.[ \t]*+)"""
    r"""|(?P<line>\n)|(?P<rest>[ \t]++|.)"""
)
_SHORT = Repr()  # a value of a file may be long, or nested deeply
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
#: ``tool.vmcore`` as a heading or a key, in a file that may be no TOML; it may begin with a byte order mark
#: (blanks without line ends, taken at once: else the search is quadratic)
_NAMES_VMCORE = re.compile(
    rb"(?m)^[ \t\xef\xbb\xbf\xff\xfe]*+(?:"
    rb"(?:\[[ \t]*+)?[\"']?tool[\"']?[ \t]*+\.[ \t]*+[\"']?vmcore[\"']?[ \t]*+[].=]"
    rb"|[\"']?vmcore[\"']?[ \t]*+[.=])"
)
#: Variables that vmcore's own tests read, see tox.ini.
_OF_TESTS = (
    "VMCORE_MUTANTS",
    *("VMCORE_ORACLE", "VMCORE_ORACLE_GEN", "VMCORE_ORACLE_SCRIPTS", "VMCORE_ORACLE_SEED"),
    *("VMCORE_FUZZ_INPUTS", "VMCORE_FUZZ_PROCESSES", "VMCORE_FUZZ_SECONDS", "VMCORE_FUZZ_SEED"),
)


def _invalid(value: object, expected: str) -> ConfigurationError:
    return ConfigurationError(f"found {_SHORT.repr(value)}, expected {expected}")


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
        warnings=override(omit=True),
    ),
)


@frozen
class _Layer:
    """The values from one place. ``where`` gives the place of a key for an error message."""

    raw: Mapping[str, object]
    where: Callable[[str], str]
    source: Callable[[str], str]

    def read(self) -> dict[str, object]:
        """Return the checked values by key, for the given keys."""
        try:
            chosen = _converter.structure(self.raw, Selection)
        except ClassValidationError as error:
            raise self._explain(error) from None
        return {key: getattr(chosen, key) for key in self.raw}

    def _explain(self, error: ClassValidationError) -> ConfigurationError:
        """Turn the errors that cattrs collected into one error. All after the first become its notes."""
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
    """Read the values that only text can carry (a command line, a variable): numbers and lists."""
    if not isinstance(text, str):
        return text
    if key == "block":
        return [part.strip() for part in text.split(",") if part.strip()]
    if key in ("cpus", "nodes") and re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
        return int(text.strip())
    return text


def _from_arguments(arguments: Mapping[str, object], named: str) -> _Layer:
    raw = {key: _read_text(key, value) for key, value in arguments.items() if value is not None}
    return _Layer(raw, named.format, named.format)


def _variable(key: str) -> str:
    return PREFIX + key.upper()


def _from_environment() -> _Layer:
    known = [_variable(key) for key in KEYS]
    for name in os.environ:
        # Other programs may use this prefix too. Only a name that looks misspelt is an error.
        bare = [v.removeprefix(PREFIX) for v in known]
        slip = name not in (*known, *_OF_TESTS) and name.startswith(PREFIX)
        if slip and get_close_matches(name.removeprefix(PREFIX), bare, cutoff=0.7):
            raise ConfigurationError(f"{name}: unknown environment variable, {choices(name, known, 'valid')}")
    raw = {key: _read_text(key, os.environ[_variable(key)]) for key in KEYS if os.environ.get(_variable(key))}
    return _Layer(raw, _variable, _variable)


def _strangers() -> tuple[str, ...]:
    """Return a line for each variable of our prefix that nothing reads."""
    known = (*map(_variable, KEYS), *_OF_TESTS)
    names = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    return tuple(f"{n}: unknown environment variable, it is left out; {choices(n, known, 'valid')}" for n in names)


def _read_file(path: Path) -> bytes:
    try:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "something else" if path.exists() else "a link to nothing"
            raise ConfigurationError(f"{path}: found {kind}, expected a text file; rename or remove it")
        with path.open("rb") as file:
            data = file.read(_FILE_MOST + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    return data


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    if len(data) > _FILE_MOST:
        raise ConfigurationError(f"{path}: found more than {_FILE_MOST:#x} bytes, expected a short text file")
    text = ""
    try:
        text = data.decode("utf-8-sig")
        if long := _long_key(text):
            raise ConfigurationError(
                f"{path}:{long}: found a key of more than {_PARTS_MOST} parts, expected keys: {', '.join(KEYS)}"
            )
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+)", str(error))
        line = at[1] if at else str(text.count("\n") + 1)
        raise ConfigurationError(f"{path}:{line}: not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: found a byte that is not UTF-8, {error}") from error
    except ValueError as error:  # a number of thousands of digits
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigurationError(
            f"{path}: found arrays or tables nested too deeply to be read, expected keys: {', '.join(KEYS)}"
        ) from None


def _long_key(text: str) -> int:
    """Return the line of a dotted key with more than `_PARTS_MOST` parts, or 0 if there is none.

    The time and the memory that tomllib takes grow with the square of the parts.
    """
    parts, dotted, line = 0, False, 1
    for token in _TOKENS.finditer(text):
        kind = token.lastgroup
        if kind == "part":
            parts = parts + 1 if dotted else 1
            if parts > _PARTS_MOST:
                return line
        elif kind == "line":
            line += 1
        dotted = kind == "dot"
    return 0


def _table(path: Path, document: Mapping[str, Any]) -> Mapping[str, object] | None:
    """Return the keys for vmcore in a ``pyproject.toml``, or None if it has none."""
    tool = document.get("tool")
    if not isinstance(tool, dict) or "vmcore" not in tool:
        return None
    found = tool["vmcore"]
    if not isinstance(found, dict):
        shown = _SHORT.repr(found)
        raise ConfigurationError(f"{path}: tool.vmcore: found {shown}, expected a table [tool.vmcore]")
    return found


@frozen
class _Files:
    """The nearest file for vmcore with its keys, and the faults of other projects' files on the way.

    Attributes:
        path: the path of the file; None if there is no such file.
        keys: its keys for vmcore.
        passed: a line for each file that was passed over.
        unseen: a line for each of those that could not be read.
    """

    path: Path | None
    keys: Mapping[str, object]
    passed: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


def _search() -> _Files:
    passed: list[str] = []
    unseen: list[str] = []
    for folder in _folders():
        own, project = folder / "vmcore.toml", folder / "pyproject.toml"
        if os.path.lexists(own):
            return _Files(own, _parse(own, _read_file(own)), tuple(passed), tuple(unseen))
        if not os.path.lexists(project):
            continue
        data = None
        try:
            data = _read_file(project)
            document = _parse(project, data)
        except ConfigurationError as error:
            if data is not None and _NAMES_VMCORE.search(data.replace(b"\0", b"")):  # UTF-16 has zeros
                raise
            passed.append(str(error))
            if isinstance(error.__cause__, OSError):
                unseen.append(f"{error}; it is left out, whatever it says for vmcore")
            continue
        if (found := _table(project, document)) is not None:
            return _Files(project, found, tuple(passed), tuple(unseen))
    return _Files(None, {}, tuple(passed), tuple(unseen))


def _folders() -> tuple[Path, ...]:
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed
        return ()
    return here, *here.parents


def find_file() -> Path | None:
    """Return the configuration file that `select` reads, or None if there is none.

    Raises:
        ConfigurationError: it cannot be read.
    """
    return _search().path


def _from_file(files: _Files) -> _Layer:
    if files.path is None:
        return _Layer({}, str, str)
    here = files.path.parent == Path.cwd()
    return _file_layer(files.path.name if here else str(files.path), files.keys)


def _file_layer(shown: str, found: Mapping[str, object]) -> _Layer:
    inside = "tool.vmcore." if shown.endswith("pyproject.toml") else ""
    return _Layer(found, lambda key: f"{shown}: {inside}{key}", lambda key: shown)


def select(*, need_arch: bool = True, named: str = "argument {}", **arguments: object) -> Selection:
    """Choose architecture, memory, CPUs and plugins: argument, else environment, else file, else default.

    Args:
        need_arch: whether it is an error if no architecture was chosen.
        named: the form of an argument's name in messages; the command line uses ``--{}``.
        **arguments: values for the attributes of `Selection`; None: not given. Text is read as on a command line,
            for example "2" for a number or "a,b" for a list.

    Raises:
        ConfigurationError: a place has an unknown key or a bad value, a file cannot be read, or no place gives an
            architecture.
    """
    chosen: dict[str, Any] = {}
    sources: dict[str, str] = {}
    files = _search()
    for layer in (_from_file(files), _from_environment(), _from_arguments(arguments, named)):
        values = layer.read()
        chosen.update(values)
        sources.update({key: layer.source(key) for key in values})
    selection = Selection(**chosen, sources=sources, warnings=(*files.unseen, *_strangers()))
    if need_arch and not selection.arch:
        error = _no_architecture(selection)
        for line in files.passed:
            error.add_note(f"a file that may say it was passed over: {line}")
        raise error
    return selection


def _no_architecture(selection: Selection) -> ConfigurationError:
    from vmcore.linking.registry import load  # noqa: PLC0415  # costs the import of every plugin: only for this message

    installed = ", ".join(load(selection.block).architectures) or "none (install the package: pip install .)"
    return ConfigurationError(
        'no architecture chosen: give the argument arch="...", the option --arch, the variable VMCORE_ARCH, '
        f'or arch = "..." in vmcore.toml or [tool.vmcore] of pyproject.toml; installed: {installed}'
    )
