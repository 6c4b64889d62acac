"""The ledger: every record as one line of a file that only grows."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from vllama.disk import write_whole
from vllama.errors import RecordBroken, StorageError
from vllama.results.record import FORMAT, Record

log = logging.getLogger(__name__)


class Ledger:
    """Records in the file `path`, oldest first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Record) -> None:
        """Add one record and wait until it is on the disk.

        Several writers take turns. A line that a killed writer left torn is closed first, so
        that it spoils no other.

        Raises:
            StorageError: the disk is full or the file cannot be written; it is as it was.
        """
        line = json.dumps(record.to_json(), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            with self._locked() as handle:
                end = os.fstat(handle).st_size
                torn = end > 0 and os.pread(handle, 1, end - 1) != b"\n"
                _write_or_undo(handle, b"\n" + line if torn else line, end)
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}",
                "Free some space or choose another home with VLLAMA_HOME.",
            ) from error

    def read(self) -> Iterator[Record]:
        """Every record that can be read; the others are set aside with a warning each.

        Those are a torn last line, a line that is no record, and one of a newer format.
        No file is an empty ledger.

        Raises:
            StorageError: the file is there and cannot be opened.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror or error}") from error
        with file:
            for number, line in enumerate(file, 1):
                try:
                    yield _parse(line)
                except RecordBroken as broken:
                    log.warning("%s line %d set aside: %s", self.path, number, broken.message)

    def prune(self, keep: Callable[[Record], bool]) -> int:
        """Drop the records that `keep` says no to; how many went.

        Lines that cannot be read stay: another version may. A kill leaves the old file whole.
        """
        removed = 0
        try:
            with self._locked():
                with self.path.open("rb") as file:
                    lines = list(file)
                kept = [line for line in lines if _stays(line, keep)]
                removed = len(lines) - len(kept)
                if removed:
                    write_whole(self.path, b"".join(kept))
        except OSError as error:
            raise StorageError(f"cannot prune {self.path}: {error.strerror or error}") from error
        return removed

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _lock(handle)
                # While we waited, a pruner may have put another file in its place.
                if _is_at(self.path, handle):
                    yield handle
                    return
            finally:
                os.close(handle)


def _lock(handle: int) -> None:
    """Wait for our turn; where the system has no such lock, appends are whole by themselves."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(handle, fcntl.LOCK_EX)


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _stays(line: bytes, keep: Callable[[Record], bool]) -> bool:
    try:
        return keep(_parse(line))
    except RecordBroken:
        return True


def _write_or_undo(handle: int, data: bytes, end: int) -> None:
    """Write at the end of the file, which lies at `end`: all of it or nothing."""
    try:
        written = os.write(handle, data)
        if written < len(data):
            raise OSError(f"only {written} of {len(data)} bytes were written")
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, end)
        raise


def _parse(line: bytes) -> Record:
    try:
        document = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        torn = "" if line.endswith(b"\n") else " (torn: its writer was stopped in the middle)"
        raise RecordBroken(f"not JSON{torn}: {error}") from error
    version = document.get("format") if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise RecordBroken(f"written in format {version} by a newer vllama; upgrade to read it")
    return Record.from_json(document)
