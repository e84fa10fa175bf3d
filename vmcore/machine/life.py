"""The life of a kernel: the first failure ends it, and each change is counted.

An interrupt is an exception that vmcore did not raise, Ctrl-C for example. A call that it cuts short has either
changed nothing (`Life.steps` is as before) or ends the kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Concatenate, NoReturn, ParamSpec, Protocol, TypeVar

from vmcore.cpu.tlb import TranslationBuffer
from vmcore.errors import (
    CannotCopy,
    KernelBug,
    KernelDead,
    KernelFailure,
    KernelInterrupted,
    KernelOops,
    VmcoreError,
)
from vmcore.events import FlushAction

#: Exceptions by which a primitive refuses a bad argument before it changes anything.
BAD_ARGUMENT = (TypeError, ValueError, AttributeError)


class ThreadState:
    """The state of one Python thread in a machine.

    Attributes:
        inside: a link symbol or an event listener runs.
        actions: the actions of the flush symbol that runs, or None if none runs.
        running: number of the CPU that the thread runs on.
        began: number of log lines when the thread's last call into the port began.
    """

    __slots__ = ("actions", "began", "inside", "running")

    def __init__(self) -> None:
        self.inside = False
        self.actions: list[FlushAction] | None = None
        self.running = self.began = 0


class ThreadStates(threading.local):
    """The states of all threads in a machine. Each thread sees its own, ``mine``.

    A function that needs several attributes reads ``mine`` once: to read a plain attribute is much faster.
    """

    def __init__(self) -> None:
        self.mine = ThreadState()


class Life:
    """Whether a kernel lives.

    Attributes:
        dead: the first BUG, oops, interrupted call or `close()` that ended the kernel. None while it lives.
        steps: goes up before each change.
        threads: the states of the Python threads.
        tlbs: the TLBs that a failure stops.
    """

    def __init__(self) -> None:
        self.dead: KernelFailure | None = None
        self.steps = 0
        self.threads = ThreadStates()
        self.tlbs: list[TranslationBuffer] = []

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise CannotCopy("a part of a Kernel")

    def refuse_dead(self) -> None:
        """Refuse to change a dead kernel.

        Raises:
            KernelDead: the kernel has ended.
        """
        if self.dead is not None:
            raise KernelDead(self.dead)

    def readable(self) -> None:
        """Refuse to show a state that may be half changed. A kernel dead of a BUG or an oops can be read.

        Raises:
            KernelDead: a call was interrupted, or the kernel was closed.
        """
        if self.dead is not None and not isinstance(self.dead, KernelBug | KernelOops):
            raise KernelDead(self.dead)

    def end(self, cause: KernelFailure) -> None:
        """End the kernel. The first cause is kept, because a dead kernel may be read and oops again.

        A copy of it is kept: the exception itself will have a traceback, whose frames keep the kernel.
        """
        if self.dead is None:
            self.dead = copy(cause)
        for tlb in self.tlbs:
            tlb.stop_stores()

    def halt(self, cause: KernelFailure) -> None:
        """End the kernel and empty the TLBs, which may be half filled, so that its memory is not read either."""
        self.end(cause)
        for tlb in self.tlbs:
            tlb.stop()

    def interrupted(
        self, function: str, error: BaseException, refusals: tuple[type[BaseException], ...] = ()
    ) -> None:
        """End the kernel if an interrupt cuts one of its functions short.

        Args:
            function: the function that was cut short.
            error: the exception.
            refusals: exceptions by which the function refuses a bad argument before it changes anything.
        """
        if not isinstance(error, (VmcoreError, *refusals)):
            self.halt(KernelInterrupted(function))


class _Log(Protocol):
    """The part of the log that `mutating` needs."""

    @property
    def printk_count(self) -> int:
        """The number of lines logged so far."""
        ...

    def refuse_recursion(self) -> None:
        """End the kernel if a plugin calls back into it."""
        ...


class Living(Protocol):
    """An object whose methods `mutating` guards."""

    @property
    def life(self) -> Life:
        """Its life."""
        ...

    @property
    def log(self) -> _Log:
        """Its log."""
        ...


_L = TypeVar("_L", bound=Living)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def mutating(function: Callable[Concatenate[_L, _P], _R]) -> Callable[Concatenate[_L, _P], _R]:
    """Make a method refuse a dead kernel, and end the kernel if an interrupt cuts the method short.

    An interrupt that arrives before the method changed anything passes without a trace.

    Raises:
        KernelDead: the kernel has ended.
        KernelBug: a plugin called back into the port.
    """
    interrupted = KernelInterrupted(function.__name__)  # made here: the handler must not call anything

    @wraps(function)
    def call(self: _L, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        life, log = self.life, self.log
        thread = life.threads.mine
        if life.dead is not None:
            raise KernelDead(life.dead)
        thread.began, steps = log.printk_count, life.steps
        if thread.inside:
            log.refuse_recursion()
        try:
            return function(self, *args, **kwargs)
        except VmcoreError:
            raise
        except BaseException:
            if life.steps != steps and life.dead is None:
                life.dead = interrupted
                life.halt(interrupted)
            raise

    return call
