"""Error messages as a kind: short, whatever they quote."""

import pytest

from vmcore.errors import DumpError, TraceError, VmcoreError


@pytest.mark.parametrize("error", [VmcoreError("a" * 9000 + "z"), TraceError("f", 1, "a" * 9000 + "z")])
def test_a_long_message_is_cut_in_the_middle(error):
    text = str(error)
    assert len(text) < 2000
    assert "a ... a" in text
    assert text.endswith("z")


def test_a_short_message_is_whole():
    assert str(DumpError("f", 16, "x", "y")) == "f, offset 0x10: found x, expected y"
