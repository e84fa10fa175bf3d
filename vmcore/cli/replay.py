"""``vmcore replay``: replay the areas of a traced kernel on another machine."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any

import click
from rich.progress import Progress

from vmcore import samples
from vmcore.cli.console import Console, write_json
from vmcore.cli.inputs import open_input
from vmcore.cli.options import files, machine_options
from vmcore.errors import ConfigurationError
from vmcore.kernel import Kernel
from vmcore.replay.run import replay
from vmcore.system.output import Output
from vmcore.system.signals import undone_on_signal
from vmcore.texts.trace import read_trace
from vmcore.texts.vmallocinfo import read_vmallocinfo
from vmcore.units import parse_size
from vmcore.views import replay as view

if TYPE_CHECKING:
    from vmcore.linking.selection import Selection

_PATIENCE = 1.0  # seconds without a progress bar


class _Bar:
    """A progress bar on stderr, on a terminal, once the job has taken longer than a moment."""

    def __init__(self) -> None:
        self._console, self._since = Console(stderr=True), monotonic()
        self._progress: Progress | None = None
        self._stack = ExitStack()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def __call__(self, done: int, total: int) -> None:
        """Show how far the job is."""
        if self._progress is None:
            if not self._console.is_terminal or monotonic() - self._since < _PATIENCE:
                return
            self._progress = Progress(console=self._console, transient=True)
            self._progress.add_task("replaying", total=total)
            self._stack.enter_context(undone_on_signal(_clear))
            self._stack.enter_context(self._progress)
        self._progress.update(self._progress.task_ids[0], completed=done)


def _clear() -> None:
    """Clear the bar's line and show the cursor, which the bar hides."""
    os.write(sys.stderr.fileno(), b"\r\x1b[K\x1b[?25h")


@click.command(epilog="What the figures mean: docs/replay.md; the keys of --json: docs/json.md.")
@files("file", "vmallocinfo", output="save_ram")
@click.argument("file")
@click.option("--vmallocinfo", metavar="FILE", help="/proc/vmallocinfo after the trace: what is not vmalloc's.")
@click.option("--source-page", metavar="SIZE", help="Page size of the traced kernel; else found from the trace.")
@click.option("--stop", is_flag=True, help="End at the first allocation that fails.")
@click.option(
    "--save-ram", metavar="FILE.elf", help="Write the simulated RAM after the replay as a sparse ELF core."
)
@click.option("--check", is_flag=True, help="Touch what is allocated, and look for missing flushes.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@machine_options()
def command(
    file: str,
    vmallocinfo: str | None,
    source_page: str | None,
    stop: bool,
    save_ram: Output | None,
    check: bool,
    as_json: bool,
    selection: Selection,
) -> None:
    """Replay a trace on another machine, up to the first call that fails.

    FILE has vmalloc events, the text of tracefs' trace or of trace-cmd report, plain, gzip or xz; - is stdin
    and sample:NAME one of `vmcore samples`, whose vmallocinfo is --vmallocinfo sample:NAME.

    Exit status: 0 all fits, 1 an allocation failed or --check found something, 2 bad input.
    """
    if file == vmallocinfo == "-":
        raise ConfigurationError("--vmallocinfo: found - for both files, expected stdin for one of them at most")
    page = None if source_page is None else parse_size(source_page, "--source-page")
    ram: Any = selection.ram  # Kernel takes banks too
    kernel = Kernel(
        selection.arch,
        ram=ram,
        vmalloc=selection.vmalloc,
        platform=selection.platform,
        cpus=selection.cpus,
        nodes=selection.nodes,
        block=selection.block,
        check_coherence=check,
    )
    with open_input(file, samples.open_sample) as source:
        trace = read_trace(source, None if file == "-" else file, source_page=page)
    entries = None
    if vmallocinfo is not None:
        with open_input(vmallocinfo, samples.open_vmallocinfo) as source:
            entries = read_vmallocinfo(source, None if vmallocinfo == "-" else vmallocinfo)
    with _Bar() as bar:
        result = replay(
            trace, kernel, stop=stop, vmallocinfo=entries, request=selection.request(kernel.arch), progress=bar
        )
    if save_ram is not None:
        kernel.save(save_ram)
    if as_json:
        write_json(result.facts())
    else:
        console = Console(highlight=False)
        ascii_only = console.options.ascii_only
        console.say(view.lines(result, trace.notes(), width=console.width, ascii_only=ascii_only))
    click.get_current_context().exit(
        1 if result.failures or (result.coherence and result.coherence.reports) else 0
    )
