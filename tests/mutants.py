"""Mutation testing: change one thing in a module, run the tests that reach it, expect one to fail.

``tox run -e mutants`` runs the tests of tests/mutants.toml once and notes which lines each one reaches. Then it
forks a child for each mutant. The child puts the mutated code into the functions that are loaded already, so a
mutant costs no import and no collection. Nothing is written to disk.

mutmut makes most mutants; conditions are negated and statements dropped besides. Left out, by rule:

- text: strings, f-strings, and arguments and assignments that are nothing else,
- ``a = b`` made ``a = None`` and arguments made None, which nearly every test kills,
- the size that numpy finds itself (``reshape(-1)``), for which it takes any negative number,
- code outside of functions, default values and annotations,
- mutants in which a function is missing or new, for example a lambda in a class: there is nothing to swap,
- mutants whose bytecode is the original's or another mutant's.

A mutant is killed when a test fails, hangs, or needs too much memory. It has survived when it outlives the fastest
tests that reach its line, up to a number of seconds of their own time. A slower test might still fail. Equivalent
mutants are listed in tests/mutants.toml by the lines they change, each with its reason. They are not counted.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import inspect
import os
import random
import resource
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path
from types import CodeType, FunctionType

import coverage
import libcst as cst
import pytest
from attrs import define, field, frozen
from libcst import matchers
from libcst.metadata import MetadataWrapper
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

CONFIG = Path(__file__).with_suffix(".toml")
PASS_MARK = 0.90
_TEXT = (cst.BaseString, cst.FormattedString)
_NOT_RUN = 3  # exit status of a child that could not put its mutant in place
_MEMORY = 3 << 30  # bytes of memory in use that a mutant may have; simulated RAM is mapped, and little of it used


@frozen
class Mutant:
    """One change: the module, the function around it, the changed lines before and after, and the code."""

    module: str
    function: str
    line: int
    before: str
    after: str
    swaps: tuple[tuple[CodeType, CodeType], ...] = field(repr=False)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the list of equivalent mutants knows it by: no line number."""
        return self.module, self.function, self.before, self.after

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.function}\n    - {self.before}\n    + {self.after}"


# ---- making mutants


def _negate(node: cst.If | cst.While | cst.IfExp) -> Iterator[cst.CSTNode]:
    inner = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield node.with_changes(test=cst.UnaryOperation(cst.Not(), inner))


def _drop(node: cst.SimpleStatementLine) -> Iterator[cst.CSTNode]:
    """Drop a call, or an assignment to an attribute or an item. Without other statements a name is missing."""
    statement = node.body[0]
    call = isinstance(statement, cst.Expr) and isinstance(statement.value, cst.Call)
    targets = [t.target for t in statement.targets] if isinstance(statement, cst.Assign) else []
    if isinstance(statement, cst.AugAssign):
        targets = [statement.target]
    if call or any(isinstance(t, cst.Attribute | cst.Subscript) for t in targets):
        yield node.with_changes(body=[cst.Pass()])


_OPERATORS = [*mutation_operators, ((cst.If, cst.While, cst.IfExp), _negate), (cst.SimpleStatementLine, _drop)]


def _by_rule(original: cst.CSTNode, mutated: cst.CSTNode) -> bool:
    """Tell whether the rules above leave a mutant out."""
    if isinstance(original, (*_TEXT, cst.Assign, cst.AnnAssign)):
        return True
    if isinstance(original, cst.Call) and isinstance(mutated, cst.Call) and original.args != mutated.args:
        changed = [a for a in original.args if not any(a is b for b in mutated.args)]
        return len(mutated.args) == len(original.args) or any(isinstance(a.value, _TEXT) for a in changed)
    return False


_ANY_SIZE = matchers.Call(
    matchers.Attribute(attr=matchers.Name("reshape")),
    [matchers.Arg(matchers.UnaryOperation(matchers.Minus())), matchers.ZeroOrMore()],
)


