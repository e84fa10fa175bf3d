"""The mutation tool by itself: which mutants of a module it makes, and what each of them puts where."""

import random
import textwrap

import pytest

pytest.importorskip("mutmut", reason="mutmut is not installed (pip install vmcore[mutants])")

from tests.mutants import mutants

MODULE = '''
def field(factory=None, repr=True):
    """Take what a class body gives."""
    return factory


class Area:
    pages = field(factory=lambda: [4], repr=False)
    sizes = [n + 1 for n in range(3)]

    def end(self, start, size):
        if size > 4:
            return start - size
        return sum(n * 2 for n in range(start))
'''


@pytest.fixture
def made(tmp_path, monkeypatch, request):
    """Return the mutants of the module above."""
    name = f"mutated_{request.node.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    return list(mutants(name, random.Random(1)))


def test_a_mutant_without_the_lambda_of_a_class_is_left_out(made):
    """``field(repr=False)`` has no lambda: the code that follows would be put into the wrong functions."""
    assert made
    for mutant in made:
        assert "field(repr" not in mutant.after
        for old, new in mutant.swaps:
            assert (old.co_qualname, old.co_firstlineno) == (new.co_qualname, new.co_firstlineno)


def test_mutants_are_told_by_their_lines(made):
    lines = {(mutant.function, mutant.before, mutant.after) for mutant in made}
    assert ("Area.end", "if size > 4:", "if size >= 4:") in lines
    assert ("Area.end", "return start - size", "return start + size") in lines
    assert len(lines) == len(made)


def test_a_mutants_code_does_something_else(made):
    mutant = next(m for m in made if m.after == "return start + size")
    ((old, new),) = mutant.swaps
    assert (eval_end(old, 9, 5), eval_end(new, 9, 5)) == (4, 14)


def eval_end(code, start, size):
    """Call the method that a code object is of."""
    return type(eval_end)(code, {})(None, start, size)
