"""Read lines of text from a path, a stream or stdin, decompressed on the way."""

import io
import sys
from collections.abc import Generator
from contextlib import ExitStack
from functools import partial
from os import PathLike, fspath
from typing import BinaryIO, Final, TypeAlias

from vmcore.errors import TraceError
from vmcore.system.compression import OTHER_MAGIC, TEXT_FREE, Pieces, UnpackError, is_packed, pieces, whole

Source: TypeAlias = str | PathLike[str] | BinaryIO

LONGEST_LINE: Final = 1 << 16  #: bytes; the kernel's own lines end within one page
CHUNK: Final = 1 << 18  #: bytes per read
TRACE_DAT_MAGIC: Final = b"\x17\x08\x44tracing"  #: trace-cmd.dat(5), "INITIAL FORMAT"


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


def read_lines(source: Source, file: str, longest: int = LONGEST_LINE) -> Generator[bytes, None, None]:
    """Iterate over the lines of a text, plain or compressed by gzip or xz.

    The compression is recognised by its first bytes. Memory does not grow with the text, and a small file that
    unpacks to a huge text is refused (`vmcore.system.compression`).

    Args:
        source: Path, ``-`` for stdin, or an open binary stream, which is left open.
        file: Name of the source in errors.
        longest: Bytes of the longest line that is accepted.

    Yields:
        Lines with their newline; only the last may lack it.

    Raises:
        TraceError: The source cannot be read, ends inside its compression, becomes too large, or is no text.
    """
    number = 0
    with ExitStack() as stack:
        try:
            stream = _decompressed(_opened(source, stack), file)
            for number, line in enumerate(iter(partial(stream.readline, longest), b""), 1):
                if len(line) == longest and line[-1:] != b"\n":
                    found = f"no newline within {longest} bytes"
                    raise TraceError(file, number, f"{found}, expected lines of text; is this the right file?")
                yield line
        except UnpackError as error:
            raise TraceError(file, number or None, f"{error.found}, expected {error.expected}") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise TraceError(file, number or None, f"cannot be read: {reason}") from None


_TRACE_DAT: Final = "a trace.dat of trace-cmd, expected text; convert it with: trace-cmd report"


def _opened(source: Source, stack: ExitStack) -> BinaryIO:
    if source == "-":
        return sys.stdin.buffer
    if isinstance(source, str | PathLike):
        return stack.enter_context(open(source, "rb"))
    return source


def _decompressed(source: BinaryIO, file: str) -> BinaryIO:
    head = source.read(len(TRACE_DAT_MAGIC))
    if head == TRACE_DAT_MAGIC:
        raise TraceError(file, None, _TRACE_DAT)
    for magic, (compression, program) in OTHER_MAGIC.items():
        if head.startswith(magic):
            advice = f"expected text, gzip or xz; unpack it first: {program}"
            raise TraceError(file, None, f"compressed by {compression}, {advice}")
    parts = pieces(head, source, TEXT_FREE) if is_packed(head) else whole(head, source)
    return io.BufferedReader(Pieces(parts), CHUNK)
