"""Every exception vmcore raises on purpose, one class per cause a caller may handle.

A message says: subject, finding, expectation, advice; addresses in hex. The facts
are attributes too, so that no program needs to parse the text.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from vmcore.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable


def choices(found: str, valid: Iterable[str], what: str) -> str:
    """Return the tail of an error about a name: the nearest match and all that is valid."""
    known = sorted(valid)
    near = get_close_matches(found, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}{what}: {', '.join(known) if known else 'none'}"


_LONGEST = 2000  #: characters of a message, which may quote a file of any size


def _bounded(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST * 2 // 3]} ... {text[-_LONGEST // 4 :]}"


class VmcoreError(Exception):
    """Anything that vmcore itself reports. The command line prints it without a traceback.

    Its text and its notes are one line each and safe to print: `vmcore.wording.printable` escapes what files,
    names and plugins put into them. Long ones are cut in the middle: the subject stands first, the advice last.
    Attributes hold the facts as they were found. Every exception crosses process boundaries by pickle, with its
    message and its facts.
    """

    def __str__(self) -> str:
        return _bounded(printable(super().__str__()))

    def add_note(self, note: str, /) -> None:
        """Add a note, which is printed below the message."""
        super().add_note(_bounded(printable(note)))

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args), self.__dict__.copy()


def _restore(kind: type[VmcoreError], args: tuple[object, ...]) -> VmcoreError:
    """Make an exception again without its constructor, which takes facts and not the message."""
    base: type[BaseException] = kind
    while base.__module__ != "builtins":  # the class of Python that it is laid out as
        base = base.__base__  # type: ignore[assignment]
    error: VmcoreError = base.__new__(kind)
    error.args = args
    return error


class UnitError(VmcoreError, ValueError):
    """A size, address or range that cannot be read as one."""


class ArchitectureError(VmcoreError, ValueError):
    """A record that describes no possible machine.

    Attributes:
        subject: the architecture (and level) the record is of.
        field: name of the field at fault.
    """

    def __init__(self, subject: str, field: str, found: object, expected: str) -> None:
        self.subject, self.field = subject, field
        super().__init__(f"{subject}: {field} is {found}, expected {expected}")


class LayoutError(VmcoreError, ValueError):
    """RAM, ``vmalloc=`` or platform that the architecture's memory layout cannot hold."""


class ConfigurationError(VmcoreError, ValueError):
    """A key, name or value in the selection (argument, option, environment, file) that is not valid."""


class UnknownArchitecture(ConfigurationError, LookupError):
    """A name no installed plugin answers to.

    Attributes:
        name: the name asked for.
        installed: the names that exist.
        meant: those of them that the name may stand for.
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
    """A trace or vmallocinfo text that cannot be read whole.

    Attributes:
        file: name of the input, as shown to the user.
        line: 1-based line of the decompressed text; None when the file as a whole is meant.
        problem: the finding, the expectation, the advice.
    """

    def __init__(self, file: str, line: int | None, problem: str) -> None:
        self.file, self.line, self.problem = file, line, problem
        super().__init__(f"{file}: {problem}" if line is None else f"{file}:{line}: {problem}")


class GoldenError(VmcoreError, ValueError):
    """A golden bundle that cannot be read, or that no installed architecture can replay."""


class PageFault(VmcoreError):
    """A CPU's load, store or fetch that its MMU refuses, and ``vmalloc_fault`` does not repair.

    Attributes:
        address: virtual, bytes; of the first byte that could not be accessed.
        access: "read", "write" or "execute".
        cpu: number of the CPU.
        why: the finding of the MMU.
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
        file: its name, as shown to the user.
        offset: where in it (unpacked), bytes; None when the file as a whole is meant.
    """

    def __init__(self, file: str, offset: int | None, found: str, expected: str) -> None:
        self.file, self.offset = file, offset
        where = "" if offset is None else f", offset {offset:#x}"
        super().__init__(f"{file}{where}: found {found}, expected {expected}")


class OutputError(VmcoreError):
    """A file that cannot be written, or must not be because it is an input too.

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
    """A physical address that a dump has no byte of.

    Attributes:
        file: name of the dump.
        address: the first address that is missing.
    """

    def __init__(self, file: str, address: int) -> None:
        self.file, self.address = file, address
        super().__init__(f"{file}: physical address {address:#x} is not in the dump; take one that has this page")


class RootError(VmcoreError, LookupError):
    """A root table that cannot be found, or that another architecture's record is for."""


