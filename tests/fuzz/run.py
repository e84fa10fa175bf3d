"""Feed readers mutated inputs, in slices of processes that are watched; minimise and keep what is a fault.

Input ``n`` of a reader is a function of the seed, the reader's name and ``n``: it does not depend on time, on the
number of processes, or on the inputs before.
"""

import gc
import hashlib
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

import vmcore
from tests.fuzz.readers import CORPUS, READERS, Reader

_PACKAGE = str(Path(vmcore.__file__).parent)
SECONDS_EACH = 10  #: of its process's time that one input may take
MEMORY = 300 << 20  #: bytes that reading may need beyond what a process has before
_LOOK = 0.1  #: seconds between looks at time and memory while an input is read
_MINIMISING = 5  #: seconds, at most, for one fault
SLICE = 3.0  #: seconds of work of a process
_COLLECT = 20  #: inputs between collections of what nobody holds
_MOST = 2 << 30  #: bytes of memory at which a process is killed
_STUCK = 180  #: seconds after which a process that answers nothing is killed


class Hang(BaseException):
    """An input that takes too long; nothing may swallow it."""


class Fat(BaseException):
    """An input that takes too much memory."""


@frozen
class Fault:
    """One kind of fault, and an input that shows it.

    Attributes:
        reader: name of the reader.
        number: of the input; None: one of the corpus.
        kind: exception and place: inputs with the same one are the same fault.
        text: the traceback's end.
        data: the input.
    """

    reader: str
    number: int | None
    kind: str
    text: str
    data: bytes

    def keep(self):
        """Write the input into the corpus; return its path."""
        path = CORPUS / self.reader / f"fault-{hashlib.sha256(self.data).hexdigest()[:10]}"
        path.write_bytes(self.data)
        return path


@define
class Score:
    """What came of some inputs of a reader."""

    inputs: int = 0
    read: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    memory: int = 0
    faults: list = field(factory=list)
    again: Counter = field(factory=Counter)

    def add(self, other):
        self.inputs += other.inputs
        self.read += other.read
        self.seconds += other.seconds
        self.slowest = max(self.slowest, other.slowest)
        self.memory = max(self.memory, other.memory)
        self.faults += other.faults
        self.again += other.again

    @property
    def rate(self):
        return self.inputs / self.seconds if self.seconds else 0.0


