"""Link one machine: each symbol resolved once, each event bound once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pluggy
from attrs import fields, frozen

from vmcore.architecture import Architecture
from vmcore.errors import LinkError, PluginError
from vmcore.hookspecs import FaultSymbol, FlushSymbol, SyncSymbol


@frozen
class Linked:
    """The symbols of one architecture, resolved."""

    flush_cache_vmap: FlushSymbol
    flush_cache_vunmap: FlushSymbol
    flush_tlb_kernel_range: FlushSymbol
    vmalloc_sync_all: SyncSymbol
    vmalloc_fault: FaultSymbol


_ARGUMENTS = {"vmalloc_sync_all": ("kernel",), "vmalloc_fault": ("kernel", "cpu", "address", "error_code")}
_FLUSH_ARGUMENTS = ("kernel", "cpu", "start", "end")


def link(manager: pluggy.PluginManager, arch: Architecture) -> Linked:
    """Resolve every link symbol for *arch*.

    Raises:
        LinkError: two plain definitions of one symbol.
        PluginError: a definition is not a callable that takes the symbol's arguments.
    """
    return Linked(**{f.name: _resolve(manager, f.name, arch) for f in fields(Linked)})


def _resolve(manager: pluggy.PluginManager, symbol: str, arch: Architecture) -> Callable[..., Any]:
    caller = getattr(manager.hook, f"vmcore_{symbol}")
    impls = caller.get_hookimpls()
    plain = [i for i in impls if not (i.wrapper or i.hookwrapper or i.trylast)]
    wrappers = ", ".join(i.plugin_name for i in impls if i.wrapper or i.hookwrapper) or "weak"
    answers = {i.plugin_name: _ask(symbol, i.plugin_name, i.function, arch, len(i.argnames)) for i in plain}
    strong = {plugin: answer for plugin, answer in answers.items() if answer is not None}
    if len(strong) > 1:
        raise LinkError(symbol, arch.name, strong)
    for plugin, answer in strong.items():
        _check_symbol(symbol, arch, answer, plugin)
    found = _ask(symbol, wrappers, lambda record: caller(arch=record), arch, 1)
    _check_symbol(symbol, arch, found, wrappers)
    return found  # type: ignore[no-any-return]  # checked just above, which mypy cannot see


def _ask(symbol: str, plugin: str, hook: Callable[..., Any], arch: Architecture, arguments: int) -> Any:
    """Ask a link hook; *arguments*: how many of its one argument the implementation takes."""
    try:
        return hook(*[arch][:arguments])
    except Exception as error:  # a stranger's code ran: whatever it raised is the cause
        cause = f"asked for {symbol} of {arch.name!r}, it raised {type(error).__name__}: {error}"
        raise PluginError(plugin, "at link time", f"vmcore_{symbol}", cause) from error


def _check_symbol(symbol: str, arch: Architecture, found: Any, plugin: str) -> None:
    arguments = _ARGUMENTS.get(symbol, _FLUSH_ARGUMENTS)
    wanted = f"{symbol}({', '.join(arguments)})"
    problem = f"its {symbol} for {arch.name!r} is {found!r}, expected a callable {wanted}"
    if not callable(found):
        raise PluginError(plugin, "at link time", f"vmcore_{symbol}", problem)
    try:
        inspect.signature(found).bind(*arguments)
    except (TypeError, ValueError) as error:  # ValueError: a builtin that tells no signature
        raise PluginError(plugin, "at link time", f"vmcore_{symbol}", f"{problem}: {error}") from error


@frozen
class Events:
    """The event hooks of one machine: a bound caller, or None where nobody listens.

    A caller tests ``if (event := kernel.events.flush) is not None`` before it computes any argument.
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


def bind_events(manager: pluggy.PluginManager) -> Events:
    """Bind each event that has a listener."""
    callers = {f.name: getattr(manager.hook, f"vmcore_{f.name}") for f in fields(Events)}
    return Events(**{name: caller if caller.get_hookimpls() else None for name, caller in callers.items()})
