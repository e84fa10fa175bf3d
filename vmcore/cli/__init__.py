"""The command line: a group that lists its commands by name and imports one when it is used.

A command ``x-y`` is ``command``, a `click.Command`, in ``vmcore/cli/x_y.py``, and one line in `COMMANDS`.
A command parses its arguments, calls a job, prints a view of the result or its facts (``--json``), and exits.
Exit status: 0 done; 1 a finding, as the command documents; 2 a mistake in the input, a full disk or no memory;
130 Ctrl-C; 143 SIGTERM; 129 SIGHUP; 141 the reader of the output has gone.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from vmcore.cli.output import accept_any_text, echo
from vmcore.errors import OutputError, VmcoreError, choices
from vmcore.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Name to one-line help. `--help` prints this; importing the commands would cost too much.
COMMANDS = {
    "arches": "List the installed architectures, or describe some.",
    "samples": "List the traces and RAM dumps that ship with vmcore.",
    "replay": "Replay a trace on another machine, up to the first call that fails.",
    "verify": "Predict every address of a trace on the traced kernel's own window.",
    "walk": "Translate addresses by a RAM dump, or list all it maps.",
    "audit": "Check /proc/vmallocinfo against a RAM dump.",
    "demo": "Show the harm of a missing flush or sync, step by step.",
}


class LazyGroup(click.Group):
    """Run the commands of `COMMANDS`.

    Every `VmcoreError`, and every error of the operating system, becomes a message and exit status 2.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments, and print help or the version if they ask for it."""
        accept_any_text()
        with _refusals():
            return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"vmcore.cli.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest one."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"unknown command {args[0]!r}: {choices(args[0], COMMANDS, 'valid')}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the table without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. A mistake of the user becomes a message, not a traceback."""
        with _refusals():
            try:
                return super().invoke(ctx)
            except MemoryError as error:
                advice = _advice(ctx)
                if not advice or isinstance(error, VmcoreError):
                    raise
                _refuse("; ".join(["out of memory", *filter(None, [str(error)]), advice]))
            except VmcoreError as error:
                _report(error)
                ctx.exit(2)


def _advice(ctx: click.Context) -> str:
    """Return the advice of a command for too little memory: ``ADVICE`` of its module, or ""."""
    module = sys.modules.get(f"{__name__}.{ctx.invoked_subcommand}")
    return str(getattr(module, "ADVICE", ""))


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn an OSError into one message, and exit quietly on a closed pipe."""
    try:
        yield
    except click.UsageError as error:  # click prints it
        raise click.UsageError(printable(error.format_message()), error.ctx) from None
    except KeyboardInterrupt:  # where main() is called by another program; see vmcore.system.signals
        with suppress(OSError):
            echo("vmcore: interrupted", err=True)
        raise click.exceptions.Exit(130) from None
    except BrokenPipeError:
        _drop_output()
        raise click.exceptions.Exit(141) from None  # 128 + SIGPIPE, as a shell has it
    except OSError as error:
        _drop_output()
        subject = error.filename or "reading or writing failed"
        _refuse(f"{subject}: {error.strerror or error}")
    except MemoryError as error:
        _refuse(f"out of memory: {str(error) or 'ask for less, a smaller trace or --ram'}")


def _refuse(message: str) -> NoReturn:
    with suppress(OSError):  # stderr may be as full as stdout
        echo(f"vmcore: error: {message}", err=True)
    raise click.exceptions.Exit(2) from None


def _drop_output() -> None:
    """Drop output that cannot be written, so that the interpreter does not try it again when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with suppress(OSError):  # a stream without a file descriptor
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def _report(error: VmcoreError) -> None:
    if isinstance(error, OutputError) and error.problem == OutputError.STDERR:
        return  # the message would change the input, so only the exit status reports the error
    echo(f"vmcore: error: {error}", err=True)
    notes: Sequence[str] = getattr(error, "__notes__", ())
    for note in notes:
        echo(f"vmcore: note: {note}", err=True)


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from vmcore import __version__  # noqa: PLC0415  # slow, and seldom asked for

        echo(f"vmcore {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def main() -> None:
    """Run the Linux kernel's vmalloc, on any architecture, and look inside."""
