"""Write the reference of docs/hooks.md from the code of the contract: ``python -m tests.support.hooks_page``.

The prose of the page is written by hand. The text between the two marks comes from the signatures and docstrings
of `vmcore.hookspecs`, `vmcore.host` and `vmcore.events`.
"""

import inspect
import re
import textwrap
from pathlib import Path
from typing import ForwardRef

from vmcore import events, hookspecs, host

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"
BEGIN = "<!-- The reference. `python -m tests.support.hooks_page` makes it from the code. -->"
END = "<!-- End of the reference. -->"
#: Heading of each kind of hook, by the first word of the docstrings.
KINDS = {"Discovery": "Discovery", "Link": "Link", "Event": "Events"}
WIDTH = 128


def own(module, kind):
    """Return the public objects of one kind that a module defines, by name and in the order of the file."""
    members = vars(module).items()
    return {
        name: value
        for name, value in members
        if kind(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


HOOKS = own(hookspecs, inspect.isfunction)
SYMBOLS = [(name, value) for name, value in vars(hookspecs).items() if name.endswith("Symbol")]
PROTOCOLS = own(host, inspect.isclass)
RECORDS = own(events, inspect.isclass)


def text_of(documented):
    """Return a docstring without its indentation."""
    return inspect.getdoc(documented) or ""


def sections(documented):
    """Return the parts of a docstring by their titles; the text before the first title has none."""
    parts: dict[str, list[str]] = {"": []}
    title = ""
    for line in text_of(documented).splitlines():
        found = re.match(r"([A-Z][a-z]+):(?: (.*)|$)", line)
        if found and parts[""][1:]:  # the first line of a hook's docstring begins with its kind
            title = found[1]
            parts[title] = [found[2] or ""]
        else:
            parts[title].append(line)
    return {title: "\n".join(lines) for title, lines in parts.items()}


def flowing(text):
    """Return a text as one paragraph of Markdown."""
    return " ".join(text.split()).replace("``", "`")


def entries(text):
    """Yield the names and the texts of a section such as "Args", one a line, or more where indented."""
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(text).strip()):
        name, _, meaning = entry.partition(": ")
        yield name, flowing(meaning)


def bullet(text, depth=0):
    """Return an item of a list."""
    indent = "  " * depth
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"{indent}- ",
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def paragraph(text):
    """Return a paragraph."""
    return textwrap.fill(text, WIDTH, break_on_hyphens=False, break_long_words=False)


def kind_of(hook):
    """Return the first word of a hook's docstring, for example "Link"."""
    return text_of(hook).partition(":")[0]


def shared(hooks):
    """Return the parts that are the same for several hooks, which the page has once."""
    all_parts = [sections(hook) for hook in hooks]
    first = all_parts[0]
    return {
        title: text
        for title, text in first.items()
        if title and all_parts[1:] and all(parts.get(title) == text for parts in all_parts)
    }


def annotation(value):
    """Return the text of an annotation, or of a type, without the modules of its names."""
    if isinstance(value, ForwardRef):
        return value.__forward_arg__
    return value if isinstance(value, str) else re.sub(r"\b(?:\w+\.)+(?=\w)", "", inspect.formatannotation(value))


def hook_lines(name, hook, common):
    """Yield the lines of one hook."""
    signature = inspect.signature(hook)
    parts = sections(hook)
    yield f"### {name}({', '.join(signature.parameters)})"
    yield ""
    summary = flowing(parts[""].partition(":")[2])
    yield paragraph(summary if re.match(r"\w+\(", summary) else summary[0].upper() + summary[1:])
    yield ""
    given = [f"`{p.name}: {annotation(p.annotation)}`" for p in signature.parameters.values()]
    yield bullet(f"Arguments: {', '.join(given) or 'none'}.")
    answer = annotation(signature.return_annotation)
    if answer != "None":
        yield bullet(f"Type of the answer: `{answer}`.")
    for title, text in parts.items():
        if title in ("Args", "Attributes"):
            for argument, meaning in entries(text):
                yield bullet(f"`{argument}`: {meaning}", 1)
        elif title and title not in common:
            yield bullet(f"{title}: {flowing(text)}")
    yield ""


def member_lines(name, member):
    """Yield the lines of one property or method of a protocol."""
    function = getattr(member, "fget", member)  # a property's, or a method
    signature = inspect.signature(function)
    signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    answer = annotation(signature.return_annotation)
    shown = f"{name}: {answer}" if isinstance(member, property) else f"{name}{plain(signature)}"
    parts = sections(function)
    yield bullet(f"`{shown}`. {flowing(parts[''])}")
    for title, text in parts.items():
        if title in ("Args", "Raises"):
            raised = "Raises " if title == "Raises" else ""
            for entry, meaning in entries(text):
                yield bullet(f"{raised}`{entry}`: {meaning}", 1)
        elif title:
            yield bullet(f"{title}: {flowing(text)}", 1)


def plain(signature):
    """Return a signature without the quotes of postponed annotations."""
    given = ", ".join(f"{p.name}: {annotation(p.annotation)}" for p in signature.parameters.values())
    return f"({given}) -> {annotation(signature.return_annotation)}"


def record_lines(name, record):
    """Yield the lines of one record of an event."""
    yield f"### {name}"
    yield ""
    for text in text_of(record).split("\n\n"):
        yield paragraph(flowing(text)) if not text.startswith("Attributes:") else ""
    meanings = dict(entries(sections(record).get("Attributes", "")))
    yield ""
    for field in record._fields:
        meaning = meanings[field]
        yield bullet(f"`{field}: {annotation(record.__annotations__[field])}`. {meaning[0].upper()}{meaning[1:]}")
    yield ""


def reference():
    """Return the generated part of the page, marks included."""
    lines = [BEGIN, ""]
    for kind, heading in KINDS.items():
        hooks = {name: hook for name, hook in HOOKS.items() if kind_of(hook) == kind}
        common = shared(list(hooks.values()))
        lines += [f"## {heading}", ""]
        if common:
            lines += ["The same for each:", "", *(bullet(f"{t}: {flowing(x)}") for t, x in common.items()), ""]
        if kind == "Link":
            types = (bullet(f"`{symbol}`: `{annotation(value)}`") for symbol, value in SYMBOLS)
            lines += ["The types of the symbols:", "", *types, ""]
        for name, hook in hooks.items():
            lines += hook_lines(name, hook, common)
    lines += ["## The kernel that a symbol is handed", "", paragraph(flowing(sections(host)[""])), ""]
    for name, protocol in reversed(PROTOCOLS.items()):
        lines += [f"### {name}", "", paragraph(flowing(sections(protocol)[""])), ""]
        for member, value in vars(protocol).items():
            if not member.startswith("_"):
                lines += member_lines(member, value)
        lines += [""]
    lines += ["## The records that events carry", ""]
    for name, record in RECORDS.items():
        lines += record_lines(name, record)
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*lines, END]))


def page(text):
    """Return the page's text with its reference made anew."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE}: found no pair of marks, expected {BEGIN!r} and {END!r}")
    return before + reference() + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), encoding="utf-8")