class BusError(VmcoreError, LookupError):
    """A physical address that no bank of RAM answers to (a bus error on the machine)."""


class HostMemoryError(VmcoreError, MemoryError):
    """The host cannot reserve the address space that the simulated RAM needs."""


class ArgumentError(VmcoreError, ValueError):
    """An argument that no kernel function could be given: an array that is too short, a negative count."""


class KernelFailure(VmcoreError):
    """The answer of a kernel function that has no result. It carries the log lines that the function printed.

    Attributes:
        lines: the printk lines of this call, in order, with their ``<n>`` level.
    """

    def __init__(self, message: str, lines: Iterable[str] = ()) -> None:
        self.lines = tuple(lines)
        super().__init__(message)

    def __eq__(self, other: object) -> bool:
        """Compare the facts: a copy, and one that came from another process, is equal."""
        return type(self) is type(other) and str(self) == str(other) and self.__dict__ == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), str(self)))


class OutOfVmallocSpace(KernelFailure, MemoryError):
    """No hole fits: C answers NULL after "allocation failed: out of vmalloc space".

    Attributes:
        size: bytes asked for, guard page included.
        align: alignment of the request in bytes.
        start: first address of the window searched.
        end: its end.
    """

    def __init__(self, size: int, align: int, start: int, end: int, lines: Iterable[str] = ()) -> None:
        self.size, self.align, self.start, self.end = size, align, start, end
        super().__init__(
            f"out of vmalloc space: no hole of {size:#x} bytes (guard page included, alignment {align:#x}) "
            f"in {start:#x}..{end:#x}; free an area or enlarge the window (vmalloc=)",
            lines,
        )


class OutOfMemory(KernelFailure, MemoryError):
    """An allocation below vmalloc failed: C answers NULL or -ENOMEM.

    Attributes:
        what: "page", "table", "kmalloc" or "num_physpages" (more pages asked for than the machine has).
        done: pages allocated, or entries written, before.
    """

    def __init__(self, what: str, message: str, lines: Iterable[str] = (), done: int = 0) -> None:
        self.what, self.done = what, done
        super().__init__(message, lines)


class InvalidSize(KernelFailure, ValueError):
    """A size that PAGE_ALIGN rounds to 0: C answers NULL without a word."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"size {size:#x} rounds to 0 bytes; ask for at least one byte and less than the word")


class KernelError(KernelFailure, OSError):
    """Any other ``-Exxx``. ``errno`` is the positive number."""

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
        function: the C function it stands in.
    """

    def __init__(self, condition: str, function: str, lines: Iterable[str] = ()) -> None:
        self.condition, self.function = condition, function
        super().__init__(f"kernel BUG: BUG_ON({condition}) in {function}()", lines)


class KernelOops(KernelFailure):
    """An access the machine cannot do. The kernel is dead afterwards.

    Attributes:
        address: the faulting virtual address.
        access: "read", "write", or another kind of access.
    """

    def __init__(self, address: int, access: str, lines: Iterable[str] = ()) -> None:
        self.address, self.access = address, access
        super().__init__(f"kernel oops: {access} at {address:#x}", lines)


class KernelInterrupted(KernelFailure):
    """A call that an exception from outside cut short, Ctrl-C for example. The kernel is dead afterwards.

    List, page tables and allocators may contradict each other, so that nothing of them is shown any more.

    Attributes:
        function: the function that was cut short.
    """

    def __init__(self, function: str) -> None:
        self.function = function
        super().__init__(f"{function}() was cut short by an interrupt and may be half done")


class KernelClosed(KernelFailure):
    """`close()` gave the kernel's RAM back to the host."""

    def __init__(self) -> None:
        super().__init__("its close() was called")


class KernelDead(KernelFailure):
    """A call into a kernel that has ended: by a BUG, an oops, an interrupted call, or `close()`.

    Attributes:
        cause: the failure that ended it.
    """

    def __init__(self, cause: KernelFailure) -> None:
        self.cause = cause
        super().__init__(f"this kernel is dead ({cause}); boot a new one")


class CannotCopy(VmcoreError, TypeError):
    """An object that cannot be pickled or copied, because it stands on RAM that cannot."""

    def __init__(self, found: str) -> None:
        self.found = found
        super().__init__(
            f"{found} cannot be pickled or copied: its RAM is one mapping of this process. Boot a Kernel in each "
            "process and send its arguments, or fork: a forked child has a private copy"
        )


class BrokenInvariant(VmcoreError, AssertionError):
    """``check()`` found a structure that contradicts itself."""
