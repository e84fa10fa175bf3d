"""Every hook is specified in one form and documented with its exact signature; the document's plugins work."""

import inspect
import re
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from attrs import fields

from tests.support import hooks_page
from vmcore import hookspecs
from vmcore.architecture import LayoutRequest, Window
from vmcore.linking.link import Events, Linked, bind_events, link
from vmcore.linking.registry import load

DOCUMENT = hooks_page.PAGE.read_text("utf-8")
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("vmcore_")}
LINES = ("Called", "Default", "Returns", "Added")


def arguments(hook):
    return list(inspect.signature(hook).parameters)


def option(hook, name):
    return getattr(hook, "vmcore_spec")[name]  # noqa: B009  # the attribute pluggy makes of the project's name


def test_the_reference_of_the_page_is_up_to_date():
    assert hooks_page.page(DOCUMENT) == DOCUMENT, "run python -m tests.support.hooks_page"


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="found no pair of marks"):
        hooks_page.page(DOCUMENT.replace(hooks_page.END, ""))


def test_every_hook_has_a_heading_with_its_exact_signature_in_the_order_of_the_file():
    headings = re.findall(r"^### (.*\(.*)$", hooks_page.reference(), re.MULTILINE)
    assert headings == [f"{name}({', '.join(arguments(hook))})" for name, hook in HOOKS.items()]


def test_every_member_of_a_protocol_and_every_field_of_a_record_has_a_line():
    text = hooks_page.reference()
    assert list(hooks_page.PROTOCOLS) == ["Tables", "Process", "Host"]
    for owner in (*hooks_page.PROTOCOLS.values(), *hooks_page.RECORDS.values()):
        (found,) = re.findall(rf"^### {owner.__name__}\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
        members = getattr(owner, "_fields", [name for name in vars(owner) if not name.startswith("_")])
        assert re.findall(r"^- `(\w+)(?:: |\()[^`]+`\. [A-Z1\"]", found, re.MULTILINE) == list(members)


def test_a_part_that_is_the_same_for_each_hook_of_a_kind_stands_once():
    common = hooks_page.shared([hook for hook in HOOKS.values() if hooks_page.kind_of(hook) == "Event"])
    assert common["Returns"] == "ignored."
    assert hooks_page.reference().count("Returns: ignored.") == 1


def documented():
    """Say it first.

    Called: often, and
        once more.
    Args:
        first: a number ``n``.
        second: of two
            lines.
    """


def test_the_parts_of_a_docstring_are_found():
    parts = hooks_page.sections(documented)
    assert list(parts) == ["", "Called", "Args"]
    assert hooks_page.flowing(parts["Called"]) == "often, and once more."
    assert list(hooks_page.entries(parts["Args"])) == [("first", "a number `n`."), ("second", "of two lines.")]


@pytest.mark.parametrize("name", HOOKS)
def test_a_docstring_has_its_kind_and_the_fixed_lines(name):
    text = inspect.getdoc(HOOKS[name])
    assert re.match(r"(Discovery|Link|Event): \S", text)
    assert re.findall(r"^(\w+): \S", text, re.MULTILINE)[1:] == list(LINES)
    assert re.search(r"^Added: contract \d+\.\d+\.$", text, re.MULTILINE)


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_marked_annotated_and_of_one_kind(name):
    hook = HOOKS[name]
    kind = inspect.getdoc(hook).split(":")[0]
    assert option(hook, "firstresult") is (kind == "Link")
    assert (arguments(hook) == ["arch"]) is (kind == "Link")
    assert inspect.signature(hook).return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not p.empty for p in inspect.signature(hook).parameters.values())
    if kind == "Event":
        assert inspect.signature(hook).return_annotation == "None"
        assert "Returns: ignored." in inspect.getdoc(hook)


def test_symbols_and_events_are_exactly_the_hooks():
    kinds = {name: inspect.getdoc(hook).split(":")[0] for name, hook in HOOKS.items()}
    assert [f"vmcore_{f.name}" for f in fields(Linked)] == [n for n, kind in kinds.items() if kind == "Link"]
    assert [f"vmcore_{f.name}" for f in fields(Events)] == [n for n, kind in kinds.items() if kind == "Event"]
    assert [n for n, kind in kinds.items() if kind == "Discovery"] == ["vmcore_architectures", "vmcore_placements"]


def test_the_contract_version_is_a_major_and_a_minor():
    assert hookspecs.API_VERSION == (1, 3)


# ---- the examples of the document, executed


def example(name):
    """Return the plugin of one example, as a module."""
    sources = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    (source,) = [source for source in sources if source.startswith(f'"""{name}:')]
    module = ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def registry(*names):
    found = load(points=[])
    for name in names:
        found.add(example(name), name.removeprefix("vmcore_"))
    return found


class Cpu:
    def __init__(self):
        self.flushed = []

    def flush_tlb_pages(self, cpu, start, end, every_cpu):
        self.flushed.append((cpu, start, end, every_cpu))


def test_no_example_is_left_out():
    assert re.findall(r'^```python\n"""(\w+):', DOCUMENT, re.MULTILINE) == [
        "vmcore_toy32",
        "vmcore_drop_flush",
        "vmcore_tracer",
    ]
    assert DOCUMENT.count("```python") == 3


def test_the_complete_plugin_brings_a_machine_that_can_be_laid_out():
    toy = registry("vmcore_toy32").get("toy32")
    layout = toy.lay_out(LayoutRequest(ram=toy.default_ram))
    assert layout.vmalloc == Window(0xE000_0000, 0xFFC0_0000)
    assert layout.high_memory == 0xD000_0000


def test_the_complete_plugin_defines_its_symbol():
    found = registry("vmcore_toy32")
    cpu = Cpu()
    link(found.manager, found.get("toy32")).flush_tlb_kernel_range(cpu, 0, 0xE000_0000, 0xE000_2000)
    assert cpu.flushed == [(0, 0xE000_0000, 0xE000_2000, True)]


def test_the_wrapper_drops_the_flush():
    found = registry("vmcore_toy32", "vmcore_drop_flush")
    cpu = Cpu()
    linked = link(found.manager, found.get("toy32"))
    assert linked.flush_tlb_kernel_range(cpu, 0, 0xE000_0000, 0xE000_2000) is None
    assert cpu.flushed == []
    assert linked.flush_tlb_kernel_range.__name__ == "dropped"


def test_the_tracer_hears_its_two_events():
    found = registry("vmcore_tracer")
    events = bind_events(found.manager)
    events.range_mapped(address=0xE000_0000, entries=np.array([0x5003, 0x3003]), frames=np.array([5, 3]))
    events.flush(flush=SimpleNamespace(symbol="flush_cache_vmap", cpu=1, start=0xE000_0000, end=0xE000_2000))
    assert found.manager.get_plugin("tracer").lines == [
        "mapped 0xe0000000: 2 pages, frames 0x3..0x5",
        "flush_cache_vmap 0xe0000000..0xe0002000 on CPU 1",
    ]
    assert [f.name for f in fields(Events) if getattr(events, f.name) is not None] == ["range_mapped", "flush"]
