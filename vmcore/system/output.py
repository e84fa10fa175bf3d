"""The only module that writes files. A file is written whole or not at all, and never over an input of its job.

A file is written beside its target and then renamed, so that the target is the old file or the whole new one at
any moment. Until then it has no name where the file system allows that (O_TMPFILE), so that not even SIGKILL
leaves a trace. On other file systems it is called ``.vmcore-XXXXXXXX.part``.

The new file takes over mode, owner and extended attributes of the file it replaces. A symbolic link is followed
and stays. Other names of the same file (hard links) keep the old contents. A read-only file is not replaced. A
pipe or a device cannot be replaced, so it is written to directly.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import BinaryIO, NoReturn, TypeAlias
from weakref import WeakKeyDictionary

from vmcore.errors import OutputError
from vmcore.system.signals import undone_on_signal

Input: TypeAlias = str | os.PathLike[str] | int  #: a path, or a descriptor
_Identity: TypeAlias = tuple[int, int]  # device and inode, which all names of a file share

_STDOUT, _STDERR = 1, 2
_ROOM = "a file in a directory with room"
_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFBLK: "a block device", stat.S_IFSOCK: "a socket"}
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
_mapped: WeakKeyDictionary[object, _Identity] = WeakKeyDictionary()


def protect(file: int, owner: object) -> None:
    """Refuse to replace a file while *owner* needs it: as long as *owner* exists and is not ``closed``.

    Args:
        file: descriptor of the file.
        owner: a mapping of it, or of the file that was unpacked from it.
    """
    _mapped[owner] = _identity(os.fstat(file))


def refuse_redirected(inputs: Iterable[Input]) -> None:
    """Refuse inputs to which stdout or stderr is redirected, because they would grow while they are read.

    Raises:
        OutputError: an input is such a file. The error has its name.
    """
    for given in inputs:
        found = _stat(given)
        for stream, problem in ((_STDOUT, "stdout is redirected to this input"), (_STDERR, OutputError.STDERR)):
            if found is not None and stat.S_ISREG(found.st_mode) and _is_stream(found, stream):
                raise OutputError(_shown(given), problem, "another file")


class Output:
    """A file that is to be written.

    Attributes:
        path: as it was given.
    """

    def __init__(
        self, path: str | os.PathLike[str], inputs: Iterable[Input] = (), *, stdout_is_free: bool = True
    ) -> None:
        """Check that the file can be written, before any work is done for it.

        Args:
            path: the path of a file, which may exist, or of a pipe or a character device.
            inputs: the files that the job reads; those that do not exist are ignored.
            stdout_is_free: nothing else is written to stdout, so that the file may be ``/dev/stdout``.

        Raises:
            OutputError: the file is an input too, or cannot be written.
        """
        self.path = os.fspath(path)
        self._inputs = tuple(inputs)
        self._stdout_is_free = stdout_is_free
        self._check()

    @contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """Write the file. It is complete when the block ends, and unchanged if the block raises.

        Yields:
            A binary file. It is seekable, and a skipped part is a hole. A pipe or a device is not seekable.

        Raises:
            OutputError: see `Output`. It is also raised for errors while writing, for example a full disk.
            BrokenPipeError: the pipe has no reader any more.
        """
        old = self._check()
        try:
            with _stream(self.path, old) if _is_written_to(old) else _replacing(self.path, old) as file:
                if file.isatty():
                    raise OutputError(self.path, "is a terminal", "a file or a pipe: this is no text")
                yield file
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._unwritable(error) from error

    def _check(self) -> os.stat_result | None:
        """Return the status of the existing file, or None if there is none.

        Raises:
            OutputError: the file must not be written to.
        """
        try:
            found = _what_is_there(self.path)
            if found is not None:
                self._check_kind(found)
                self._check_inputs(found)
            if not _is_written_to(found):
                self._check_folder()
        except (OSError, ValueError) as error:  # a zero byte in the name is a ValueError
            raise self._unwritable(error) from error
        return found

    def _check_kind(self, found: os.stat_result) -> None:
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is not None:
            raise OutputError(self.path, f"is {kind}", "a new name, or a file to replace")
        if not os.access(self.path, os.W_OK, effective_ids=True):
            mode = f"cannot be written to: its mode is {stat.S_IMODE(found.st_mode):04o}"
            raise OutputError(self.path, mode, "another file, or chmod u+w")
        busy = {_STDERR: "stderr"} if self._stdout_is_free else {_STDOUT: "stdout", _STDERR: "stderr"}
        for stream, name in busy.items():
            if not stat.S_ISCHR(found.st_mode) and _is_stream(found, stream):
                raise OutputError(self.path, f"is {name}, which text is written to", "another file")

    def _check_inputs(self, found: os.stat_result) -> None:
        if stat.S_ISCHR(found.st_mode):  # a terminal or /dev/null may well be both
            return
        for given in self._inputs:
            other = _stat(given)
            if other is not None and _identity(other) == _identity(found):
                also = "" if given == self.path else f", as {_shown(given)}"
                raise OutputError(self.path, f"is an input of this job too{also}", "another file to write to")
        mapped = {identity for owner, identity in _mapped.items() if not getattr(owner, "closed", False)}
        if _identity(found) in mapped:
            raise OutputError(self.path, "is open as a dump in this program", "another file, or the dump closed")

    def _check_folder(self) -> None:
        """Refuse a directory in which no file can be created, because the new file is written there first."""
        if not os.path.basename(self.path):
            _raise(errno.ENOENT)
        folder = os.path.dirname(os.path.realpath(self.path))
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            _raise(errno.ENOTDIR)
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            problem = f"no file can be made in {folder}, and this one is made there whole before it is renamed"
            raise OutputError(self.path, problem, "a file in another directory")

    def _unwritable(self, error: OSError | ValueError) -> OutputError:
        reason = getattr(error, "strerror", None) or str(error)
        return OutputError(self.path, f"cannot be written: {reason}", _ROOM)


def _raise(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


def _shown(given: Input) -> str:
    return "stdin" if given == 0 else str(given)


def _stat(given: Input) -> os.stat_result | None:
    """Return the status of a file, or None if that fails. The reader of the file reports the error."""
    try:
        return os.stat(given)
    except (OSError, ValueError):
        return None


def _what_is_there(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _is_stream(found: os.stat_result, stream: int) -> bool:
    own = _stat(stream)
    return own is not None and _identity(own) == _identity(found)


def _is_written_to(found: os.stat_result | None) -> bool:
    """Return whether a file is written to directly because it cannot be replaced: a pipe, a device, our stdout."""
    return found is not None and (not stat.S_ISREG(found.st_mode) or _is_stream(found, _STDOUT))


class _Stream(io.FileIO):
    """A file without seek: its bytes may be read already, or it is open for appending."""

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> NoReturn:
        raise io.UnsupportedOperation("seek")

    def tell(self) -> NoReturn:
        raise io.UnsupportedOperation("tell")


@contextmanager
def _stream(path: str, found: os.stat_result | None) -> Iterator[BinaryIO]:
    own = found is not None and _is_stream(found, _STDOUT)
    if own:
        sys.stdout.flush()
    with io.BufferedWriter(_Stream(_STDOUT if own else path, "wb", closefd=not own)) as file:
        yield file


@contextmanager
def _replacing(path: str, old: os.stat_result | None) -> Iterator[BinaryIO]:
    target = os.path.realpath(path)
    part = os.path.join(os.path.dirname(target), f".vmcore-{os.urandom(4).hex()}.part")
    with undone_on_signal(partial(_remove, part)):
        try:
            descriptor, place = _create(part, 0o666 if old is None else 0o600)
            with open(descriptor, "wb") as file:
                if old is not None:
                    _inherit(target, old, place)
                yield file
                file.flush()
                os.fsync(descriptor)
                if place != part:  # with a directory's descriptor, os.link() follows the link in /proc
                    os.link(place, part, src_dir_fd=descriptor, follow_symlinks=True)
            os.replace(part, target)
        except BaseException:
            _remove(part)
            raise


def _create(part: str, mode: int) -> tuple[int, str]:
    """Create a file, without a name if possible. Return its descriptor and a path that leads to it."""
    try:
        descriptor = os.open(os.path.dirname(part), os.O_TMPFILE | os.O_RDWR, mode)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    else:
        place = f"/proc/self/fd/{descriptor}"
        if os.path.exists(place):
            return descriptor, place
        os.close(descriptor)
    return os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode), part


def _inherit(target: str, old: os.stat_result, place: str) -> None:
    """Give the new file owner, mode and extended attributes of the old one."""
    from shutil import copystat  # noqa: PLC0415  # imports every compression there is

    kept = True
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.stat(place).st_gid):
        try:
            os.chown(place, old.st_uid, old.st_gid)
        except PermissionError:
            kept = False
    copystat(target, place)
    os.utime(place)
    if not kept:  # the rights of its group must not fall to another group
        os.chmod(place, stat.S_IMODE(old.st_mode) & ~(stat.S_ISUID | stat.S_ISGID | stat.S_IRWXG))


def _remove(part: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(part)
