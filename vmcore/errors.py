"""Errors that a user's input can cause; each message says what was found, expected and to be done."""


class VmcoreError(Exception):
    """Report a mistake that the user can correct; the command prints it without a traceback."""


class TraceError(VmcoreError, ValueError):
    """Report damaged or unsuitable input text.

    Attributes:
        file: Name of the input as shown to the user.
        line: 1-based line in the decompressed text, or None when the file as a whole is meant.
        problem: What was found, what is expected, what to do.
    """

    def __init__(self, file: str, line: int | None, problem: str) -> None:
        super().__init__(file, line, problem)
        self.file = file
        self.line = line
        self.problem = problem

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.problem}"
