"""Every exception that vmcore raises on purpose. Each cause that a caller may handle has a class of its own.

A message gives the subject, the finding, the expectation and the advice, in this order. Addresses are in hex. The
facts are attributes too, so that no program needs to parse the text.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from vmcore.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable


def choices(found: str, valid: Iterable[str], what: str) -> str:
    """Return the end of a message about an unknown name: the nearest match, then all valid names.

    For example, ``choices("amr", ["arm", "x86"], "valid")`` is "did you mean 'arm'? valid: arm, x86".
    """
    known = sorted(valid)
    near = get_close_matches(found, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}{what}: {', '.join(known) if known else 'none'}"


_LONGEST = 2000  #: characters of a message, which may quote a file of any size


def _bounded(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST * 2 // 3]} ... {text[-_LONGEST // 4 :]}"


class VmcoreError(Exception):
    """The base class of all errors that vmcore reports. The command line prints them without a traceback.

    The text and each note are one line and safe to print, because `vmcore.wording.printable` escapes the text of
    files, names and plugins in them. A long text is cut in the middle, because the subject stands first and the
    advice last. Attributes hold the facts as they were found. Every exception can be pickled, and keeps its
    message and its facts in another process.
    """

    def __str__(self) -> str:
        return _bounded(printable(super().__str__()))

    def add_note(self, note: str, /) -> None:
        """Add a note, which is printed below the message."""
        super().add_note(_bounded(printable(note)))

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args), self.__dict__.copy()


def _restore(kind: type[VmcoreError], args: tuple[object, ...]) -> VmcoreError:
    """Rebuild an exception without its constructor. The constructor takes facts, but pickle has the message."""
    base: type[BaseException] = kind
    while base.__module__ != "builtins":  # the class of Python that it is laid out as
        base = base.__base__  # type: ignore[assignment]
    error: VmcoreError = base.__new__(kind)
    error.args = args
    return error


class UnitError(VmcoreError, ValueError):
    """A text that is no size, address or range."""


class ArchitectureError(VmcoreError, ValueError):
    """A record that describes an impossible machine.

    Attributes:
        subject: the name of the architecture, and of the level if the field belongs to one.
        field: name of the field at fault.
    """

    def __init__(self, subject: str, field: str, found: object, expected: str) -> None:
        self.subject, self.field = subject, field
        super().__init__(f"{subject}: {field} is {found}, expected {expected}")


class LayoutError(VmcoreError, ValueError):
    """RAM, ``vmalloc=`` or a platform that does not fit the architecture's memory layout."""


class ConfigurationError(VmcoreError, ValueError):
    """An invalid key, name or value in the selection: an argument, an option, a variable or a file."""


class UnknownArchitecture(ConfigurationError, LookupError):
    """A name that no installed architecture has.

    Attributes:
        name: the unknown name.
        installed: the names of all installed architectures.
        meant: the installed names that the user may have meant.
    """

    def __init__(self, name: str, installed: Iterable[str], meant: Iterable[str] = ()) -> None:
        self.name, self.installed, self.meant = name, sorted(installed), sorted(meant)
        names = " or ".join(map(repr, self.meant))
        hint = f"did you mean {names}?" if names else "no installed record describes it;"
        super().__init__(
            f"unknown architecture {name!r}: {hint} installed: {', '.join(self.installed) or 'none'}. "
            "`vmcore arches` describes them. A third-party one must be installed first"
        )


class PluginError(VmcoreError):
    """A plugin that cannot be loaded or breaks the contract.

    Attributes:
        plugin: entry-point name.
        distribution: the package that installed it, with its version.
        module: the object of the entry point.
        cause: the reason.
    """

    def __init__(self, plugin: str, distribution: str, module: str, cause: str) -> None:
        self.plugin, self.distribution, self.module, self.cause = plugin, distribution, module, cause
        super().__init__(
            f"plugin {plugin!r} ({distribution}, module {module!r}): {cause}. "
            f"Repair or uninstall it, or block it with --block {plugin} or VMCORE_BLOCK={plugin}"
        )


