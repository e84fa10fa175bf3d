"""Names of machines that are no names of records: those of uname and distributions, slips, and other machines."""

import attrs
import pytest

from vmcore.errors import ArchitectureError, UnknownArchitecture

MEANT = {
    "x86_64": ("amd64", "x64", "x86-64", "AMD64", "x86_46"),
    "i386": ("x86", "i686", "i586", "i368"),
    "i386-highmem": ("x86", "i686", "i586", "i386-higmem", "i386_highmem"),
    "i386-pae": ("PAE", "i686-pae", "i386_pae", "i386pae"),
    "armv5": ("arm", "armel", "armv5tejl"),
    "armv7": ("arm", "armhf", "armv6", "armv6l", "armv7l"),
}
#: 64-bit machines, and others, that no built-in record describes.
STRANGERS = ("aarch64", "arm64", "ARM64", "armv8", "armv8l", "armv9", "mips64", "ppc64le", "sparc64", "s390x",
             "ia64", "loongarch64", "alpha", "m68k", "z80", "", "\x1b")  # fmt: skip


@pytest.mark.parametrize(("name", "record"), [(name, record) for record, names in MEANT.items() for name in names])
def test_a_name_that_is_known_elsewhere(registry, name, record):
    with pytest.raises(UnknownArchitecture, match=r"did you mean .*installed: ") as error:
        registry.get(name)
    assert record in error.value.meant


@pytest.mark.parametrize("name", STRANGERS)
def test_no_record_is_suggested_for_another_machine(registry, name):
    with pytest.raises(UnknownArchitecture) as error:
        registry.get(name)
    assert [found for found in error.value.meant if registry.architectures[found].word_bits == 32] == []
    if error.value.meant == []:
        assert "no installed record describes it; installed: armv5" in str(error.value)
        assert "`vmcore arches` describes them" in str(error.value)


def test_no_alias_is_the_name_of_a_record(registry):
    for arch in registry.architectures.values():
        assert not set(arch.aliases) & set(registry.architectures)


@pytest.mark.parametrize("aliases", [("I386",), ("a", "a"), ("",), ("i386",), ("a b",), "abc def", 5])
def test_aliases_are_names(registry, aliases):
    with pytest.raises(ArchitectureError, match=r"i386: aliases is "):
        attrs.evolve(registry.architectures["i386"], aliases=aliases)
