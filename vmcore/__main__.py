"""``python -m vmcore``: the command line."""

from vmcore.cli import main

main(prog_name="vmcore")
