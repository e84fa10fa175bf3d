"""docs/glossary.md, index.md and CONTRIBUTING.md: terms in order, places that exist, links, environments."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROWS = re.findall(
    r"^\| ([^|]+) \| ([^|]+) \| (`[^|]+) \|$", (DOCS / "glossary.md").read_text("utf-8"), re.MULTILINE
)
GUIDE = (DOCS / "CONTRIBUTING.md").read_text("utf-8")
NEW = ("CONTRIBUTING.md", "glossary.md", "index.md")


def test_there_are_terms_enough_and_in_order():
    terms = [term for term, _, _ in ROWS]
    assert len(set(terms)) == len(terms) >= 40
    assert terms == sorted(terms, key=str.casefold)


@pytest.mark.parametrize(("term", "meaning", "place"), ROWS, ids=[term for term, _, _ in ROWS])
def test_a_term_is_said_in_a_sentence_or_a_few_and_its_place_exists(term, meaning, place):
    assert meaning.endswith(".")
    assert len(re.findall(r"[.:](?= |$)", meaning)) <= 4
    name, path = re.fullmatch(r"(?:`([\w.]+)` in )?`([\w./]+)`", place).groups()
    text = (ROOT / path).read_text("utf-8")
    assert name is None or re.search(rf"\b{name.split('.')[-1]}\b", text)


@pytest.mark.parametrize("page", NEW)
def test_links_lead_somewhere(page):
    text = (DOCS / page).read_text("utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([\w-]+))?\)", text):
        path = DOCS / target if target else DOCS / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_every_page_is_in_the_index():
    text = (DOCS / "index.md").read_text("utf-8")
    assert {path.name for path in DOCS.glob("*.md")} - {"index.md"} <= set(re.findall(r"\]\((\w+\.md)", text))


def test_each_environment_of_tox_is_told():
    tox = (ROOT / "tox.ini").read_text("utf-8")
    named = set(re.findall(r"^\[testenv:([\w-]+)\]", tox, re.MULTILINE))
    assert len(named) >= 10
    assert {name for name in named if f"`{name}`" not in GUIDE} == set()
    assert re.findall(r"tox run -m (\w+)", GUIDE)
    for label in set(re.findall(r"tox run -m (\w+)", GUIDE)):
        assert re.search(rf"^    {label} = ", tox, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:vmcore|arches|plugins|tests)/[\w./-]+)`", GUIDE))))
def test_each_file_that_the_guide_names_exists(path):
    if "NAME" not in path:
        assert (ROOT / path).exists()


def test_subjects_of_commits_in_the_guide_keep_the_rule():
    block = GUIDE[GUIDE.index("## Commits") :].split("```text\n")[1].split("```")[0]
    subjects = block.splitlines()
    assert len(subjects) == 3
    assert all(re.fullmatch(r"[a-z]+: [a-z].{1,65}", subject) and len(subject) <= 72 for subject in subjects)
