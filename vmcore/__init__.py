"""An executable, inspectable model of the Linux kernel's vmalloc on any architecture somebody describes.

Everything here is imported when it is first used, so that a command line that only prints help is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmcore import flags
    from vmcore.architecture import (
        Architecture,
        HardwareView,
        Layout,
        LayoutRequest,
        Leaf,
        Level,
        Mirror,
        Window,
        Zone,
    )
    from vmcore.errors import (
        ArchitectureError,
        ArgumentError,
        BrokenInvariant,
        BusError,
        CannotCopy,
        ConfigurationError,
        DumpError,
        GoldenError,
        HostMemoryError,
        InvalidSize,
        KernelBug,
        KernelClosed,
        KernelDead,
        KernelError,
        KernelFailure,
        KernelInterrupted,
        KernelOops,
        LayoutError,
        LinkError,
        NotInDump,
        OutOfMemory,
        OutOfVmallocSpace,
        OutputError,
        PluginError,
        RootError,
        TraceError,
        UnitError,
        UnknownArchitecture,
        VmcoreError,
    )
    from vmcore.hookspecs import hookimpl
    from vmcore.kernel import Kernel

    __version__: str

__all__ = [
    "Architecture",
    "ArchitectureError",
    "ArgumentError",
    "BrokenInvariant",
    "BusError",
    "CannotCopy",
    "ConfigurationError",
    "DumpError",
    "GoldenError",
    "HardwareView",
    "HostMemoryError",
    "InvalidSize",
    "Kernel",
    "KernelBug",
    "KernelClosed",
    "KernelDead",
    "KernelError",
    "KernelFailure",
    "KernelInterrupted",
    "KernelOops",
    "Layout",
    "LayoutError",
    "LayoutRequest",
    "Leaf",
    "Level",
    "LinkError",
    "Mirror",
    "NotInDump",
    "OutOfMemory",
    "OutOfVmallocSpace",
    "OutputError",
    "PageFault",
    "PluginError",
    "RootError",
    "TraceError",
    "UnitError",
    "UnknownArchitecture",
    "VmcoreError",
    "Window",
    "Zone",
    "__version__",
    "flags",
    "hookimpl",
]

_RECORDS = ("Architecture", "HardwareView", "Layout", "LayoutRequest", "Leaf", "Level", "Mirror", "Window", "Zone")
_HOME = {"Kernel": "kernel", "hookimpl": "hookspecs", **dict.fromkeys(_RECORDS, "architecture")}


def __getattr__(name: str) -> Any:
    """Import what is asked for. An exception is what `vmcore.errors` has under that name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        value: Any = _version()
    elif name == "flags":
        value = import_module("vmcore.flags")
    else:
        value = getattr(import_module(f"vmcore.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  # slow, and seldom asked for

    try:
        return version("vmcore")
    except PackageNotFoundError:
        return "0+not.installed"
