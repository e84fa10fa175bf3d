"""Sizes, addresses and RAM banks as people write them."""

from __future__ import annotations

import re

from attrs import frozen

from vmcore.errors import UnitError

_SUFFIX = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_SIZE = re.compile(r"(0x[0-9a-f]+|[0-9]+(?:\.[0-9]+)?)\s*([KMGTP]?)(?:i?B)?", re.IGNORECASE)


@frozen
class Bank:
    """One stretch of RAM: physical addresses ``start <= pa < end``, bytes."""

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
        UnitError: negative, not a number, an unknown suffix or a fraction of a byte.
    """
    if isinstance(text, bool) or not isinstance(text, (int, str)):
        raise UnitError(f"{what}: found {text!r}, expected a number of bytes such as 64K, 1G or 0x100000")
    if isinstance(text, int):
        if text < 0:
            raise UnitError(f"{what}: found {text}, expected a number of bytes that is not negative")
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UnitError(f"{what}: found {text!r}, expected a number of bytes such as 64K, 1G or 0x100000")
    digits, suffix = match[1].lower(), match[2].upper()
    if "." not in digits:
        return int(digits, 16 if digits.startswith("0x") else 10) << _SUFFIX[suffix]
    whole, fraction = digits.split(".")
    scaled = int(whole + fraction) << _SUFFIX[suffix]
    value, rest = divmod(scaled, int(10 ** len(fraction)))
    if rest:
        raise UnitError(f"{what}: found {text!r}, which is not a whole number of bytes")
    return value


def format_size(size: int) -> str:
    """Write bytes for people: the largest unit, two decimals unless exact."""
    for suffix, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >> shift:
            return f"{size / (1 << shift):.2f}".rstrip("0").rstrip(".") + f" {suffix}"
    return f"{size} B"


def parse_ram(text: str | int) -> int | tuple[Bank, ...]:
    """Read ``ram=``: a size (``"4G"``), or banks (``"0-3G,4G-5G"``), in address order.

    Raises:
        UnitError: not a size, an empty or backward bank, banks that overlap.
    """
    if isinstance(text, int) or "-" not in text.strip().lstrip("-"):
        return parse_size(text, "ram")
    banks: list[Bank] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        start, end = (parse_size(text, f"ram bank {part!r}") for text in (first, last))
        bank = Bank(start, end)
        if bank.size <= 0:
            raise UnitError(f"ram bank {part!r}: ends at {bank.end:#x}, expected one above {bank.start:#x}")
        if banks and bank.start < banks[-1].end:
            raise UnitError(f"ram bank {part!r}: starts at {bank.start:#x}, expected {banks[-1].end:#x} or more")
        banks.append(bank)
    return tuple(banks)
