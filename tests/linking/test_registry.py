"""Plugins arrive by entry point; one that does not work is named and takes nothing else down."""

import sys
from importlib.metadata import EntryPoint
from textwrap import dedent

import pytest

from vmcore import hookimpl
from vmcore.architecture import Architecture, Layout, Level, Zone
from vmcore.errors import ConfigurationError, PluginError, UnknownArchitecture
from vmcore.linking.registry import GROUP, Registry, load

WORD = 0xFFFF_FFFF
HEAD = """
    from vmcore import hookimpl
    from vmcore.architecture import Architecture, Layout, Level, Zone
    vmcore_api = (1, 0)
"""
ARCH = """
    def layout(request):
        return Layout(page_offset=0xc0000000, phys_offset=0, lowmem_end=request.ram, vmalloc_start=0xf0000000,
                      vmalloc_end=0xff000000, swapper_pg_dir=0x1000, kernel_end=0x100000, first_kernel_pgd=768,
                      banks=request.banks(0))

    def record(name):
        frame = [(12, 20, 12)]
        levels = [Level(name="pgd", shift=22, bits=10, entry_bytes=4, frame=frame, none_mask=0xffffffff,
                        table_flags=1),
                  Level(name="pte", shift=12, bits=10, entry_bytes=4, frame=frame, none_mask=0xffffffff)]
        return Architecture(name=name, description="A toy.", word_bits=32, page_shift=12, levels=levels,
                            page_kernel=1, zones=["NORMAL"], layout=layout)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that writes a plugin module and returns its entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written = []

    def write(name, *parts, point=None):
        module = f"fake_{name}"
        (tmp_path / f"{module}.py").write_text("\n".join(dedent(part) for part in parts))
        written.append(module)
        return EntryPoint(point or name, module, GROUP)

    yield write
    for module in written:
        sys.modules.pop(module, None)


def brings(*names):
    return f"@hookimpl\ndef vmcore_architectures():\n    return [record(name) for name in {list(names)!r}]\n"


def cause(registry, name):
    return registry.broken[name].cause


def toy(name="toy"):
    """A two-level 32-bit machine."""
    levels = [
        Level(name="pgd", shift=22, bits=10, entry_bytes=4, frame=[(12, 20, 12)], none_mask=WORD, table_flags=1),
        Level(name="pte", shift=12, bits=10, entry_bytes=4, frame=[(12, 20, 12)], none_mask=WORD),
    ]
    return Architecture(
        name=name, description="", word_bits=32, page_shift=12, levels=levels, page_kernel=1,
        zones=[Zone("NORMAL")], layout=lambda request: Layout(),
    )  # fmt: skip


class Bringing:
    """A plugin as an object."""

    vmcore_api = (1, 0)

    def __init__(self, answer):
        self.answer = answer

    @hookimpl
    def vmcore_architectures(self):
        return self.answer


def test_architectures_of_all_plugins_in_order_of_name(install):
    points = [
        install("second", HEAD, ARCH, brings("zebra", "ant")),
        install("first", HEAD, ARCH, brings("mole")),
    ]
    registry = load(points=points)
    assert list(registry.architectures) == ["ant", "mole", "zebra"]
    assert registry.origin == {"mole": "first", "zebra": "second", "ant": "second"}
    assert registry.get("mole").name == "mole"
    assert (registry.broken, registry.blocked) == ({}, frozenset())


def test_the_installed_group_is_what_is_loaded_by_default(install, monkeypatch):
    point = install("only", HEAD, ARCH, brings("toy"))
    asked = []
    monkeypatch.setattr("vmcore.linking.registry.entry_points", lambda group: asked.append(group) or [point])
    assert list(load().architectures) == ["toy"]
    assert asked == ["vmcore"]


def test_each_load_is_a_registry_of_its_own(install):
    point = install("only", HEAD, ARCH, brings("toy"))
    one, two = load(points=[point]), load(points=[point])
    assert one.manager is not two.manager
    one.add(Bringing([toy("other")]), "more")
    assert (list(one.architectures), list(two.architectures)) == (["other", "toy"], ["toy"])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import not_there_at_all", "cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("raise SystemExit('no licence')", "cannot be imported: SystemExit: no licence"),
        ("raise BaseException('two\\nlines')", "cannot be imported: BaseException: two lines"),
        ("raise GeneratorExit", "cannot be imported: GeneratorExit:"),
        ("def half(:", "cannot be imported: SyntaxError: invalid syntax (fake_bad.py, line 1)"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_kept_aside(install, source, expected):
    registry = load(points=[install("bad", source), install("good", HEAD, ARCH, brings("toy"))])
    assert cause(registry, "bad") == expected
    assert list(registry.architectures) == ["toy"]


def test_an_interrupt_during_an_import_ends_the_program(install):
    with pytest.raises(KeyboardInterrupt):
        load(points=[install("bad", "raise KeyboardInterrupt")])


def test_a_registry_knows_where_its_plugins_come_from(install):
    registry = load(points=[install("one", HEAD, ARCH, brings("toy")), install("bad", "1 / 0")])
    assert registry.sources == {"one": ("unknown distribution", "fake_one")}
    more = registry.with_listeners([Bringing([])])
    assert more.sources["listener 0"] == ("given by the program", "Bringing")
    assert list(registry.sources) == ["one"]


def test_a_plugin_may_be_left_out_of_one_machine(install):
    registry = load(points=[install("one", HEAD, ARCH, brings("toy"))])
    fewer = registry.with_listeners([], without=["one"])
    assert (fewer.manager.has_plugin("one"), fewer.manager.has_plugin("weak")) == (False, True)
    assert registry.manager.has_plugin("one")
    assert registry.with_listeners([]) is registry


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("None", "it declares no contract version, expected vmcore_api = (1, 3)"),
        ("(2, 0)", "it was written for contract (2, 0), this is (1, 3); update one of them"),
        ("(1, 4)", "it was written for contract (1, 4), this is (1, 3); update one of them"),
        ("(0, 9)", "it was written for contract (0, 9), this is (1, 3); update one of them"),
        ("'1.0'", "it was written for contract 1.0, this is (1, 3); update one of them"),
        ("(1,)", "it was written for contract (1,), this is (1, 3); update one of them"),
    ],
)
def test_a_contract_version_that_does_not_fit(install, declared, expected):
    points = [install("bad", HEAD, ARCH, brings("toy"), f"vmcore_api = {declared}")]
    registry = load(points=points)
    assert cause(registry, "bad") == expected
    assert dict(registry.architectures) == {}


def test_an_unknown_hook_names_the_nearest(install):
    hook = "@hookimpl\ndef vmcore_archtectures():\n    return []\n"
    registry = load(points=[install("bad", HEAD, hook)])
    assert cause(registry, "bad") == "unknown hook 'vmcore_archtectures', did you mean 'vmcore_architectures'?"


def test_an_unknown_hook_that_resembles_none(install):
    registry = load(points=[install("bad", HEAD, "@hookimpl\ndef zzzz():\n    return []\n")])
    assert cause(registry, "bad") == "unknown hook 'zzzz'"


def test_arguments_a_hook_does_not_have(install):
    hook = "@hookimpl\ndef vmcore_printk(line, colour):\n    pass\n"
    registry = load(points=[install("vmcore_bad", HEAD, hook)])
    message = cause(registry, "vmcore_bad")
    assert "Plugin 'vmcore_bad' for hook 'vmcore_printk'" in message
    assert "{'colour'} are declared in the hookimpl but can not be found in the hookspec" in message
    assert "\n" not in message


def test_a_hook_without_its_mark(install):
    registry = load(points=[install("bad", HEAD, ARCH, brings("toy").removeprefix("@hookimpl\n"))])
    assert cause(registry, "bad") == "its vmcore_architectures is not marked, expected @hookimpl above it"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[1]", "TypeError: vmcore_architectures() returned 1, expected Architecture records"),
        ("None", "TypeError: vmcore_architectures() returned None, expected Architecture records"),
        ("{}['x']", "KeyError: 'x'"),
        ("[record('Bad Name')]", "ArchitectureError: Bad Name: name is 'Bad Name', expected lower case words "
         "joined by - or _"),
        ("[record('fine'), 2]", "TypeError: vmcore_architectures() returned 2, expected Architecture records"),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_architecture(install, answer, expected):
    hook = f"@hookimpl\ndef vmcore_architectures():\n    return {answer}\n"
    registry = load(points=[install("bad", HEAD, ARCH, hook), install("good", HEAD, ARCH, brings("toy"))])
    assert cause(registry, "bad") == expected
    assert list(registry.architectures) == ["toy"]
    assert not registry.manager.has_plugin("bad")


def test_an_architecture_that_exists_already_stays_the_first_ones(install):
    points = [install("one", HEAD, ARCH, brings("toy")), install("two", HEAD, ARCH, brings("new", "toy"))]
    registry = load(points=points)
    assert cause(registry, "two") == "ValueError: architecture 'toy' exists already, from 'one'"
    assert registry.origin == {"toy": "one"}


def test_one_module_under_two_names_keeps_the_first(install):
    first = install("one", HEAD, ARCH, brings("toy"))
    registry = load(points=[first, EntryPoint("two", first.value, GROUP)])
    assert cause(registry, "two") == "its name is taken, or it is registered under another name already"
    assert registry.manager.has_plugin("one")
    assert list(registry.architectures) == ["toy"]


def test_two_modules_under_one_name_keep_the_first(install):
    points = [
        install("one", HEAD, ARCH, brings("toy"), point="same"),
        install("two", HEAD, ARCH, brings("other"), point="same"),
    ]
    registry = load(points=points)
    assert registry.broken["same"].module == "fake_two"
    assert list(registry.architectures) == ["toy"]
    assert registry.manager.get_plugin("same").__name__ == "fake_one"


def test_the_cores_own_plugin_cannot_be_replaced(install):
    registry = load(points=[install("mine", HEAD, ARCH, brings("toy"), point="weak")])
    assert cause(registry, "weak") == "its name is taken, or it is registered under another name already"
    assert registry.manager.get_plugin("weak").__name__ == "vmcore.linking.weak"


def test_a_plugin_error_says_who_what_and_what_to_do(install):
    registry = load(points=[install("bad", "1 / 0")])
    assert str(registry.broken["bad"]) == (
        "plugin 'bad' (unknown distribution, module 'fake_bad'): cannot be imported: ZeroDivisionError: "
        "division by zero. Repair or uninstall it, or block it with --block bad or VMCORE_BLOCK=bad"
    )


def test_a_blocked_plugin_is_not_even_imported(install):
    points = [install("bad", "1 / 0"), install("good", HEAD, ARCH, brings("toy"))]
    registry = load(block=["bad"], points=points)
    assert (registry.broken, registry.blocked) == ({}, frozenset({"bad"}))
    assert list(registry.architectures) == ["toy"]


def test_blocking_what_is_not_installed(install):
    with pytest.raises(ConfigurationError) as caught:
        load(block=["god"], points=[install("good", HEAD)])
    assert str(caught.value) == (
        "cannot block plugin 'god', which is not installed: did you mean 'good'? installed: good"
    )


def test_an_unknown_architecture_names_the_nearest_and_what_is_broken(install):
    registry = load(points=[install("bad", "1 / 0"), install("good", HEAD, ARCH, brings("toy32", "other"))])
    with pytest.raises(UnknownArchitecture) as caught:
        registry.get("toy23")
    assert str(caught.value) == (
        "unknown architecture 'toy23': did you mean 'toy32'? installed: other, toy32. "
        "`vmcore arches` describes them. A third-party one must be installed first"
    )
    assert caught.value.__notes__ == [f"one plugin could not be used: {registry.broken['bad']}"]
    assert (caught.value.name, caught.value.installed) == ("toy23", ["other", "toy32"])


def test_an_architecture_whose_plugin_is_broken_raises_that(install):
    registry = load(points=[install("toy_32", "1 / 0")])
    with pytest.raises(PluginError, match="division by zero"):
        registry.get("toy-32")


def test_nothing_installed_says_so():
    with pytest.raises(UnknownArchitecture) as caught:
        load(points=[]).get("toy")
    assert caught.value.__notes__ == ["no architecture was found at all; install the package (pip install .)"]


def test_a_program_may_add_a_plugin():
    registry = load(points=[])
    registry.add(Bringing([toy()]), "mine")
    assert (list(registry.architectures), registry.origin) == (["toy"], {"toy": "mine"})
    with pytest.raises(PluginError) as caught:
        registry.add(Bringing([toy()]), "again")
    assert (caught.value.plugin, caught.value.distribution) == ("again", "given by the program")
    assert (caught.value.module, caught.value.cause) == (
        "Bringing",
        "ValueError: architecture 'toy' exists already, from 'mine'",
    )
    assert list(registry.architectures) == ["toy"]


def test_the_answer_may_be_a_generator():
    registry = load(points=[])
    registry.add(Bringing(toy(name) for name in ("b", "a")), "mine")
    assert list(registry.architectures) == ["a", "b"]


def test_architectures_cannot_be_changed_from_outside():
    registry = load(points=[])
    with pytest.raises(TypeError):
        registry.architectures["x"] = toy()
    assert isinstance(registry, Registry)
