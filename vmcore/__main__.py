"""Run the command line as a process: the script ``vmcore``, or ``python -m vmcore``."""

from vmcore.system.signals import end_on_signals


def run() -> None:
    """Run the command line. Signals end it from the first import on."""
    end_on_signals()
    from vmcore.cli import main  # noqa: PLC0415  # takes most of the time of a short command

    main(prog_name="vmcore")


if __name__ == "__main__":
    run()