class _Visitor(MutationVisitor):
    def on_visit(self, node: cst.CSTNode) -> bool:
        return not isinstance(node, _TEXT) and not matchers.matches(node, _ANY_SIZE) and super().on_visit(node)


def _functions(code: CodeType) -> Iterator[CodeType]:
    """Give the functions of a module and of its classes; functions within functions are part of those."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & inspect.CO_OPTIMIZED:
                yield inner
            else:
                yield from _functions(inner)


def _meaning(code: CodeType) -> tuple:
    """Return all of a function's code but where its lines are."""
    consts = tuple(_meaning(c) if isinstance(c, CodeType) else (type(c), c) for c in code.co_consts)
    return code.co_code, consts, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags


def _change(before: list[str], after: list[str]) -> tuple[int, str, str]:
    """Return the first line that differs, and the lines that differ."""
    first = next(n for n, (a, b) in enumerate(zip([*before, None], [*after, None], strict=False)) if a != b)
    stop = 0
    while stop < min(len(before), len(after)) - first and before[-1 - stop] == after[-1 - stop]:
        stop += 1
    texts = (" ".join(map(str.strip, lines[first : len(lines) - stop])) for lines in (before, after))
    return first + 1, *texts


def mutants(name: str, rng: random.Random) -> Iterator[Mutant]:
    """Make the mutants of a module, in random order."""
    module = importlib.import_module(name)
    path, source = module.__file__, inspect.getsource(module)
    visitor = _Visitor(_OPERATORS, IgnoredCode(set(), set(), set()))
    tree = MetadataWrapper(cst.parse_module(source)).visit(visitor)
    made = [m for m in visitor.mutations if not _by_rule(m.original_node, m.mutated_node)]
    rng.shuffle(made)
    originals = list(_functions(compile(source, path, "exec")))
    shapes = [(code.co_qualname, code.co_freevars) for code in originals]
    seen = {_meaning(code) for code in originals}
    for mutation in made:
        text = tree.deep_replace(mutation.original_node, mutation.mutated_node).code
        try:
            functions = list(_functions(compile(text, path, "exec")))
        except SyntaxError:
            continue
        if [(code.co_qualname, code.co_freevars) for code in functions] != shapes:
            continue  # a lambda is gone, or a super(): no function can be put into the place of the old one
        swaps = tuple((a, b) for a, b in zip(originals, functions, strict=True) if _meaning(a) != _meaning(b))
        meanings = {_meaning(b) for _, b in swaps}
        if meanings and not meanings <= seen:
            seen |= meanings
            line, before, after = _change(source.splitlines(), text.splitlines())
            yield Mutant(name, swaps[0][0].co_qualname, line, before, after, swaps)


# ---- running tests


