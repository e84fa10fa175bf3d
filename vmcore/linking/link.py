"""Link one machine: resolve each symbol once, and bind each event once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Any, TypeAlias

import pluggy
from attrs import evolve, fields, frozen

from vmcore.architecture import Architecture
from vmcore.errors import LinkError, PluginError, VmcoreError
from vmcore.hookspecs import FaultSymbol, FlushSymbol, SyncSymbol
from vmcore.linking import weak
from vmcore.linking.registry import RECORD, Registry, raised

Sources: TypeAlias = Mapping[str, tuple[str, str]]
_NOWHERE: Sources = MappingProxyType({})


@frozen
class Linked:
    """The resolved symbols of one architecture."""

    flush_cache_vmap: FlushSymbol
    flush_cache_vunmap: FlushSymbol
    flush_tlb_kernel_range: FlushSymbol
    vmalloc_sync_all: SyncSymbol
    vmalloc_fault: FaultSymbol


@frozen
class Events:
    """The event hooks of one machine. Each is a bound caller, or None if the event has no listeners.

    Test ``if (event := kernel.events.flush) is not None`` before you compute the arguments of an event.
    """

    kmalloc: Callable[..., Any] | None
    kfree: Callable[..., Any] | None
    pages_allocated: Callable[..., Any] | None
    pages_freed: Callable[..., Any] | None
    table_allocated: Callable[..., Any] | None
    range_mapped: Callable[..., Any] | None
    range_cleared: Callable[..., Any] | None
    flush: Callable[..., Any] | None
    sync: Callable[..., Any] | None
    page_inserted: Callable[..., Any] | None
    area_added: Callable[..., Any] | None
    area_removed: Callable[..., Any] | None
    printk: Callable[..., Any] | None
    warn: Callable[..., Any] | None
    bug: Callable[..., Any] | None
    oops: Callable[..., Any] | None
    tlb_filled: Callable[..., Any] | None
    tlb_dropped: Callable[..., Any] | None
    fault: Callable[..., Any] | None
    ipi: Callable[..., Any] | None


_ARGUMENTS = {"vmalloc_sync_all": ("kernel",), "vmalloc_fault": ("kernel", "cpu", "address", "error_code")}
_FLUSH_ARGUMENTS = ("kernel", "cpu", "start", "end")
_WEAK = (weak.flush_nothing, weak.vmalloc_sync_all, weak.vmalloc_fault)


def assemble(
    registry: Registry, arch: Architecture, listeners: Iterable[object] = ()
) -> tuple[Linked, Events, tuple[str, ...]]:
    """Link one machine and bind its events. Leave out plugins that fail although the machine is not theirs.

    A plugin that is left out is recorded in ``registry.broken``. If a symbol or a listener raises an exception
    later, a `PluginError` is raised in its place. Only a `VmcoreError` passes unchanged.

    Args:
        registry: the plugins.
        arch: the machine's record.
        listeners: further plugins, for this machine only.

    Returns:
        The symbols, the events, and a log line for each plugin that was left out.

    Raises:
        LinkError: two plain definitions of one symbol.
        PluginError: a listener, or the plugin that brings *arch*, breaks the contract.
    """
    listeners = tuple(listeners)
    out: dict[str, str] = {}
    while True:
        used = registry.with_listeners(listeners, without=out)
        try:
            sources = {**used.sources, RECORD: used.source_of(arch)}
            linked = _reporting(link(used.manager, arch, sources), used, arch, sources)
            return linked, bind_events(used.manager, sources), tuple(out.values())
        except PluginError as error:
            if error.plugin not in registry.sources or registry.origin.get(arch.name) == error.plugin:
                raise
            registry.broken[error.plugin] = error
            out[error.plugin] = f"<4>vmcore: plugin {error.plugin!r} left out: {error.cause}\n"


def link(manager: pluggy.PluginManager, arch: Architecture, sources: Sources = _NOWHERE) -> Linked:
    """Resolve every link symbol for *arch*.

    Args:
        manager: the plugins.
        arch: the machine's record.
        sources: plugin name to (distribution, module), for messages.

    Raises:
        LinkError: two plain definitions of one symbol.
        PluginError: a definition raises, or is not a callable that takes the symbol's arguments.
    """
    return Linked(**{f.name: _resolve(manager, f.name, arch, sources) for f in fields(Linked)})


def _resolve(manager: pluggy.PluginManager, symbol: str, arch: Architecture, sources: Sources) -> Any:
    hook = f"vmcore_{symbol}"
    impls = getattr(manager.hook, hook).get_hookimpls()
    plain = [i for i in impls if not _wraps(i)]
    answers = {i: _ask(symbol, i.plugin_name, i.function, arch, len(i.argnames), sources) for i in plain}
    given = {i: answer for i, answer in answers.items() if answer is not None}
    strong = [i.plugin_name for i in given if not i.trylast]
    if len(strong) > 1:
        raise LinkError(symbol, arch.name, strong)
    for impl, answer in given.items():
        _check_symbol(symbol, arch, answer, impl.plugin_name, sources)
    wrappers = [i for i in impls if _wraps(i)]  # innermost first
    found = manager.subset_hook_caller(hook, [i.plugin for i in wrappers])(arch=arch)
    for n, wrapper in enumerate(wrappers, 1):  # one more at a time, to know which of them fails
        caller = manager.subset_hook_caller(hook, [i.plugin for i in wrappers[n:]])
        found = _ask(symbol, wrapper.plugin_name, lambda record, ask=caller: ask(arch=record), arch, 1, sources)
        _check_symbol(symbol, arch, found, wrapper.plugin_name, sources)
    return found


def _wraps(impl: pluggy.HookImpl) -> bool:
    return impl.wrapper or impl.hookwrapper


def _refusal(plugin: str, cause: str, sources: Sources) -> PluginError:
    return PluginError(plugin, *sources.get(plugin, ("unknown distribution", plugin)), cause)


def _ask(
    symbol: str, plugin: str, hook: Callable[..., Any], arch: Architecture, arguments: int, sources: Sources
) -> Any:
    """Call a link hook. *arguments* is 1 if the implementation takes the argument ``arch``, and 0 if not."""
    try:
        return hook(*[arch][:arguments])
    except Exception as error:  # a stranger's code ran: whatever it raised is the cause
        cause = f"asked for {symbol} of {arch.name!r}, it raised {raised(error)}"
        raise _refusal(plugin, cause, sources) from error


def _check_symbol(symbol: str, arch: Architecture, found: Any, plugin: str, sources: Sources) -> None:
    arguments = _ARGUMENTS.get(symbol, _FLUSH_ARGUMENTS)
    wanted = f"{symbol}({', '.join(arguments)})"
    problem = f"its {symbol} for {arch.name!r} is {found!r}, expected a callable {wanted}"
    if not callable(found):
        raise _refusal(plugin, problem, sources)
    try:
        inspect.signature(found).bind(*arguments)
    except (TypeError, ValueError) as error:  # ValueError: a builtin that tells no signature
        raise _refusal(plugin, f"{problem}: {error}", sources) from error


# ---- exceptions of plugins while the machine runs


def _reporting(linked: Linked, used: Registry, arch: Architecture, sources: Sources) -> Linked:
    """Wrap each symbol that is not weak, so that its exceptions name its plugins."""
    symbols = {f.name: getattr(linked, f.name) for f in fields(Linked)}
    guarded = {
        name: _reported(symbol, name, _definers(used.manager, name, arch), sources)
        for name, symbol in symbols.items()
        if not any(symbol is default for default in _WEAK)
    }
    return evolve(linked, **guarded)


def _definers(manager: pluggy.PluginManager, symbol: str, arch: Architecture) -> list[str]:
    """Return the names of the plugins that define or wrap a symbol of *arch*."""
    impls = getattr(manager.hook, f"vmcore_{symbol}").get_hookimpls()
    return [
        i.plugin_name
        for i in impls
        if _wraps(i) or (not i.trylast and i.function(*[arch][: len(i.argnames)]) is not None)
    ]


def _reported(call: Callable[..., Any], what: str, plugins: list[str], sources: Sources) -> Callable[..., Any]:
    """Wrap a symbol or an event so that its exceptions name the plugins that may have raised them."""

    @wraps(call)
    def run(*arguments: Any, **named: Any) -> Any:
        try:
            return call(*arguments, **named)
        except VmcoreError:
            raise
        except Exception as error:  # a stranger's code ran: whatever it raised is the cause
            distributions, modules = zip(
                *(sources.get(p, ("unknown distribution", p)) for p in plugins), strict=True
            )
            cause = f"its {what} raised {raised(error)}"
            raise PluginError(",".join(plugins), ", ".join(distributions), ", ".join(modules), cause) from error

    return run


def bind_events(manager: pluggy.PluginManager, sources: Sources = _NOWHERE) -> Events:
    """Bind each event that has a listener.

    Args:
        manager: the plugins.
        sources: plugin name to (distribution, module), for messages.
    """
    return Events(**{f.name: _bind(manager, f"vmcore_{f.name}", sources) for f in fields(Events)})


def _bind(manager: pluggy.PluginManager, hook: str, sources: Sources) -> Callable[..., Any] | None:
    caller = getattr(manager.hook, hook)
    plugins = [impl.plugin_name for impl in caller.get_hookimpls()]
    return _reported(caller, hook, plugins, sources) if plugins else None
