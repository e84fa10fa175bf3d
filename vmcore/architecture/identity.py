"""How a saved machine identifies itself, and how that leads to its tables."""

from __future__ import annotations

from attrs import field, frozen

from vmcore.architecture.fields import Lines, as_ints, as_lines, as_names, typed
from vmcore.errors import ArchitectureError


@frozen(kw_only=True, field_transformer=typed)
class CpuNote:
    """The note a hypervisor writes per CPU into its ELF dumps, as far as it leads to the tables.

    Attributes:
        name: owner of the note; ``size``: bytes of its description, at least.
        root_at: byte offset of the 8-byte register with the root's address; ``root_mask``: its address bits.
        checks: (byte offset, mask, value, meaning of another value) of 8-byte registers.
    """

    name: str
    size: int
    root_at: int
    root_mask: int
    checks: tuple[tuple[int, int, int, str], ...] = ()


@frozen(kw_only=True, field_transformer=typed)
class KernelImage:
    """The identity of a saved machine's kernel (VMCOREINFO), and how it leads to the root table.

    A symbol's physical address is ``symbol - base + physical``: ``base`` is where the mapping of the kernel
    begins, ``physical`` the address that is mapped there. Symbols in VMCOREINFO are relocated already:
    KERNELOFFSET is not added (kernel/crash_core.c, Documentation/admin-guide/kdump/vmcoreinfo.rst).

    Attributes:
        machine: e_machine of ELF cores.
        roots: names of init_mm's root table, the first that is there counts.
        root_align: bytes; the address bits below are flags of the register that holds it.
        bases: the values that ``base`` may have, the usual first; ``base_number``: NUMBER() that says it.
        physical_number: NUMBER() that says ``physical``; ``offset_number``: NUMBER() that says base - physical.
        physical: where neither is there; None: where RAM begins.
        linear: the kernel lies in the linear map, so ``base`` is PAGE_OFFSET.
        lines: lines of VMCOREINFO and the values this record's kernels print; "": no such line.
        cpu: where a CPU's registers are.
    """

    machine: int
    roots: tuple[str, ...] = field(default=("swapper_pg_dir",), converter=as_names)
    root_align: int = 4096
    bases: tuple[int, ...] = field(converter=as_ints)
    base_number: str = "PAGE_OFFSET"
    physical_number: str = "PHYS_OFFSET"
    offset_number: str | None = None
    physical: int | None = None
    linear: bool = True
    lines: Lines = field(default=(), converter=as_lines)
    cpu: CpuNote | None = None

    def __attrs_post_init__(self) -> None:
        align = self.root_align
        if align < 1 or align & align - 1:
            raise ArchitectureError("kernelimage", "root_align", f"{align:#x}", "a power of two, bytes")
        for name in ("bases", "roots"):
            if not getattr(self, name):
                raise ArchitectureError("kernelimage", name, "empty", "at least one")
