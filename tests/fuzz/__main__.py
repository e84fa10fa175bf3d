"""``python -m tests.fuzz [READER]...``: fuzz the readers, or show one input again. See README.md beside this."""

import os
import sys
import time
from pathlib import Path

import click

from tests.fuzz import run
from tests.fuzz.readers import READERS, registry

SECONDS = int(os.environ.get("VMCORE_FUZZ_SECONDS", "1200"))
INPUTS = int(os.environ.get("VMCORE_FUZZ_INPUTS", "1000000"))
SEED = int(os.environ.get("VMCORE_FUZZ_SEED", "1"))
PROCESSES = int(os.environ.get("VMCORE_FUZZ_PROCESSES", str(min(os.cpu_count() or 1, 2))))


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(READERS)), metavar="[READER]...")
@click.option("--seconds", default=SECONDS, show_default=True, help="Begin no input after this time.")
@click.option("--inputs", default=INPUTS, show_default=True, help="Inputs over all readers.")
@click.option("--seed", default=SEED, show_default=True, help="The number that inputs are made from.")
@click.option("--processes", default=PROCESSES, show_default=True, help="How many at a time.")
@click.option("--input", "path", type=Path, help="Feed this file to the one READER, and show what happens.")
@click.option("--number", type=int, help="Feed this input of --seed to the one READER.")
def main(names, seconds, inputs, seed, processes, path, number):
    """Fuzz all readers, or some."""
    registry()
    if path is not None or number is not None:
        _again(READERS[names[0]], path.read_bytes() if path is not None else None, seed, number)
        return
    run.niced()
    began = time.monotonic()
    scores = run.run(
        names or list(READERS), seed=seed, inputs=inputs, seconds=seconds, processes=processes,
        tell=lambda fault: run.tell_fault(fault, seed),
    )  # fmt: skip
    for line in run.table(scores):
        print(line)
    print(f"{time.monotonic() - began:.0f} s on {processes} processes, seed {seed}")
    sys.exit(any(score.faults for score in scores.values()))


def _again(reader, data, seed, number):
    data = run.input_of(reader, seed, number) if data is None else data
    print(repr(data[:2000]))
    print("read" if run.one(reader, data) else "refused, as it may be")


main()
