"""A file that is there whole or not at all: written beside its place under another name, made durable, then renamed.

Whatever interrupts the writing leaves nothing behind; what a killed process left is taken over by the next one that writes the same file.
Blocks on the disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType

_TRIES = 10  # to get hold of the file beside, should another process finish with it in the meantime
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK)


class OutputError(RuntimeError):
    """Why the file cannot be written. `str()` is one sentence: what, where, what to do."""


class Output:
    """Context of one writing of `target`: leaving it normally puts the file in its place, leaving it by an exception removes what was
    written. `size`: bytes that will be written (0: unknown); less free space on the disk is refused beforehand. `overwrite`: an existing
    file may be replaced. Not thread-safe. Raises `OutputError`."""

    def __init__(self, target: str | os.PathLike[str], size: int = 0, *, overwrite: bool = False) -> None:
        self.target, self.size, self.overwrite = Path(target), size, overwrite
        self.part = self.target.with_name(f".{self.target.name}.part")
        self.written = 0
        self._file = -1

    def __enter__(self) -> Output:
        try:
            self._prepare()
            self._file = self._hold()
            os.ftruncate(self._file, 0)
        except OSError as error:
            self._close()
            raise self._failure(error) from None
        return self

    def _prepare(self) -> None:
        folder = self.target.parent
        if not folder.is_dir():
            raise OutputError(f"The folder {folder} does not exist; make it first.")
        if self.target.is_dir():
            raise OutputError(f"{self.target} is a folder; name the file to write in it.")
        if not self.overwrite and os.path.lexists(self.target):
            raise OutputError(f"{self.target} is there already; remove it, choose another name, or allow overwriting it (--overwrite).")
        free = shutil.disk_usage(folder).free
        if self.size > free:
            raise OutputError(
                f"{self.target} would take {_mib(self.size)} and its disk has {_mib(free)} free; make room or write elsewhere."
            )

    def _hold(self) -> int:
        """The file beside, locked: ours alone until it is closed."""
        for _ in range(_TRIES):
            file = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), os.stat(self.part, follow_symlinks=False)):
                    return file
            except FileNotFoundError:
                pass  # whoever held it has just put it in its place: make a new one
            except OSError:
                os.close(file)
                raise
            os.close(file)
        raise OutputError(f"{self.target} is being written by other processes; wait for them.")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends `data`. Raises `OutputError` (the disk is full, ...)."""
        view = memoryview(data).cast("B")
        try:
            while view:
                done = os.write(self._file, view)
                self.written += done
                view = view[done:]
        except OSError as error:
            raise self._failure(error) from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._publish()
        except OSError as failed:
            raise self._failure(failed) from None
        finally:
            self._discard()

    def _publish(self) -> None:
        """Puts the file in its place; a crash of the machine afterwards does not lose it."""
        os.fsync(self._file)
        if self.overwrite:
            os.replace(self.part, self.target)
        else:
            self._link()
        folder = os.open(self.target.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _link(self) -> None:
        """Like a rename, but never over a file that came into being meanwhile."""
        try:
            os.link(self.part, self.target)
        except FileExistsError:
            raise OutputError(f"{self.target} came into being while it was written; it was left as it is.") from None
        except OSError as error:  # a file system without hard links: the check beforehand has to do
            if error.errno not in _NO_LINKS or os.path.lexists(self.target):
                raise
            os.replace(self.part, self.target)

    def _discard(self) -> None:
        """Removes the file beside if it is still there and ours."""
        try:
            if self._file >= 0 and os.path.samestat(os.fstat(self._file), os.stat(self.part, follow_symlinks=False)):
                os.unlink(self.part)
        except FileNotFoundError:
            pass  # it was renamed
        finally:
            self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _failure(self, error: OSError) -> OutputError:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            return OutputError(f"{self.target} is being written by another process; wait for it.")
        return OutputError(f"{self.target} cannot be written: {error.strerror or 'unknown reason'}.")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