def input_of(reader, seed, number):
    """Return input ``number`` of a reader."""
    rng = random.Random(f"{seed}/{reader.name}/{number}")
    return reader.mutate(rng, rng.choice(reader.seeds))


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def one(reader, data, peak=None):
    """Judge one input within its time and, above a peak of memory, its bytes; return whether it was read."""
    peak, end = _peak() if peak is None else peak, time.process_time() + SECONDS_EACH

    def look(*_):
        if time.process_time() > end:
            raise Hang(f"more than {SECONDS_EACH} s")
        if _peak() - peak > MEMORY:
            raise Fat(f"more than {MEMORY >> 20} MiB")

    handler = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _LOOK, _LOOK)
    try:
        outcome = reader.judge(data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    look()
    return outcome


def kind_of(error):
    """Return which fault an exception is: its type, and the line of vmcore (else of the reader's test) it left."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if f.filename.startswith(_PACKAGE)]
    if isinstance(error, (Hang, Fat)):
        inside = inside[:1]
    frame = (inside or frames)[-1]
    where = f"{Path(frame.filename).name}:{frame.name}:{frame.line}"
    words = str(error).split("(")[0][:40] if isinstance(error, AssertionError) else ""
    return f"{type(error).__name__} {words}at {where}"


def minimise(reader, data, kind, seconds=_MINIMISING):
    """Return a smaller input with the same fault: lines, then stretches of bytes are left out while it stays."""
    until = time.monotonic() + seconds

    def same(smaller):
        try:
            one(reader, smaller)
        except (Exception, Hang, Fat) as error:
            return kind_of(error) == kind
        return False

    def shrink(parts):
        step = len(parts) // 2
        while step and time.monotonic() < until:
            at = 0
            while at < len(parts) and time.monotonic() < until:
                fewer = parts[:at] + parts[at + step :]
                if same(b"".join(fewer)):
                    parts = fewer
                else:
                    at += step
            step //= 2
        return parts

    data = b"".join(shrink(data.splitlines(keepends=True)))
    return b"".join(shrink([data[n : n + 1] for n in range(len(data))]))


def _slice(reader, seed, first, count, known, place, answer):
    """Judge inputs until a slice's time is over or a fault has spoilt the process; answer with a `Score`."""
    score, began = Score(), time.process_time()
    gc.freeze()
    peak, minimising = _peak(), 0.0
    for number in range(first, first + count):
        place.value = number
        data = input_of(reader, seed, number)
        start = time.process_time()
        try:
            score.read += one(reader, data, peak)
        except (Exception, Hang, Fat) as error:
            kind = kind_of(error)
            score.again[kind] += 1
            if kind not in known:
                known.add(kind)
                told = "".join(traceback.format_exception(error)[-4:])
                small = data if isinstance(error, Fat) else minimise(reader, data, kind)
                score.faults.append(Fault(reader.name, number, kind, told, small))
                minimising += time.process_time() - start
        else:
            score.slowest = max(score.slowest, time.process_time() - start)
        score.inputs += 1
        now = time.process_time()
        if now - began > SLICE or _peak() - peak > MEMORY:
            break
        if not number % _COLLECT:
            gc.collect()  # machines in cycles hold their RAM
    score.seconds, score.memory = time.process_time() - began - minimising, _peak() - peak
    answer.send(score)


def _resident(pid):
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # it has just ended
        return 0


@define
class _Worker:
    """A process that judges one slice."""

    reader: Reader
    process: multiprocessing.process.BaseProcess
    answer: Connection
    place: Any  # a shared integer, which has no public type
    seen: int = -1
    since: float = field(factory=time.monotonic)

    def result(self, seed):
        """Return its `Score`; None: it still works. A process that hangs or dies is a fault of its input."""
        if self.answer.poll():
            score = self.answer.recv()
            self.process.join()
            return score
        if self.place.value != self.seen:
            self.seen, self.since = self.place.value, time.monotonic()
        how = ""
        if not self.process.is_alive():
            how = "" if self.answer.poll() else "the process died"
        elif _resident(self.process.pid) > _MOST:
            how = f"more than {_MOST >> 20} MiB at once"
        elif time.monotonic() - self.since > _STUCK:
            how = f"no answer within {_STUCK} s"
        if not how:
            return None
        self.process.kill()
        self.process.join()
        number = max(self.seen, 0)
        data = input_of(self.reader, seed, number)
        return Score(inputs=1, seconds=SLICE, faults=[Fault(self.reader.name, number, how, "", data)])


def shares(rates, inputs, most):
    """Share a number of inputs: equal time for each reader, but none gets more than ``most`` of them."""
    low, high = 0.0, inputs / max(min(rates.values()), 1e-3)
    for _ in range(60):
        middle = (low + high) / 2
        total = sum(min(rate * middle, most) for rate in rates.values())
        low, high = (middle, high) if total < inputs else (low, middle)
    return {name: int(min(rate * high, most)) + 1 for name, rate in rates.items()}


def run(names, *, seed, inputs, seconds, processes, tell):
    """Fuzz readers; return their scores.

    Args:
        names: of the readers.
        seed: number that the inputs are made from.
        inputs: how many, over all readers.
        seconds: after which no more are begun.
        processes: how many at a time.
        tell: is called with each new `Fault`.
    """
    context = multiprocessing.get_context("fork")
    scores = {name: Score() for name in names}
    following = dict.fromkeys(names, 0)
    known: dict[str, set] = {name: set() for name in names}
    quota = dict.fromkeys(names, 0)
    working: list[_Worker] = []
    end = time.monotonic() + seconds
    while True:
        if all(score.inputs for score in scores.values()):
            quota = shares({n: s.rate for n, s in scores.items()}, inputs, max(inputs // 8, inputs // len(names)))
        busy = {worker.reader.name for worker in working}
        open_ = [n for n in names if n not in busy and (not scores[n].inputs or following[n] < quota[n])]
        while open_ and len(working) < processes and time.monotonic() < end:
            name = min(open_, key=lambda n: following[n] / max(quota[n], 1))
            open_.remove(name)
            working.append(_begin(context, READERS[name], seed, following[name], quota[name], known[name]))
        if not working:
            return scores
        time.sleep(0.01)
        for worker in working[:]:
            score = worker.result(seed)
            if score is None:
                continue
            working.remove(worker)
            name = worker.reader.name
            following[name] = max(worker.place.value + 1, following[name] + 1)
            scores[name].add(score)
            known[name] |= {fault.kind for fault in score.faults}
            for fault in score.faults:
                tell(fault)


def _begin(context, reader, seed, first, quota, known):
    mine, other = context.Pipe(duplex=False)
    place = context.Value("q", first, lock=False)
    count = max(quota - first, 1) if quota else 1 << 40
    process = context.Process(target=_slice, args=(reader, seed, first, count, set(known), place, other))
    process.start()
    other.close()
    return _Worker(reader, process, mine, place)


def niced():
    """Give way to whatever else the machine does."""
    os.nice(10)


def table(scores):
    """Yield lines on what came of each reader."""
    yield f"{'reader':<16} {'inputs':>9} {'per s':>8} {'read':>6} {'slowest':>9} {'memory':>8}  faults"
    for name, s in scores.items():
        share = 100 * s.read / max(s.inputs, 1)
        faults = f"{len(s.faults)} kinds, {sum(s.again.values())} inputs" if s.faults or s.again else "none"
        numbers = f"{s.inputs:>9,} {s.rate:>8,.0f} {share:>5.0f}% {s.slowest:>7.2f} s {s.memory >> 20:>4} MiB"
        yield f"{name:<16} {numbers}  {faults}"
    total = sum(s.inputs for s in scores.values())
    yield f"{total:,} inputs, {sum(s.seconds for s in scores.values()):,.0f} s of work"


def tell_fault(fault, seed, stream=sys.stdout):
    """Keep a fault's input, and say how to see it again."""
    path = fault.keep()
    again = f"python -m tests.fuzz {fault.reader} --input {os.path.relpath(path)}"
    whole = f"python -m tests.fuzz {fault.reader} --seed {seed} --number {fault.number}"
    print(f"FAULT of {fault.reader}: {fault.kind}\n{fault.text}  minimised, {len(fault.data)} bytes: {again}\n"
          f"  as it was: {whole}", file=stream, flush=True)  # fmt: skip