class LinkError(VmcoreError):
    """Two plain definitions of one symbol for one architecture, as a linker reports them."""

    def __init__(self, symbol: str, architecture: str, plugins: Iterable[str]) -> None:
        self.symbol, self.architecture, self.plugins = symbol, architecture, sorted(plugins)
        names = " and ".join(repr(name) for name in self.plugins)
        super().__init__(
            f"multiple definition of {symbol} for {architecture!r}: by plugins {names}. "
            "Block one of them, or make one a wrapper (@hookimpl(wrapper=True))"
        )


class TraceError(VmcoreError, ValueError):
    """A trace or vmallocinfo text that cannot be read to its end.

    Attributes:
        file: the name of the input, as the user sees it.
        line: 1-based line of the decompressed text; None if the error concerns the whole file.
        problem: the finding, the expectation, the advice.
    """

    def __init__(self, file: str, line: int | None, problem: str) -> None:
        self.file, self.line, self.problem = file, line, problem
        super().__init__(f"{file}: {problem}" if line is None else f"{file}:{line}: {problem}")


class GoldenError(VmcoreError, ValueError):
    """A golden bundle that cannot be read, or that no installed architecture can replay."""


class PageFault(VmcoreError):
    """A load, store or fetch that a CPU's MMU refuses and that ``vmalloc_fault`` does not repair.

    Attributes:
        address: virtual, bytes; the first byte that could not be accessed.
        access: "read", "write" or "execute".
        cpu: number of the CPU.
        why: the reason why the MMU refuses it.
    """

    def __init__(self, address: int, access: str, cpu: int, why: str) -> None:
        super().__init__(address, access, cpu, why)
        self.address, self.access, self.cpu, self.why = address, access, cpu, why

    def __str__(self) -> str:
        what = f"cpu {self.cpu}: {self.access} of {self.address:#x} faults"
        return _bounded(printable(f"{what}: {self.why}; expected a page to {self.access}"))


class DumpError(VmcoreError, ValueError):
    """A RAM dump that cannot be read.

    Attributes:
        file: its name, as the user sees it.
        offset: bytes from the start of the unpacked file; None if the error concerns the whole file.
    """

    def __init__(self, file: str, offset: int | None, found: str, expected: str) -> None:
        self.file, self.offset = file, offset
        where = "" if offset is None else f", offset {offset:#x}"
        super().__init__(f"{file}{where}: found {found}, expected {expected}")


class OutputError(VmcoreError):
    """A file that cannot be written, or that must not be written because it is an input too.

    Attributes:
        file: its name, as given.
        problem: the obstacle.
        expected: the advice.
    """

    #: the problem of an input that messages would be written to
    STDERR = "stderr is redirected to this input"

    def __init__(self, file: str, problem: str, expected: str) -> None:
        super().__init__(file, problem, expected)
        self.file, self.problem, self.expected = file, problem, expected

    def __str__(self) -> str:
        return _bounded(printable(f"{self.file or 'an empty name'}: {self.problem}, expected {self.expected}"))


class NotInDump(VmcoreError, LookupError):
    """A physical address that is not in a dump.

    Attributes:
        file: name of the dump.
        address: the first address that is missing.
    """

    def __init__(self, file: str, address: int) -> None:
        self.file, self.address = file, address
        super().__init__(f"{file}: physical address {address:#x} is not in the dump; take one that has this page")


class RootError(VmcoreError, LookupError):
    """A root table that cannot be found, or that needs the record of another architecture."""


class BusError(VmcoreError, LookupError):
    """A physical address outside every bank of RAM. The real machine raises a bus error."""


class HostMemoryError(VmcoreError, MemoryError):
    """The host cannot reserve the address space that the simulated RAM needs."""


class ArgumentError(VmcoreError, ValueError):
    """An argument that no C caller could pass, for example an array that is too short or a negative count."""


class KernelFailure(VmcoreError):
    """A kernel function failed. The exception carries the log lines that the function printed.

    Attributes:
        lines: the printk lines of this call, in order, with their ``<n>`` level.
    """

    def __init__(self, message: str, lines: Iterable[str] = ()) -> None:
        self.lines = tuple(lines)
        super().__init__(message)

    def __eq__(self, other: object) -> bool:
        """Compare the facts. A copy is equal, and so is an exception that another process sent."""
        return type(self) is type(other) and str(self) == str(other) and self.__dict__ == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), str(self)))


