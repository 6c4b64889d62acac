"""Logs as JSON: one object a line, for machines that read them."""

import json as encoder
import logging
import sys
import time

# What a record has by itself; the rest was given by whoever logged, and is told.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """`ts` (RFC 3339), `level`, `logger`, `message`, and what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "ts": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in _USUAL}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return encoder.dumps(line, default=str)


class Lossy(logging.StreamHandler):  # type: ignore[type-arg]
    """A log that cannot be written (a full disk, a closed pipe) is lost, and nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing: there is nowhere to say it."""


def configure(*, json: bool) -> None:
    """Write the logs of this process to stderr; never fail for them."""
    handler = Lossy(sys.stderr)
    handler.setFormatter(JsonLines() if json else logging.Formatter("%(message)s"))
    logging.getLogger().handlers[:] = [handler]
