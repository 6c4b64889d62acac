"""Storages: where studies are kept, a file of this machine or what several hosts share."""

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import optuna
import sqlalchemy
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from vllama.errors import UsageError

MEMORY = ":memory:"
JOURNAL = "journal://"
# By the beginning of a URL: the driver, and the module that must be there for it.
_DRIVERS = {"postgresql://": ("postgresql+psycopg://", "psycopg")}
_FORMS = "postgresql://USER@HOST/DB, sqlite:///FILE or journal:///FILE"

Storage: TypeAlias = RDBStorage | JournalStorage


def is_shared(storage: str) -> bool:
    """Whether several tuners may work on it at once."""
    return "://" in storage


@contextmanager
def held(storage: str) -> Iterator[Storage | None]:
    """What Optuna keeps studies in; a plain path is this process's alone meanwhile.

    Raises:
        UsageError: another tuner is at work on the file; no such storage; no driver for it.
    """
    if storage == MEMORY:
        yield None
    elif is_shared(storage):
        yield shared(storage)
    else:
        with _alone(Path(storage)) as path:
            yield _file(path)


def shared(url: str) -> Storage:
    """A storage for several processes, on one host or many.

    Raises:
        UsageError: it cannot be reached, or its driver is not installed.
    """
    if url.startswith(JOURNAL):
        path = Path(url.removeprefix(JOURNAL))
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    scheme = url.partition("://")[0] + "://"
    driver, module = _DRIVERS.get(scheme, (scheme, ""))
    address = url.replace(scheme, driver, 1)
    for last in (False, False, True):
        try:
            if scheme == "sqlite://":
                return _file(url.removeprefix("sqlite:///"))
            return RDBStorage(address, engine_kwargs={"pool_pre_ping": True})
        except ImportError as error:
            raise UsageError(
                f"--storage {scheme}... needs {module or 'a driver'}, which is not installed",
                "Install it: pip install 'vllama[storage]'.",
            ) from error
        except Exception as error:
            # Whatever a driver raises; the address may hold a password, so it is not repeated.
            if last:
                raise UsageError(
                    f"the storage {scheme}... cannot be used: {type(error).__name__}",
                    f"It is one of: {_FORMS}; is the server up, and the database there?",
                ) from None
            # Perhaps another worker makes the tables at this very moment.
            time.sleep(random.uniform(0.2, 0.6))
    raise AssertionError


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _hold(lock)
        yield path
    except BlockingIOError as error:
        raise UsageError(
            f"another vllama is tuning this at the moment ({path.stem})",
            "Wait for it, or stop it: what it has finished is kept. "
            "Several may work on one study that is kept with --storage.",
        ) from error
    finally:
        os.close(lock)


def _file(path: Path | str) -> RDBStorage:
    """A write-ahead log: what was told survives a kill, without waiting for the disk each time.

    SQLite locks no rows, so each transaction is the only one: else two workers could read that
    a trial waits, and both take it.
    """

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, timeout=60, check_same_thread=False, isolation_level=None
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"creator": connect})
    sqlalchemy.event.listen(storage.engine, "begin", begin)
    return storage


def _hold(lock: int) -> None:
    """Lock it until it is closed, also by a kill; where locks are unknown, trust the user."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def forget(storage: str, name: str = "") -> None:
    """Delete the study: the file, or the one called `name` where several are shared."""
    if is_shared(storage):
        names = optuna.get_all_study_names(shared(storage))
        if name in names:
            optuna.delete_study(study_name=name, storage=shared(storage))
        return
    for path in (Path(storage), Path(f"{storage}-shm"), Path(f"{storage}-wal")):
        path.unlink(missing_ok=True)
