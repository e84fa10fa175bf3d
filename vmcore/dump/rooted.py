"""A dump with the root of its page tables, from which `vmcore walk` and `vmcore audit` start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import frozen

from vmcore.architecture import Architecture
from vmcore.dump.identify import Root, misfits
from vmcore.dump.root import find_root, find_vmcoreinfo
from vmcore.dump.store import Dump
from vmcore.facts import Facts, Key, Shape
from vmcore.paging.mmu import Mmu
from vmcore.texts.vmcoreinfo import VmcoreInfo

#: Keys that the objects of all jobs on a dump begin with.
DUMP_KEYS: Final = (
    Key("dump", "string", "Name of the dump."),
    Key("arch", "string", "Architecture whose record reads the tables."),
    Key("root", "object", "Root of the page tables.", shape=Shape(
        "root of page tables",
        (
            Key("address", "string", "Physical address of the root table.", "address"),
            Key("how", "string", "How it was found, for people."),
        ),
    )),
    Key("problems", "list of string", "Damage of the file, and reasons to doubt the root, for people."),
    Key("partial", "list of string", "Why the result is not complete, for people; empty: it is."),
)  # fmt: skip


@frozen(eq=False)
class RootedDump:
    """An open dump, and the root of its page tables.

    Attributes:
        dump: The memory.
        arch: Record that reads the tables.
        root: Root of the tables, and how it was found.
        info: VMCOREINFO of the kernel; None where neither a file nor the notes have it.
        doubts: Why a dump with a given root may be of another architecture.
        by_sample: Whether the record is the sample's own, because no other was chosen.
    """

    dump: Dump
    arch: Architecture
    root: Root
    info: VmcoreInfo | None
    doubts: tuple[str, ...] = ()
    by_sample: bool = False

    @property
    def mmu(self) -> Mmu:
        """The walk below the root."""
        return Mmu(self.arch, self.dump, self.root.address)

    @property
    def problems(self) -> list[str]:
        """Damage of the file, and reasons to doubt the root."""
        return [*self.dump.problems, *self.root.doubts, *self.doubts]

    def facts(self, partial: Iterable[str]) -> Facts:
        """Return the values of `DUMP_KEYS`.

        Args:
            partial: Why the result of the job is not complete.
        """
        return {
            "dump": self.dump.name,
            "arch": self.arch.name,
            "root": {"address": hex(self.root.address), "how": self.root.how},
            "problems": self.problems,
            "partial": list(partial),
        }


def root_dump(
    dump: Dump,
    arch: Architecture,
    *,
    root: int | None = None,
    vmcoreinfo: VmcoreInfo | None = None,
    records: Iterable[Architecture] = (),
    by_sample: bool = False,
) -> RootedDump:
    """Find the root of a dump, and say why a root that was given may be wrong.

    Args:
        dump: The dump; it stays open as long as the result is used.
        arch: Record that reads its tables.
        root: Physical address of the root table, or the register that has it, bytes.
        vmcoreinfo: VMCOREINFO of the same kernel, from a file.
        records: Other architectures, to be named where ``arch`` does not fit.
        by_sample: Whether ``arch`` is the sample's own.

    Raises:
        RootError: There is no root, it is not in the dump, or the dump is of another kind of machine.
    """
    found = find_root(dump, arch, root=root, vmcoreinfo=vmcoreinfo, records=records)
    info = find_vmcoreinfo(dump) if vmcoreinfo is None else vmcoreinfo
    why = "; ".join(misfits(dump, arch, info)) if root is not None else ""
    doubts = (f"does not look like {arch.name!r}: {why}",) if why else ()
    return RootedDump(dump, arch, found, info, doubts, by_sample)
