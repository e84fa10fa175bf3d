"""Unpack gzip and xz files piece by piece, within limits: a small file must not become a large job.

Every reader of files uses `pieces`. The first bytes of a file show its compression.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Protocol

from vmcore.units import format_size

GZIP_MAGIC: Final = b"\x1f\x8b"
XZ_MAGIC: Final = b"\xfd7zXZ\x00"
#: Compressions that are recognised but not read: magic to name and program.
OTHER_MAGIC: Final = {b"BZh": ("bzip2", "bzip2 -dc"), b"\x28\xb5\x2f\xfd": ("Zstandard", "zstd -dc")}

XZ_MEMORY: Final = 128 << 20  #: bytes that unpacking may take; `xz -9` needs 65 MiB
#: Bytes that a packed byte may become, beyond a first amount. For traces and golden bundles the ratio is 15 to 60,
#: for RAM dumps 5 to 60. For a run of one byte it is 1,030 with gzip and 6,800 with xz.
RATIO_MOST: Final = 128
TEXT_FREE: Final = 8 << 20  #: bytes that any text may become: a few seconds of reading
RAM_FREE: Final = 1 << 30  #: bytes that any RAM dump may become
_CHUNK: Final = 1 << 14  # packed bytes read at a time; the ratio is as exact as that
_PIECE: Final = 1 << 18  # unpacked bytes at a time
_PADDING_MOST: Final = 1 << 16  # zeros behind a member that are looked through for another one


class UnpackError(Exception):
    """A file that cannot be unpacked to its end.

    Attributes:
        found: the finding.
        expected: the expectation and the advice.
    """

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found, self.expected = found, expected


class PackedLimit(UnpackError):
    """A file that needs too much memory to unpack, or that becomes too large."""


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """Zlib's decoder of one gzip member, with the interface of lzma's decoder."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


def _decoder(head: bytes) -> _Decoder:
    return _Gzip() if head.startswith(GZIP_MAGIC) else lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)


def is_packed(head: bytes) -> bool:
    """Tell by the first 6 bytes whether a file is packed by gzip or xz."""
    return head.startswith((GZIP_MAGIC, XZ_MAGIC))


def pieces(head: bytes, rest: BinaryIO, free: int) -> Iterator[bytes]:
    """Yield the unpacked bytes of a file with one or several members. No piece is empty.

    Args:
        head: the first bytes of the file, at least 6.
        rest: the rest of the file.
        free: bytes that even the smallest file may become: `TEXT_FREE` or `RAM_FREE`.

    Raises:
        UnpackError: the file is damaged or ends early. All whole pieces before that were yielded.
        PackedLimit: the file's dictionary or its unpacked text is too large.
        OSError: the file cannot be read.
    """
    packed, made, data = len(head), 0, head

    def read() -> bytes:
        nonlocal packed
        more = rest.read(_CHUNK)
        packed += len(more)
        return more

    while data:
        decoder = _decoder(data)
        while not decoder.eof:
            if not data and decoder.needs_input:
                data = read()
            piece, ended = _step(decoder, data), not data and decoder.needs_input
            data = b""
            made += len(piece)
            if made > free + RATIO_MOST * packed:
                raise _too_large(free)
            if piece:
                yield piece
            elif ended and not decoder.eof:
                raise UnpackError("the compressed file ends early", "its end marker; copy it again")
        data = _next_member(decoder.unused_data, read)


def _step(decoder: _Decoder, data: bytes) -> bytes:
    try:
        return decoder.decompress(data, _PIECE)
    except (zlib.error, lzma.LZMAError) as error:
        if "limit" in str(error):
            found = f"xz data with a dictionary that takes more than {format_size(XZ_MEMORY)}"
            raise PackedLimit(found, "less; unpack it yourself: xz -dc") from error
        raise UnpackError(f"damaged compression ({error})", "a whole file; copy it again") from error


def _too_large(free: int) -> PackedLimit:
    found = f"data that becomes more than {RATIO_MOST} times as large when unpacked"
    advice = "if it is right, unpack it yourself: gzip -dc or xz -dc"
    return PackedLimit(found, f"less beyond the first {format_size(free)}; {advice}")


def _next_member(data: bytes, read: Callable[[], bytes]) -> bytes:
    """Return the beginning of the next member, or nothing at the end. Zeros may lie between two members."""
    zeros = 0
    while not (found := data.lstrip(b"\0")) and zeros < _PADDING_MOST:
        zeros += len(data)
        data = read()
        if not data:
            return b""
    if found and len(found) < len(XZ_MAGIC):
        found += read()
    if found and not is_packed(found):
        raise UnpackError("bytes behind the compressed data that are none", "the end of the file; copy it again")
    return found


def whole(head: bytes, rest: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of a file that is not packed. The arguments are those of `pieces`."""
    yield from filter(None, [head])
    while piece := rest.read(_PIECE):
        yield piece


class Pieces(io.RawIOBase):
    """A stream that is made of pieces of bytes, none of them empty."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._piece = parts, b""

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Copy the current piece into a buffer. Return the number of copied bytes, 0 at the end."""
        data = self._piece or next(self._parts, b"")
        count = min(len(buffer), len(data))
        buffer[:count], self._piece = data[:count], data[count:]
        return count
