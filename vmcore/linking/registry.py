"""Find the installed plugins, check that they work, and collect the architectures that they bring."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

import pluggy
from attrs import define, evolve, field

from vmcore import hookspecs
from vmcore.architecture import Architecture
from vmcore.errors import ConfigurationError, PluginError, UnknownArchitecture, choices
from vmcore.hookspecs import API_VERSION, PROJECT
from vmcore.linking import generations, recorded, weak
from vmcore.placement.generations import generation_of
from vmcore.placement.seam import Generation

GIVEN = "given by the program"  #: distribution of a plugin that came without an entry point
_ALIKE = 0.65  # least similarity of two spellings for a suggestion; 1 means that they are equal
PLACEMENTS = "placements"  #: name of the core's own plugin that brings the built-in generations
RECORD = "record"  #: name of the core's own plugin that defines the symbols of records
GROUP = "vmcore"  #: entry-point group through which every plugin arrives


@define(eq=False)
class Registry:
    """The plugins of one run: loaded, broken and blocked.

    Attributes:
        manager: the pluggy manager in which all working plugins are registered.
        broken: entry-point name to `PluginError`, for plugins that do not work.
        blocked: entry-point names of plugins that were left out on request.
        architectures: name to record, in order of name.
        origin: architecture name to entry-point name.
        placements: name to placement generation, in order of registration.
        sources: name of each working plugin to (distribution, module).
    """

    manager: pluggy.PluginManager
    broken: dict[str, PluginError] = field(factory=dict)
    blocked: frozenset[str] = frozenset()
    _architectures: dict[str, Architecture] = field(factory=dict)
    origin: dict[str, str] = field(factory=dict)
    sources: dict[str, tuple[str, str]] = field(factory=dict)
    placements: dict[str, Generation] = field(factory=dict)
    _placement_origin: dict[str, str] = field(factory=dict)

    @property
    def architectures(self) -> MappingProxyType[str, Architecture]:
        """Name to record, in order of name."""
        return MappingProxyType(dict(sorted(self._architectures.items())))

    def get(self, name: str) -> Architecture:
        """Return the architecture of that name.

        Raises:
            PluginError: the plugin of that name is installed but broken.
            UnknownArchitecture: no plugin brings it.
        """
        if name in self._architectures:
            return self._architectures[name]
        for plugin, error in self.broken.items():
            if plugin.replace("_", "-") == name.replace("_", "-"):
                raise error
        raise self._unknown(name)

    def source_of(self, arch: Architecture) -> tuple[str, str]:
        """Return (distribution, module) of the plugin that brought a record of that name."""
        return self.sources.get(self.origin.get(arch.name, ""), (GIVEN, f"record {arch.name}"))

    def _unknown(self, name: str) -> UnknownArchitecture:
        error = UnknownArchitecture(name, self._architectures, self._meant(name))
        if not self._architectures:
            error.add_note("no architecture was found at all; install the package (pip install .)")
        for broken in self.broken.values():
            error.add_note(f"one plugin could not be used: {broken}")
        return error

    def _meant(self, name: str) -> list[str]:
        """Return the architectures that a name may stand for: those with that alias, or the one spelt alike.

        Digits give the word size or the version. A name with other digits is another machine, not a typing error.
        """
        plain = _plain(name)
        aliased = [arch.name for arch in self._architectures.values() if plain in map(_plain, arch.aliases)]
        alike = {_plain(known): known for known in self._architectures if _digits(known) == _digits(plain)}
        return aliased or [alike[near] for near in get_close_matches(plain, alike, n=1, cutoff=_ALIKE)]

    def add(self, plugin: object, name: str, distribution: str = GIVEN) -> None:
        """Register one plugin: a module, or an object with hook implementations.

        Raises:
            PluginError: it declares no contract version or another one, implements an unknown hook, has arguments
                that a hook does not have, or brings an architecture that exists already.
        """
        module = getattr(plugin, "__name__", type(plugin).__name__)

        def refuse(cause: str) -> PluginError:
            return PluginError(name, distribution, module, cause)

        _check_version(getattr(plugin, "vmcore_api", None), refuse)
        self.register(plugin, name, refuse)
        self.sources[name] = (distribution, module)

    def register(self, plugin: object, name: str, refuse: Callable[[str], PluginError]) -> None:
        """Register a plugin that need not declare a contract version.

        Args:
            plugin: the plugin.
            name: its name.
            refuse: function that makes an error from the cause of a refusal.

        Raises:
            PluginError: see `add`.
        """
        _check_marks(plugin, self.manager, refuse)
        if self.manager.has_plugin(name) or self.manager.is_registered(plugin):
            raise refuse("its name is taken, or it is registered under another name already")
        try:
            self.manager.register(plugin, name)
            self.manager.check_pending()
            self._collect(plugin, name)
        except pluggy.PluginValidationError as error:
            self._withdraw(plugin, name)
            raise refuse(_explain(str(error))) from error
        except Exception as error:  # code of a plugin ran, and it may raise anything
            self._withdraw(plugin, name)
            raise refuse(raised(error)) from error

    def with_listeners(self, listeners: Iterable[object], without: Collection[str] = ()) -> Registry:
        """Return a registry with further plugins, for one machine: its own listeners and wrappers.

        They need not declare a contract version. If nothing changes, the method returns this registry itself.

        Args:
            listeners: the further plugins.
            without: names of plugins to leave out.

        Raises:
            PluginError: one of them breaks the contract.
        """
        listeners = tuple(listeners)
        if not listeners and not without:
            return self
        manager = _new_manager()
        more = evolve(self, manager=manager, architectures=dict(self._architectures), origin=dict(self.origin),
                      sources=dict(self.sources), placements=dict(self.placements),
                      placement_origin=dict(self._placement_origin))  # fmt: skip
        for name, plugin in self.manager.list_name_plugin():
            if name not in without:
                manager.register(plugin, name)
        for number, listener in enumerate(listeners):
            kind = getattr(listener, "__name__", type(listener).__name__)
            name = f"listener {number}"
            more.register(listener, name, partial(PluginError, name, GIVEN, kind))
            more.sources[name] = (GIVEN, kind)
        return more

    def _collect(self, plugin: object, name: str) -> None:
        for impl in self.manager.hook.vmcore_architectures.get_hookimpls():
            if impl.plugin is not plugin:
                continue
            brought: Any = impl.function()
            if not isinstance(brought, Iterable):
                raise TypeError(f"vmcore_architectures() returned {brought!r}, expected Architecture records")
            for arch in brought:
                if not isinstance(arch, Architecture):
                    raise TypeError(f"vmcore_architectures() returned {arch!r}, expected Architecture records")
                if arch.name in self._architectures:
                    raise ValueError(f"architecture {arch.name!r} exists already, from {self.origin[arch.name]!r}")
                self._architectures[arch.name] = arch
                self.origin[arch.name] = name
        for impl in self.manager.hook.vmcore_placements.get_hookimpls():
            if impl.plugin is plugin:
                self._collect_placements(impl.function(), name)

    def _collect_placements(self, brought: Any, name: str) -> None:
        expected = "expected placement Generation records"
        if not isinstance(brought, Iterable):
            raise TypeError(f"vmcore_placements() returned {brought!r}, {expected}")
        for generation in brought:
            if not isinstance(generation, Generation):
                raise TypeError(f"vmcore_placements() returned {generation!r}, {expected}")
            if generation.name in self.placements:
                other = self._placement_origin[generation.name]
                raise ValueError(f"placement generation {generation.name!r} exists already, from {other!r}")
            self.placements[generation.name] = generation
            self._placement_origin[generation.name] = name

    def placement(self, kernel: str) -> Generation:
        """Return the placement generation of a kernel version, or of that name.

        Raises:
            ConfigurationError: it is neither a version nor the name of a generation.
        """
        found = generation_of(kernel, self.placements.values())
        if found is None:
            valid = choices(kernel, self.placements, "generations")
            raise ConfigurationError(f"kernel {kernel!r}: expected a version such as 6.12, or a name, {valid}")
        return found

    def _withdraw(self, plugin: object, name: str) -> None:
        if self.manager.is_registered(plugin):
            self.manager.unregister(plugin)
        for arch in [a for a, origin in self.origin.items() if origin == name]:
            del self._architectures[arch], self.origin[arch]
        for generation in [g for g, origin in self._placement_origin.items() if origin == name]:
            del self.placements[generation], self._placement_origin[generation]


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _digits(name: str) -> list[str]:
    return sorted(filter(str.isdigit, name))


def raised(error: BaseException) -> str:
    """Return one line about an exception that a plugin raised."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _check_version(declared: Any, refuse: Any) -> None:
    major, minor = API_VERSION
    if declared is None:
        raise refuse(f"it declares no contract version, expected vmcore_api = ({major}, {minor})")
    if (
        not isinstance(declared, tuple)
        or len(declared) != 2
        or declared[0] != major
        or not isinstance(declared[1], int)
        or declared[1] > minor
    ):
        raise refuse(f"it was written for contract {declared}, this is {API_VERSION}; update one of them")


