"""The pictures of docs/pictures are those that their scripts draw."""

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"


@pytest.fixture(scope="module")
def space():
    """Return the script as a module, and the picture it draws."""
    spec = importlib.util.spec_from_file_location("space", FOLDER / "space.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.draw()


def test_the_picture_is_what_the_script_draws(space):
    _, drawn = space
    written = (FOLDER / "space.svg").read_text("utf-8")
    assert written == drawn, "python docs/pictures/space.py draws it anew"


def test_the_picture_shows_the_free_pages_of_the_report(space):
    module, drawn = space
    paths = ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}path")
    cells = {at.get("stroke"): sum(map(int, re.findall(r"h(\d+)", at.get("d")))) for at in paths}
    colours = {kind: colour for kind, (colour, _) in module.KINDS.items()}
    assert set(cells) == set(colours.values())
    assert cells[colours[module.FREE]] * 4096 == 264 << 10
    assert "9,695 areas" in drawn
    assert "264 KiB are free, the largest hole has 4 KiB" in drawn


def test_every_picture_has_a_script():
    assert {path.stem for path in FOLDER.glob("*.svg")} == {path.stem for path in FOLDER.glob("*.py")}
