"""Read lines of text from a path, a stream or stdin, decompressed on the way."""

import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Generator
from contextlib import ExitStack
from functools import partial
from os import PathLike, fspath
from typing import BinaryIO, Final, TypeAlias

from vmcore.errors import TraceError

Source: TypeAlias = str | PathLike[str] | BinaryIO

LONGEST_LINE: Final = 1 << 16  #: bytes; the kernel's own lines end within one page
CHUNK: Final = 1 << 18  #: bytes per read of a file or of a decompressor
GZIP_MAGIC: Final = b"\x1f\x8b"
XZ_MAGIC: Final = b"\xfd7zXZ\x00"
#: Compressions that are recognised and not read: magic to name and program.
OTHER_MAGIC: Final = {b"BZh": ("bzip2", "bzip2 -dc"), b"\x28\xb5\x2f\xfd": ("Zstandard", "zstd -dc")}
XZ_MEMORY: Final = 512 << 20  #: bytes that unpacking may take; `xz -9` needs 65 MiB
_XZ_HEADERS: Final = 1 << 11  # bytes that have those of the stream and of its first block
TRACE_DAT_MAGIC: Final = b"\x17\x08\x44tracing"  #: trace-cmd.dat(5), "INITIAL FORMAT"


class _Rejoined(io.RawIOBase):
    """Give back the bytes looked at, then the rest; closing it leaves the source open."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def source_name(source: Source) -> str:
    """Name a source for messages.

    Args:
        source: Path, ``-`` for stdin, or an open binary stream.

    Returns:
        The path, ``<stdin>``, the stream's own name, or ``<stream>``.
    """
    if source == "-":
        return "<stdin>"
    if isinstance(source, str | PathLike):
        return fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<stream>"


def read_lines(source: Source, file: str) -> Generator[bytes, None, None]:
    """Iterate over the lines of a text, plain or compressed by gzip or xz.

    The compression is recognised by its first bytes. Memory does not grow with the text.

    Args:
        source: Path, ``-`` for stdin, or an open binary stream, which is left open.
        file: Name of the source in errors.

    Yields:
        Lines with their newline; only the last may lack it.

    Raises:
        TraceError: The source cannot be read, ends inside its compression, or is no text.
    """
    number = 0
    with ExitStack() as stack:
        try:
            stream = _decompressed(_opened(source, stack), file, stack)
            for number, line in enumerate(iter(partial(stream.readline, LONGEST_LINE), b""), 1):
                if len(line) == LONGEST_LINE and line[-1:] != b"\n":
                    raise TraceError(file, number, _TOO_LONG)
                yield line
        except EOFError:
            raise TraceError(file, number or None, _CUT) from None
        except (zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise TraceError(file, number or None, f"damaged compression ({error}); {_AGAIN}") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise TraceError(file, number or None, f"cannot be read: {reason}") from None


_AGAIN: Final = "copy the file again from where it was recorded"
_CUT: Final = f"the compressed file ends early, expected its end marker; {_AGAIN}"
_TOO_LONG: Final = f"no newline within {LONGEST_LINE} bytes, expected lines of text; is this the right file?"
_TRACE_DAT: Final = "a trace.dat of trace-cmd, expected text; convert it with: trace-cmd report"


def xz_refusal(head: bytes) -> str | None:
    """Say what is wrong with an xz file whose dictionary takes more than `XZ_MEMORY`; None: nothing.

    Args:
        head: its first bytes, with the header of the first block (1 KiB at most).
    """
    try:
        lzma.LZMADecompressor(memlimit=XZ_MEMORY).decompress(head)
    except lzma.LZMAError as error:
        if "limit" in str(error):
            return f"xz data with a dictionary that takes more than {XZ_MEMORY >> 20} MiB"
    return None  # damage is found where it is read


def _opened(source: Source, stack: ExitStack) -> BinaryIO:
    if source == "-":
        return sys.stdin.buffer
    if isinstance(source, str | PathLike):
        return stack.enter_context(open(source, "rb"))
    return source


def _decompressed(source: BinaryIO, file: str, stack: ExitStack) -> BinaryIO:
    head = source.read(len(TRACE_DAT_MAGIC))
    if head == TRACE_DAT_MAGIC:
        raise TraceError(file, None, _TRACE_DAT)
    for magic, (compression, program) in OTHER_MAGIC.items():
        if head.startswith(magic):
            advice = f"expected text, gzip or xz; unpack it first: {program}"
            raise TraceError(file, None, f"compressed by {compression}, {advice}")
    if head.startswith(XZ_MAGIC):
        head += source.read(_XZ_HEADERS)
    raw = io.BufferedReader(_Rejoined(head, source), CHUNK)
    if head.startswith(GZIP_MAGIC):
        return io.BufferedReader(stack.enter_context(gzip.open(raw)), CHUNK)
    if head.startswith(XZ_MAGIC):
        problem = xz_refusal(head)
        if problem is not None:
            raise TraceError(file, None, f"{problem}, expected less; unpack it first: xz -dc")
        return io.BufferedReader(stack.enter_context(lzma.open(raw)), CHUNK)
    return raw
