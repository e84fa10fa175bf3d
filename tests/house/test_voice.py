"""The prose is plain: pages and docstrings keep below three limits, counted here and printed by ``pytest -s``.

Three habits make prose hard for a stranger, and each can be counted:

- "what" as a noun ("have what was mapped cleared"). Every "what" counts, unless it asks (its sentence ends with a
  question mark) or stands in "what if" or "what to do".
- "somebody", "nobody" and "anybody", where a sentence could name the subject.
- A semicolon in the first line of a docstring, which holds two thoughts in place of one.

Code is not prose: blocks of code, `inline code`, sessions and the targets of links are left out.
"""

import ast
import re
from pathlib import Path

import pytest
from attrs import field, frozen

ROOT = Path(__file__).parents[2]
PER_THOUSAND = 1.0  # "what" as a noun, and "somebody" and its like, per 1,000 words
FIRST_LINES = 0.02  # share of first lines with a semicolon
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])

#: Folders whose docstrings are still to be rewritten. A folder that keeps the limits must leave this set.
TO_REWRITE = {
    "arches/arm",
    "vmcore",
    "vmcore/architecture",
    "vmcore/cli",
    "vmcore/linking",
    "vmcore/system",
    "vmcore/texts",
}

NOUN = re.compile(r"\bwhat\b(?!\s+(?:if|to)\b)", re.IGNORECASE)
PERSON = re.compile(r"\b(?:somebody|nobody|anybody)\b", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z][\w'-]*")
SENTENCE = re.compile(r".+?(?:[.?!](?=[\s\"')*]|$)|$)", re.DOTALL)


@frozen
class Count:
    """Counts over one text or several."""

    words: int = 0
    nouns: int = 0
    persons: int = 0
    first_lines: int = 0
    semicolons: int = 0
    found: tuple[str, ...] = field(default=(), repr=False)

    def __add__(self, other):
        return Count(
            self.words + other.words,
            self.nouns + other.nouns,
            self.persons + other.persons,
            self.first_lines + other.first_lines,
            self.semicolons + other.semicolons,
            self.found + other.found,
        )

    def keeps_the_limits(self):
        """Return whether all three counts lie below their limits."""
        habits = max(self.nouns, self.persons)
        return habits * 1000 < PER_THOUSAND * max(self.words, 1) and (
            self.semicolons == 0 or self.semicolons < FIRST_LINES * self.first_lines
        )

    def __str__(self):
        rates = [1000 * n / max(self.words, 1) for n in (self.nouns, self.persons)]
        share = 100 * self.semicolons / max(self.first_lines, 1)
        return (
            f"{self.words:7,} words  what {rates[0]:5.2f}  somebody {rates[1]:5.2f}  "
            f"first lines with ; {share:5.1f} % of {self.first_lines:,}"
        )


def prose(text):
    """Return a text without code: fenced and indented sessions, inline code, targets of links."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\s*>>> .*?(?:\n\s*\n|\Z)", "\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(`+)[^`]+\1", "CODE", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def count(text, place):
    """Count the habits in a text; ``place`` names it where one is found."""
    text = prose(text)
    nouns, persons = [], PERSON.findall(text)
    for sentence in SENTENCE.findall(text):
        if not sentence.rstrip().endswith("?"):
            nouns += [" ".join(sentence.split())] * len(NOUN.findall(sentence))
    found = tuple(f"{place}: {words[:160]}" for words in [*nouns, *persons])
    return Count(words=len(WORD.findall(text)), nouns=len(nouns), persons=len(persons), found=found)


def docstrings(path):
    """Yield the line and the text of every docstring of a file."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text is not None:
                yield getattr(node, "lineno", 1), text


def count_source(path):
    """Count the habits in the docstrings of one file."""
    total = Count()
    for line, text in docstrings(path):
        place = f"{path.relative_to(ROOT)}:{line}"
        first = text.partition("\n")[0]
        semicolon = ";" in prose(first)
        found = (f"{place}: {first}",) if semicolon else ()
        total += count(text, place) + Count(first_lines=1, semicolons=int(semicolon), found=found)
    return total


def sources():
    """Return the files of each folder, by the folder's path."""
    folders = {}
    for top in ("vmcore", "arches", "plugins"):
        for path in sorted((ROOT / top).rglob("*.py")):
            inside = path.relative_to(ROOT)
            if "build" not in inside.parts and "tests" not in inside.parts:
                folders.setdefault(str(inside.parent), []).append(path)
    return folders


FOLDERS = sources()


@pytest.fixture(scope="module")
def folders():
    """Return the counts of every folder's docstrings."""
    return {name: sum(map(count_source, paths), Count()) for name, paths in FOLDERS.items()}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_keeps_the_limits(path):
    counted = count(path.read_text("utf-8"), path.name)
    assert counted.words > 100
    assert counted.keeps_the_limits(), "\n".join([str(counted), *counted.found])


@pytest.mark.parametrize("name", sorted(FOLDERS.keys() - TO_REWRITE))
def test_the_docstrings_of_a_folder_keep_the_limits(folders, name):
    assert folders[name].keeps_the_limits(), "\n".join([str(folders[name]), *folders[name].found])


def test_a_folder_that_keeps_the_limits_is_not_left_to_rewrite(folders):
    assert {name for name in TO_REWRITE if name not in folders or folders[name].keeps_the_limits()} == set()


def test_the_counts_are_printed(folders):
    pages = [count(path.read_text("utf-8"), path.name) for path in PAGES]
    rows = {path.name: page for path, page in zip(PAGES, pages, strict=True)}
    rows["all pages"] = sum(pages, Count())
    rows |= folders
    rows["all docstrings"] = sum(folders.values(), Count())
    print()
    for name, counted in rows.items():
        print(f"{name:26}{counted}")
    assert rows["all docstrings"].first_lines > 1000
    assert rows["all pages"].words > 10_000


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("Return what was mapped. It says what it is.", 2),
        ("What does it return? What if it fails. Say what to do, for example.", 0),
        ("Whatever `what is` says:\n```sh\nwhat\n```\nand [a link](what.md)", 0),
        ("One is\nwhat it is; what else?", 0),
    ],
)
def test_a_noun_is_told_from_a_question(text, nouns):
    assert count(text, "").nouns == nouns


def test_each_habit_is_enough_to_fail():
    good = Count(words=1001, nouns=1, persons=1, first_lines=51, semicolons=1)
    assert good.keeps_the_limits()
    assert count("Somebody and nobody", "").persons == 2
    assert not (good + Count(nouns=1)).keeps_the_limits()
    assert not (good + Count(persons=1)).keeps_the_limits()
    assert not (good + Count(semicolons=1)).keeps_the_limits()
