"""Text for people: escape unprintable characters, and write counts of things."""

from __future__ import annotations

#: Characters that Unicode calls printable although they are invisible: fillers, and blanks other than the space.
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def printable(text: str) -> str:
    r"""Escape each character that a terminal obeys or does not show, for example to ``\x1b`` or ``\u202e``.

    These are control characters (the newline too), marks that change the direction of writing, characters without
    a width, separators other than the space, and lone surrogates. Text from outside may hold any of them: names of
    files and tasks, callers, notes. The escapes are those of Python. An escaped text stays as it is.
    """
    if text.isprintable() and (text.isascii() or _UNSEEN.isdisjoint(text)):
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() and character not in _UNSEEN:
        return character
    return character.encode("unicode_escape").decode()


def counted(count: int, one: str, more: str = "", form: str = ",") -> str:
    """Write a count with its noun, for example "1 page" or "2,048 pages".

    Args:
        count: the number of things.
        one: the noun in the singular.
        more: the noun in the plural; default: the singular with an "s".
        form: the format of the number, for example "#x" for hexadecimal.
    """
    return f"{count:{form}} {one if count == 1 else more or one + 's'}"
