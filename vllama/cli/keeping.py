"""Where measurements are kept: in the home's ledger, and in a repository's where asked."""

import argparse
import re
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllama.results.record import Record


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where else measurements go."""
    parser.add_argument(
        "--record", type=Path, metavar="DIR",
        help="keep each measurement in DIR/<machine>/<model>.jsonl too, such as results/",
    )  # fmt: skip


class Keeper:
    """Appends records to every ledger there is for them, with the commit they belong to."""

    def __init__(self, home: Path, repository: Path | None) -> None:
        self._home = home
        self._repository = repository
        self._commit = commit()

    def keep(self, records: Iterable["Record"]) -> None:
        """Add the records.

        Raises:
            StorageError: a ledger cannot be written.
        """
        from vllama.results.ledger import Ledger

        for record in records:
            whole = replace(record, git_commit=self._commit)
            Ledger(self._home / "ledger.jsonl").append(whole)
            if self._repository is not None:
                Ledger(self._repository / record.machine / _file(record.profile.model)).append(
                    whole
                )


def commit() -> str | None:
    """The commit of the project being measured, where this is run inside one."""
    try:
        told = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, cwd=Path.cwd()
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None


def _file(model: str) -> str:
    """A file's name for a model: of a path, its last part."""
    plain = Path(model).name if Path(model).is_absolute() else model
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.") + ".jsonl"