@define
class Runner:
    """A pytest plugin: runs all tests once, then those that reach a mutant's line, for each mutant."""

    groups: dict[str, list[str]]
    known: dict[tuple[str, str, str, str], str]
    sample: int | None
    seed: int
    workers: int
    seconds: float
    only: str
    failed: bool = False
    scores: dict[str, Counter] = field(factory=dict)
    met: set[tuple[str, str, str, str]] = field(factory=set)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a failure."""
        self.failed |= report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        if session.testsfailed:
            raise session.Interrupted("tests could not be collected")
        reach, seconds = self._baseline(session.items)
        for group, names in self.groups.items():
            for name in names:
                self._module(group, name, session.items, reach[sys.modules[name].__file__], seconds)
        return True

    def _baseline(self, items: list[pytest.Item]) -> tuple[dict[str, dict[int, list[int]]], list[float]]:
        """Run all tests; return by file and line which tests (numbers) reach it, and each test's seconds."""
        files = [importlib.import_module(name).__file__ for names in self.groups.values() for name in names]
        cover = coverage.Coverage(data_file=None, include=files, config_file=False)
        seconds: list[float] = []
        cover.start()
        for n, item in enumerate(items):
            cover.switch_context(str(n))
            start = time.process_time()
            self._run(items, n, None)
            seconds.append(time.process_time() - start)
            if self.failed:
                pytest.exit(f"{item.nodeid} fails without any mutant", 2)
        cover.stop()
        reach = {}
        for file in files:
            lines = cover.get_data().contexts_by_lineno(file).items()
            reach[file] = {line: sorted(int(test) for test in tests if test) for line, tests in lines}
        print(f"\n{len(items)} tests, {sum(seconds):.0f} s", flush=True)
        return reach, seconds

    def _run(self, items: list[pytest.Item], n: int, following: int | None) -> None:
        item, after = items[n], None if following is None else items[following]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)

    def _module(
        self, group: str, name: str, items: list[pytest.Item], reach: dict[int, list[int]], seconds: list[float]
    ) -> None:
        score = self.scores.setdefault(group, Counter())
        running: dict[int, tuple[Mutant, float]] = {}
        every = sorted({n for tests in reach.values() for n in tests}, key=seconds.__getitem__)
        control = self._fork(None, items, every, sum(seconds[n] for n in every))
        if os.waitpid(control, 0)[1]:
            pytest.exit(f"{name}: a test fails the second time in one process, without any mutant", 2)
        rng = random.Random(f"{self.seed} {name}")
        taken = 0
        for mutant in mutants(name, rng):
            if self.only and self.only not in f"{mutant.function}: {mutant.before} -> {mutant.after}":
                continue
            if taken == self.sample:
                break
            taken += 1
            if mutant.key in self.known:
                score["equivalent"] += 1
                self.met.add(mutant.key)
                continue
            score["mutants"] += 1
            tests, total = [], 0.0
            for n in sorted(self._tests(mutant, reach), key=seconds.__getitem__):
                total += seconds[n]
                if total > self.seconds and tests:
                    break
                tests.append(n)
            if not tests:
                self._survived(score, mutant, "no test reaches it")
                continue
            while len(running) >= self.workers:
                self._wait(score, running)
            running[self._fork(mutant, items, tests, total)] = mutant, time.monotonic() + 60 + 20 * total
        while running:
            self._wait(score, running)
        killed, all_ = score["killed"], score["mutants"]
        print(f"{name}: so far {killed} of {all_} of {group} killed", flush=True)

    @staticmethod
    def _tests(mutant: Mutant, reach: dict[int, list[int]]) -> Iterable[int]:
        """Return the tests that reach a mutant's statement: the last line with tests at or above its own."""
        first = min(code.co_firstlineno for code, _ in mutant.swaps)
        for line in range(mutant.line, first - 1, -1):
            if line in reach:
                return reach[line] if line > first or line == mutant.line else ()
        return ()

    def _fork(self, mutant: Mutant | None, items: list[pytest.Item], tests: list[int], total: float) -> int:
        """Run tests in a child, with a mutant or as a control; return the child's id."""
        if pid := os.fork():
            return pid
        status = _NOT_RUN
        try:
            os.setsid()
            if mutant is not None:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)
            cpu = 5 + int(3 * total)
            resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if mutant is not None:
                _swap(mutant)
            status = 1
            for n, following in zip(tests, [*tests[1:], None], strict=True):
                self._run(items, n, following)
                if self.failed:
                    print(f"fails: {items[n].nodeid}", flush=True)
                    break
            status = int(self.failed)
        finally:
            os._exit(status)

    def _wait(self, score: Counter, running: dict[int, tuple[Mutant, float]]) -> None:
        """Wait for one child, and count it."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in running:
                break
            for child, (_, deadline) in running.items():
                if time.monotonic() > deadline or _resident(child) > _MEMORY:
                    os.killpg(child, signal.SIGKILL)
            time.sleep(0.01)
        mutant, _ = running.pop(pid)
        if os.waitstatus_to_exitcode(status) == _NOT_RUN:
            pytest.exit(f"this mutant could not be put in place: {mutant}", 2)
        if status:
            score["killed"] += 1
        else:
            self._survived(score, mutant, "no test fails")

    @staticmethod
    def _survived(score: Counter, mutant: Mutant, why: str) -> None:
        score["survived"] += 1
        print(f"survived ({why}): {mutant}", flush=True)


def _resident(pid: int) -> int:
    """Return the bytes of memory that a process uses, 0 for one that has ended."""
    words = Path(f"/proc/{pid}/statm").read_text().split()
    return int(words[1]) * resource.getpagesize()


def _swap(mutant: Mutant) -> None:
    """Put a mutant's code into the functions that have the original's."""
    codes = {(old.co_filename, old.co_qualname, old.co_firstlineno): new for old, new in mutant.swaps}
    found = 0
    for thing in gc.get_objects():
        if isinstance(thing, FunctionType):
            code = thing.__code__
            new = codes.get((code.co_filename, code.co_qualname, code.co_firstlineno))
            if new is not None:
                thing.__code__ = new
                found += 1
    if not found:
        raise LookupError(f"no function to put the mutant into: {mutant}")


# ---- the command


def equivalents(config: dict) -> dict[tuple[str, str, str, str], str]:
    """Return the reason for each listed mutant, by its key."""
    return {
        (entry["module"], entry["function"], entry["before"], after): entry["reason"]
        for entry in config.get("equivalent", [])
        for after in entry["after"]
    }


def main(arguments: list[str] | None = None) -> int:
    """Run from the repository's root; return 0 where every group has its mark."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="such as vmcore.cpu.tlb; default: all of tests/mutants.toml")
    size = os.environ.get("VMCORE_MUTANTS", "100")
    parser.add_argument("--sample", type=int, default=int(size), help="mutants a module (VMCORE_MUTANTS, 100)")
    parser.add_argument("--all", action="store_true", help="all mutants")
    parser.add_argument("--seed", type=int, default=8, help="of the sample")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=10.0, help="of tests a mutant")
    parser.add_argument("--only", default="", help="mutants with this in their function or lines")
    options = parser.parse_args(arguments)
    config = tomllib.loads(CONFIG.read_text())
    groups = {
        group: [name for name in entry["modules"] if not options.modules or name in options.modules]
        for group, entry in config["group"].items()
    }
    groups = {group: names for group, names in groups.items() if names}
    if not groups:
        parser.error(f"{', '.join(options.modules)}: not among the modules of {CONFIG.name}")
    patterns = {pattern for group in groups for pattern in config["group"][group]["tests"]}
    files = sorted({file for pattern in patterns for file in (glob(pattern) if "*" in pattern else [pattern])})
    os.environ["VMCORE_ARCH"] = ",".join(config["machines"])
    sample = None if options.all else options.sample
    runner = Runner(
        groups, equivalents(config), sample, options.seed, options.workers, options.seconds, options.only
    )
    plain = ["-q", "-s", "--no-header", "--hypothesis-profile=ci", "-p", "no:cacheprovider", "-p", "no:xdist"]
    skips = [argument for name in config["slow"] for argument in ("--deselect", name)]
    status = pytest.main([*plain, *skips, *files], [runner])
    if not runner.scores:
        return int(status) or 2
    if options.all and not options.only:
        modules = {name for names in groups.values() for name in names}
        for key in sorted(key for key in runner.known.keys() - runner.met if key[0] in modules):
            print(f"listed as equivalent, and not made any more: {' | '.join(key)}")
    total: Counter = sum(runner.scores.values(), Counter())
    good = True
    for name, score in [*runner.scores.items(), ("all", total)]:
        share = score["killed"] / max(score["mutants"], 1)
        good &= share >= PASS_MARK
        counts = f"{score['killed']:5} of {score['mutants']:5} killed"
        print(f"{name:12} {counts} {share:6.1%}, {score['equivalent']} equivalent ones left out")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
