"""Formats that are recognised only to say how to convert them."""

from __future__ import annotations

from mmap import mmap
from typing import NoReturn

from vmcore.errors import DumpError

_READABLE = "an ELF core, a LiME file, or a raw image with its base or banks (--base, --bank)"

_KDUMP = "take an ELF core instead: /proc/vmcore itself, or what makedumpfile -E makes of it"
_VMWARE = "a VMware snapshot state", "give the .vmem file beside it as a raw image, or use vmss2core"
_WINDOWS = "take a raw image or an ELF core of the machine"
_QEMU = "use QEMU's dump-guest-memory, or pmemsave for a raw image"

#: First bytes, name of the format, and advice.
_KNOWN = (
    (b"KDUMP   ", "a compressed kdump file", f"{_KDUMP}, or QEMU's dump-guest-memory without -z, -l and -s"),
    (b"DISKDUMP", "a diskdump file", _KDUMP),
    (
        b"makedumpfile",
        "a flattened makedumpfile file",
        f"unpack it with makedumpfile -R; or {_KDUMP}",
    ),
    (b"LVMA", "a compressed AVML file", "convert it: avml-convert --format lime"),
    (b"\xd0\xbe\xd2\xbe", *_VMWARE),
    (b"\xd1\xba\xd1\xba", *_VMWARE),
    (b"\xd2\xbe\xd2\xbe", *_VMWARE),
    (b"\xd3\xbe\xd3\xbe", *_VMWARE),
    (b"PAGE", "a Windows crash dump", _WINDOWS),
    (b"hibr", "a Windows hibernation file", _WINDOWS),
    (b"QEVM", "a QEMU migration stream", _QEMU),
    (b"QFI\xfb", "a qcow2 disk image", _QEMU),
    (b"PK\x03\x04", "a ZIP archive", "unpack it"),
)


def refuse_unknown(path: str, file: mmap) -> NoReturn:
    """Refuse a file without the magic of a supported format that the user did not call raw.

    Raises:
        DumpError: Always. It says what to do.
    """
    head = file[:16]
    for magic, name, advice in _KNOWN:
        if head.startswith(magic):
            raise DumpError(path, 0, name, f"{_READABLE}; {advice}")
    raise DumpError(
        path, 0, f"no format that is known (first bytes {head.hex(' ')})",
        f"{_READABLE}; if it is a raw image, say where it belongs",
    )  # fmt: skip