_HOOKS = tuple(name for name in dir(hookspecs) if name.startswith("vmcore_"))


def _check_marks(plugin: object, manager: pluggy.PluginManager, refuse: Any) -> None:
    """Refuse a hook without ``@hookimpl``, because pluggy would ignore it silently."""
    for name in _HOOKS:
        if callable(getattr(plugin, name, None)) and manager.parse_hookimpl_opts(plugin, name) is None:
            raise refuse(f"its {name} is not marked, expected @hookimpl above it")


def _explain(text: str) -> str:
    """Turn pluggy's message into one line. For a misspelt hook, suggest the nearest one."""
    line = " ".join(text.split())
    unknown = re.match(r"unknown hook '(\w+)'", line)
    if unknown is None:
        return line
    near = get_close_matches(unknown[1], _HOOKS, n=1)
    return f"unknown hook {unknown[1]!r}" + (f", did you mean {near[0]!r}?" if near else "")


def _origin(point: EntryPoint) -> str:
    dist = point.dist
    return f"{dist.name} {dist.version}" if dist else "unknown distribution"


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def load(block: Iterable[str] = (), points: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every installed plugin, in order of name. A broken plugin is recorded and does not stop the others.

    Args:
        block: entry-point names to leave out.
        points: the entry points to load; default: those installed in the group ``vmcore``.

    Raises:
        ConfigurationError: a name to block is not installed.
    """
    manager = _new_manager()
    manager.register(weak, "weak")
    manager.register(recorded, RECORD)
    found = sorted(entry_points(group=GROUP) if points is None else points, key=lambda p: p.name)
    blocked = frozenset(block)
    for name in sorted(blocked - {point.name for point in found}):
        valid = choices(name, (point.name for point in found), "installed")
        raise ConfigurationError(f"cannot block plugin {name!r}, which is not installed: {valid}")
    registry = Registry(manager, blocked=blocked)
    registry.register(generations, PLACEMENTS, partial(PluginError, PLACEMENTS, "vmcore", generations.__name__))
    for point in found:
        if point.name not in blocked:
            _load_one(registry, point)
    return registry


def _load_one(registry: Registry, point: EntryPoint) -> None:
    try:
        plugin = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the import of a plugin may raise anything, for example SystemExit
        cause = f"cannot be imported: {raised(error)}"
        registry.broken[point.name] = PluginError(point.name, _origin(point), point.value, cause)
        return
    try:
        registry.add(plugin, point.name, _origin(point))
    except PluginError as error:
        registry.broken[point.name] = error
