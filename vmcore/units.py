"""Read and write sizes, addresses and RAM banks in the form that people use."""

from __future__ import annotations

import re

from attrs import frozen

from vmcore.errors import UnitError

_SUFFIX = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_SIZE = re.compile(r"(0x[0-9a-f]+|[0-9]+(?:\.[0-9]+)?)\s*([KMGTP]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_MOST = 1 << 64  #: bytes of the largest address space
_DIGITS = 40  #: characters of a number; more than any size up to `_MOST` needs
_EXAMPLES = "a number of bytes such as 64K, 1G or 0x100000"


@frozen
class Bank:
    """One contiguous range of RAM: the physical addresses ``start <= pa < end``, bytes."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes in the bank."""
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.end:#x}"


def parse_size(text: str | int, what: str = "size") -> int:
    """Read a number of bytes: ``4096``, ``0x1000``, ``64K``, ``1.5G``, ``512MiB``.

    Raises:
        UnitError: it is negative, above 16 EiB or not a number, or has an unknown suffix or a fraction of a byte.
    """
    if isinstance(text, bool) or not isinstance(text, (int, str)):
        raise UnitError(f"{what}: found {_shown(text)}, expected {_EXAMPLES}")
    value = text if isinstance(text, int) else _read_size(text, what)
    if value < 0:
        raise UnitError(f"{what}: found {_shown(text)}, expected a number of bytes that is not negative")
    if value > _MOST:
        raise UnitError(f"{what}: found {_shown(text)}, expected at most {_MOST:#x} bytes")
    return value


def _shown(value: object) -> str:
    """Return a value for a message. Python writes no decimal of thousands of digits."""
    text = f"{value:#x}" if isinstance(value, int) and abs(value) > _MOST else repr(value)
    return text if len(text) <= 2 * _DIGITS else f"{text[:_DIGITS]}... ({len(text):,} characters)"


def _read_size(text: str, what: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UnitError(f"{what}: found {_shown(text)}, expected {_EXAMPLES}")
    digits, suffix = match[1].lower(), match[2].upper()
    if len(digits) > _DIGITS:
        raise UnitError(f"{what}: found {_shown(text)}, expected a number of {_DIGITS} digits at most")
    if "." not in digits:
        return int(digits, 16 if digits.startswith("0x") else 10) << _SUFFIX[suffix]
    whole, fraction = digits.split(".")
    scaled = int(whole + fraction) << _SUFFIX[suffix]
    value, rest = divmod(scaled, int(10 ** len(fraction)))
    if rest:
        raise UnitError(f"{what}: found {_shown(text)}, which is not a whole number of bytes")
    return value


def format_size(size: int) -> str:
    """Write a size in the largest unit that fits, with two decimals at most, for example "1.5 GiB"."""
    for suffix, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >> shift:
            return f"{size / (1 << shift):.2f}".rstrip("0").rstrip(".") + f" {suffix}"
    return f"{size} B"


def parse_ram(text: str | int) -> int | tuple[Bank, ...]:
    """Read ``ram=``: a size (``"4G"``), or banks in the order of their addresses (``"0-3G,4G-5G"``).

    Raises:
        UnitError: it is not a size, a bank is empty or backward, or banks overlap or are out of order.
    """
    if isinstance(text, int) or "-" not in text.strip().lstrip("-"):
        return parse_size(text, "ram")
    banks: list[Bank] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        what = f"ram bank {_shown(part)}"
        start, end = (parse_size(text, what) for text in (first, last))
        bank = Bank(start, end)
        if bank.size <= 0:
            raise UnitError(f"{what}: ends at {bank.end:#x}, expected one above {bank.start:#x}")
        if banks and bank.start < banks[-1].end:
            raise UnitError(f"{what}: starts at {bank.start:#x}, expected {banks[-1].end:#x} or more")
        banks.append(bank)
    return tuple(banks)
