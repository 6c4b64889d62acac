"""The ledger as one flat table, for spreadsheets and notebooks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vllama.errors import StorageError, UsageError
from vllama.results.record import Record

_WRITERS = {".csv": "csv", ".parquet": "parquet"}


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record; nested values under dotted names, `profile.options.*` among them."""
    return pd.json_normalize([_flat(r) for r in records])


def write(records: Iterable[Record], path: Path) -> int:
    """Write the table as CSV or Parquet, as the ending of `path` says; the number of rows.

    Raises:
        UsageError: another ending, or Parquet without a library for it.
        StorageError: it cannot be written.
    """
    kind = _WRITERS.get(path.suffix)
    if kind is None:
        raise UsageError(f"'{path.suffix}' is no format to export to", "Use .csv or .parquet.")
    return _save(frame(records), path, kind)


def write_document(documents: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write the measurements of tunes and benches as CSV, one row each; the number of rows."""
    rows: list[dict[str, Any]] = []
    for document in documents:
        rows += [
            {"trial": t["number"], "state": t["state"], "options": t.get("options") or {},
             "workload": {"name": name}, "measurement": measurement}
            for t in document.get("trials") or ()
            for name, measurement in (t.get("measurements") or {"": None}).items()
        ]  # fmt: skip
        rows += [
            {k: r.get(k) for k in ("target", "workload", "measurement")}
            for r in document.get("results") or ()
        ]
    return _save(pd.json_normalize(rows), path, "csv")


def _save(table: pd.DataFrame, path: Path, kind: str) -> int:
    try:
        if kind == "csv":
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path, index=False)
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow", "pip install 'vllama[parquet]', or export CSV."
        ) from error
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return len(table)


def _flat(record: Record) -> dict[str, Any]:
    document = record.to_json()
    document["profile"]["digest"] = record.profile.digest
    document["profile"].pop("provenance", None)
    return document
