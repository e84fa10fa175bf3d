"""An executable, inspectable model of the Linux kernel's vmalloc on any architecture that has a record.

The stub beside this file, ``__init__.pyi``, is the one table of public names. Type checkers read it as it is. Here
each of its names is imported at its first use, so that a command line that only prints help is fast.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Import a public name from its module, or list the public names as ``__all__``."""
    if name == "__all__":
        value: Any = sorted([*_modules(), "__version__"])
    elif name == "__version__":
        value = _version()
    elif name in _modules():
        value = _imported(_modules()[name], name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})


@cache
def _modules() -> dict[str, str]:
    """Return the module of each name that the stub imports."""
    import ast  # noqa: PLC0415  # only programs that use a public name need it
    from pkgutil import get_data  # noqa: PLC0415

    stub = get_data(__name__, "__init__.pyi")
    assert stub is not None
    imports = (node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom))
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def _imported(module: str, name: str) -> object:
    """Return the object that a module has under a name. The names of the package itself are its modules."""
    return import_module(f"{module}.{name}") if module == __name__ else getattr(import_module(module), name)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  # slow, and seldom asked for

    try:
        return version("vmcore")
    except PackageNotFoundError:
        return "0+not.installed"
