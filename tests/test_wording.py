"""Text that is safe to print, and counts."""

import ast
import inspect
import re
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vmcore
from vmcore import errors
from vmcore.errors import VmcoreError
from vmcore.wording import counted, printable

PACKAGE = Path(vmcore.__file__).parent
DECEIVERS = (
    *map(chr, [*range(0x20), *range(0x7F, 0xA0)]),  # ESC, BEL, CR, backspace, CSI and the other C0 and C1 controls
    *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c",  # direction of writing
    *"\u200b\u200c\u200d\u2060\ufeff\u00ad\u2028\u2029\u3164\u115f\u2800",  # without a width, lines, blanks
    *"\udc80\udcff\ud800",  # bytes of file names that are no UTF-8
)
HOSTILE = "".join(DECEIVERS)


@pytest.mark.parametrize("character", DECEIVERS, ids=lambda c: f"U+{ord(c):04X}")
def test_a_character_that_a_terminal_obeys_or_hides_is_escaped(character):
    shown = printable(f"a{character}b")
    assert shown == f"a{character.encode('unicode_escape').decode()}b"
    assert shown.isascii()


def test_examples():
    assert printable("\x1b]0;x\x07") == r"\x1b]0;x\x07"
    assert printable("\u202egnp.exe") == r"\u202egnp.exe"
    assert printable("two\nlines") == r"two\nlines"


@pytest.mark.parametrize("text", ["", "a b", "\\x1b", "C:\\n", "größe 4 µs", "日本", "▁▂█", "[red]", "e\u0301"])
def test_other_text_stays_as_it_is(text):
    assert printable(text) == text


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_nothing_unprintable_is_left_and_nothing_is_escaped_twice(text):
    shown = printable(text)
    assert printable(shown) == shown
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    shown.encode()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((0, "page"), "0 pages"),
        ((1, "page"), "1 page"),
        ((2, "page"), "2 pages"),
        ((2048, "page"), "2,048 pages"),
        ((1, "entry", "entries"), "1 entry"),
        ((2, "entry", "entries"), "2 entries"),
        ((1, "byte", "", "#x"), "0x1 byte"),
        ((16, "byte is", "bytes are", "#x"), "0x10 bytes are"),
    ],
)
def test_counts(words, expected):
    assert counted(*words) == expected


@pytest.mark.parametrize(
    "module", sorted(PACKAGE.rglob("*.py")), ids=lambda module: str(module.relative_to(PACKAGE))
)
def test_no_message_counts_in_words_of_its_own(module):
    """A number in front of a plural comes from `counted`, or is no count of one: then it is in `NO_COUNTS`."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, text in pairwise(node.values):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            word = COUNTED.match(str(text.value))
            if word is None:
                continue
            source = ast.unparse(value.value)
            assert any(known in source for known in NO_COUNTS), f"{module}:{node.lineno}: {source} {word[1]}"


#: Nouns of which messages say how many there are.
COUNTED = re.compile(
    " (pages|areas|events|frames|tables|lines|frees|scripts|ops|mappings|runs|addresses|reports|allocations|"
    "entries|calls|segments|ranges|notes|mismatches|findings|places|words|levels|processes)\\b"
)
#: Numbers in front of such a noun that are no count of one: sizes of pages, limits, and counts that begin at two.
NO_COUNTS = (
    "format_size",
    "_MOST",
    "bits",
    "wanted",
    "_SPLIT",
    "max(sizes)",
    "len(hits)",
    "roots",
    "self.count",
    ".name",
    ".rate",
    "_aside",
)

# ---- errors of the library

ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, VmcoreError)]


def made(kind):
    """Make an exception with hostile text wherever it takes text."""
    if kind.__init__ in (Exception.__init__, VmcoreError.__init__):
        return kind(HOSTILE)
    arguments = {}
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        if parameter.default is inspect.Parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            text = str(parameter.annotation)
            number = text.startswith("int") or text == "int | None"
            arguments[name] = 1 if number else [HOSTILE] if "Iterable" in text else HOSTILE
    return kind(**arguments)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_is_one_line_that_is_safe_to_print(kind):
    error = made(kind)
    error.add_note(HOSTILE)
    for text in (str(error), *error.__notes__):
        assert text == printable(text)
        assert text.isascii()


def test_the_facts_of_an_error_stay_as_they_were_found():
    error = errors.TraceError("a\x1b[31m", 3, "torn")
    assert str(error) == r"a\x1b[31m:3: torn"
    assert error.file == "a\x1b[31m"
