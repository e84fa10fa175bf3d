"""Words for people: text that a terminal shows as it is, and counts of things."""

from __future__ import annotations

#: Unicode calls these printable, and nothing is seen of them: fillers, and blanks that are no space.
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def printable(text: str) -> str:
    r"""Escape each character that a terminal obeys or does not show, as Python does: ``\x1b``, ``\u202e``.

    These are control characters (the newline too), marks that change the direction of writing, characters without
    a width, separators other than the space, and lone surrogates. Text from outside may hold any of them: names of
    files and tasks, callers, notes. A text that is escaped already stays as it is.
    """
    if text.isprintable() and (text.isascii() or _UNSEEN.isdisjoint(text)):
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() and character not in _UNSEEN:
        return character
    return character.encode("unicode_escape").decode()


def counted(count: int, one: str, more: str = "", form: str = ",") -> str:
    """Say how many there are: "1 page", "2,048 pages".

    Args:
        count: how many.
        one: the name of a single one.
        more: the name of several; default: that of one with an "s".
        form: how to write the number, "#x" for hexadecimal.
    """
    return f"{count:{form}} {one if count == 1 else more or one + 's'}"
