"""The facts by which a dump identifies its machine, and the way from them to the root table."""

from __future__ import annotations

from attrs import field, frozen

from vmcore.architecture.fields import Lines, as_ints, as_lines, as_names, typed
from vmcore.errors import ArchitectureError


@frozen(kw_only=True, field_transformer=typed)
class CpuNote:
    """The note that a hypervisor writes for each CPU into its ELF dumps. It gives the address of the root table.

    Attributes:
        name: owner of the note.
        size: least number of bytes of its description.
        root_at: byte offset of the 8-byte register that holds the root's address.
        root_mask: the address bits of this register.
        checks: conditions on 8-byte registers: (byte offset, mask, value, meaning of another value).
    """

    name: str
    size: int
    root_at: int
    root_mask: int
    checks: tuple[tuple[int, int, int, str], ...] = ()


@frozen(kw_only=True, field_transformer=typed)
class KernelImage:
    """The identity of a dumped kernel (VMCOREINFO), and the way from it to the root table.

    The physical address of a symbol is ``symbol - base + physical``. The mapping of the kernel begins at the
    virtual address ``base``, and ``physical`` is the address mapped there. Symbols in VMCOREINFO are relocated
    already, so KERNELOFFSET is not added (kernel/crash_core.c, Documentation/admin-guide/kdump/vmcoreinfo.rst).

    Attributes:
        machine: e_machine of ELF cores.
        roots: names of init_mm's root table; the first one that VMCOREINFO has is used.
        root_align: alignment of the root table, bytes. The register that holds its address has flags in the bits
            below.
        bases: the values that ``base`` may have, the usual one first.
        base_number: name of the NUMBER() that gives ``base``.
        physical_number: name of the NUMBER() that gives ``physical``.
        offset_number: name of the NUMBER() that gives ``base - physical``; None: there is none.
        physical: the value of ``physical`` if VMCOREINFO has neither number; None: the beginning of RAM.
        linear: the kernel lies in the linear map, so ``base`` is PAGE_OFFSET.
        lines: lines of VMCOREINFO, and the values that this record's kernels print; "": no such line.
        cpu: the note with a CPU's registers; None: there is none.
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
