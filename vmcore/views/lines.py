"""Lines of text with a style, which every view yields."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

Line = tuple[str, str]  #: style (of rich; "": none) and text


def wrap(text: str, width: int, *, indent: str = "", hang: str | None = None, style: str = "") -> Iterator[Line]:
    """Cut a text at spaces, but never inside a word.

    Args:
        text: The text.
        width: Columns of a line.
        indent: Before the first line.
        hang: Before the others; None: as before the first.
        style: Of all lines.
    """
    wrapper = textwrap.TextWrapper(
        width,
        initial_indent=indent,
        subsequent_indent=indent if hang is None else hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in wrapper.wrap(text):
        yield style, line
