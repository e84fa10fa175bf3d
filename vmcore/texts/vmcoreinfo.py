"""Read VMCOREINFO, the text in which a kernel tells where its tables are, and write it for simulated kernels.

Lines are ``KEY=value``. ``SYMBOL()`` and ``KERNELOFFSET`` are hexadecimal, numbers are decimal or ``0x``.
Source: kernel/crash_core.c (vmcore_info.c), Documentation/admin-guide/kdump/vmcoreinfo.rst.
"""

from __future__ import annotations

from attrs import frozen

from vmcore.architecture import Architecture, Layout
from vmcore.errors import RootError

#: Physical address of the root; only in cores of simulated kernels whose record has no `KernelImage`.
ROOT = "NUMBER(vmcore_root)"
_WORD = 1 << 64  #: one more than the largest number
_LINES_MOST = 1 << 12  #: a kernel prints about a hundred, in one page


@frozen
class VmcoreInfo:
    """The lines of one VMCOREINFO.

    Attributes:
        source: where it was found, for people.
        lines: key to value.
    """

    source: str
    lines: dict[str, str]

    @classmethod
    def parse(cls, data: bytes, source: str) -> VmcoreInfo:
        """Read the text up to its first NUL. A line that is no ``KEY=value`` is skipped."""
        text = data.split(b"\0", 1)[0].decode("latin-1")
        pairs = (line.partition("=") for line in text.splitlines()[:_LINES_MOST])
        return cls(source, {key.strip(): value.strip() for key, equals, value in pairs if equals})

    def symbol(self, name: str) -> int | None:
        """Return a symbol's virtual address, which is relocated, or None if there is no such line.

        Raises:
            RootError: the value is not a number of 64 bits.
        """
        return self._read(f"SYMBOL({name})", 16)

    def number(self, name: str) -> int | None:
        """Return a ``NUMBER()``, which may be negative, or None if there is no such line.

        Raises:
            RootError: the value is not a number of 64 bits.
        """
        return self._read(f"NUMBER({name})", 0, -1 << 63)

    def page_size(self) -> int | None:
        """Return PAGESIZE, bytes, or None if there is no such line.

        Raises:
            RootError: the value is not a number of 64 bits.
        """
        return self._read("PAGESIZE", 10)

    def _read(self, key: str, base: int, least: int = 0) -> int | None:
        text = self.lines.get(key)
        if text is None:
            return None
        try:
            value = int(text, base)
        except ValueError:
            value = _WORD
        if not least <= value < _WORD:
            raise RootError(
                f"{self.source}: {key} is {text[:40]!r}, expected a number of 64 bits; give the root itself"
            )
        return value


def write_vmcoreinfo(arch: Architecture, layout: Layout) -> str:
    """Return the VMCOREINFO of a simulated kernel.

    It has the lines that ``find_root`` needs and, for drgn, OSRELEASE, PAGESIZE, KERNELOFFSET and ``_stext``.
    """
    lines = [f"OSRELEASE={arch.era}-vmcore", f"PAGESIZE={arch.page_size}", "KERNELOFFSET=0"]
    image = arch.image
    if image is None:
        return "\n".join([*lines, f"{ROOT}={layout.swapper_pg_dir:#x}", ""])
    base = layout.page_offset if image.linear else image.bases[0]
    root = layout.swapper_pg_dir - layout.phys_offset + base
    lines += [f"SYMBOL({name})={root:x}" for name in dict.fromkeys(("swapper_pg_dir", image.roots[0]))]
    lines += [f"SYMBOL(_stext)={base + arch.page_size:x}", f"NUMBER({image.base_number})={base:#x}"]
    if image.offset_number is not None:
        lines.append(f"NUMBER({image.offset_number})={base - layout.phys_offset:#x}")
    else:
        lines.append(f"NUMBER({image.physical_number})={layout.phys_offset}")
    lines += [f"{key}={values[0]}" for key, values in image.lines if values[0]]
    return "\n".join([*lines, ""])