class OutOfVmallocSpace(KernelFailure, MemoryError):
    """No hole is large enough. The C function logs "allocation failed: out of vmalloc space" and returns NULL.

    Attributes:
        size: requested bytes, guard page included.
        align: requested alignment, bytes.
        start: the first address of the searched window.
        end: the end of the window.
    """

    def __init__(self, size: int, align: int, start: int, end: int, lines: Iterable[str] = ()) -> None:
        self.size, self.align, self.start, self.end = size, align, start, end
        super().__init__(
            f"out of vmalloc space: no hole of {size:#x} bytes (guard page included, alignment {align:#x}) "
            f"in {start:#x}..{end:#x}; free an area or enlarge the window (vmalloc=)",
            lines,
        )


class OutOfMemory(KernelFailure, MemoryError):
    """An allocation that vmalloc needs failed. The C function returns NULL or -ENOMEM.

    Attributes:
        what: "page", "table", "kmalloc" or "num_physpages" (the request has more pages than the machine).
        done: the number of pages allocated, or of entries written, before the failure.
    """

    def __init__(self, what: str, message: str, lines: Iterable[str] = (), done: int = 0) -> None:
        self.what, self.done = what, done
        super().__init__(message, lines)


class InvalidSize(KernelFailure, ValueError):
    """A size that PAGE_ALIGN rounds to 0. The C function returns NULL and logs nothing."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"size {size:#x} rounds to 0 bytes; ask for at least one byte and less than the word")


class KernelError(KernelFailure, OSError):
    """Any other error code ``-Exxx``. ``errno`` is the positive number, for example 22 for -EINVAL."""

    def __init__(self, number: int, message: str, lines: Iterable[str] = ()) -> None:
        super().__init__(message, lines)
        self.errno = number

    def __reduce__(self) -> tuple[object, ...]:
        # OSError keeps errno outside __dict__
        return _restore, (type(self), self.args), {**self.__dict__, "errno": self.errno}


class KernelBug(KernelFailure):
    """A BUG_ON that fired. The kernel is dead afterwards.

    Attributes:
        condition: the C text of the condition.
        function: the C function that contains it.
    """

    def __init__(self, condition: str, function: str, lines: Iterable[str] = ()) -> None:
        self.condition, self.function = condition, function
        super().__init__(f"kernel BUG: BUG_ON({condition}) in {function}()", lines)


class KernelOops(KernelFailure):
    """An access that the machine cannot do. The kernel is dead afterwards.

    Attributes:
        address: the faulting virtual address.
        access: "read", "write", or another kind of access.
    """

    def __init__(self, address: int, access: str, lines: Iterable[str] = ()) -> None:
        self.address, self.access = address, access
        super().__init__(f"kernel oops: {access} at {address:#x}", lines)


class KernelInterrupted(KernelFailure):
    """A call that an exception from outside interrupted, for example Ctrl-C. The kernel is dead afterwards.

    The area list, the page tables and the allocators may contradict each other. They are not shown any more.

    Attributes:
        function: the interrupted function.
    """

    def __init__(self, function: str) -> None:
        self.function = function
        super().__init__(f"{function}() was cut short by an interrupt and may be half done")


class KernelClosed(KernelFailure):
    """`close()` gave the kernel's RAM back to the host."""

    def __init__(self) -> None:
        super().__init__("its close() was called")


class KernelDead(KernelFailure):
    """A call into a dead kernel. A BUG, an oops, an interrupted call or `close()` has ended it.

    Attributes:
        cause: the failure that ended the kernel.
    """

    def __init__(self, cause: KernelFailure) -> None:
        self.cause = cause
        super().__init__(f"this kernel is dead ({cause}); boot a new one")


class CannotCopy(VmcoreError, TypeError):
    """An object that cannot be pickled or copied, because it uses simulated RAM of this process."""

    def __init__(self, found: str) -> None:
        self.found = found
        super().__init__(
            f"{found} cannot be pickled or copied: its RAM is one mapping of this process. Boot a Kernel in each "
            "process and send its arguments, or fork: a forked child has a private copy"
        )


class BrokenInvariant(VmcoreError, AssertionError):
    """``check()`` found a structure that contradicts itself."""
