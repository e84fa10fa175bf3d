"""The public names of vmcore, for type checkers and for `vmcore.__getattr__`, which reads this file."""

from vmcore import flags as flags
from vmcore.architecture import (
    Architecture as Architecture,
    HardwareView as HardwareView,
    Layout as Layout,
    LayoutRequest as LayoutRequest,
    Leaf as Leaf,
    Level as Level,
    Mirror as Mirror,
    Symbols as Symbols,
    Window as Window,
    Zone as Zone,
)
from vmcore.dump import open_dump as open_dump
from vmcore.errors import (
    ArchitectureError as ArchitectureError,
    ArgumentError as ArgumentError,
    BrokenInvariant as BrokenInvariant,
    BusError as BusError,
    CannotCopy as CannotCopy,
    ConfigurationError as ConfigurationError,
    DumpError as DumpError,
    GoldenError as GoldenError,
    HostMemoryError as HostMemoryError,
    InvalidSize as InvalidSize,
    KernelBug as KernelBug,
    KernelClosed as KernelClosed,
    KernelDead as KernelDead,
    KernelError as KernelError,
    KernelFailure as KernelFailure,
    KernelInterrupted as KernelInterrupted,
    KernelOops as KernelOops,
    LayoutError as LayoutError,
    LinkError as LinkError,
    NotInDump as NotInDump,
    OutOfMemory as OutOfMemory,
    OutOfVmallocSpace as OutOfVmallocSpace,
    OutputError as OutputError,
    PageFault as PageFault,
    PluginError as PluginError,
    RootError as RootError,
    TraceError as TraceError,
    UnitError as UnitError,
    UnknownArchitecture as UnknownArchitecture,
    VmcoreError as VmcoreError,
)
from vmcore.hookspecs import hookimpl as hookimpl
from vmcore.host import Host as Host
from vmcore.kernel import Kernel as Kernel

__version__: str
