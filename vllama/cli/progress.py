"""Telling people how a transfer goes: bars on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterable
from typing import Any

from vllama.cli import humane


def show(statuses: Iterable[dict[str, Any]], *, quiet: bool = False) -> None:
    """Follow Ollama's status objects to their end, on stderr."""
    if quiet:
        for _ in statuses:
            pass
    elif sys.stderr.isatty():
        _with_bars(statuses)
    else:
        _with_lines(statuses)


def _with_lines(statuses: Iterable[dict[str, Any]]) -> None:
    """Each status once; of a transfer its start and its end."""
    told: set[str] = set()
    for status in statuses:
        text, total = str(status.get("status", "")), int(status.get("total") or 0)
        is_done = bool(total) and status.get("completed") == total
        line = f"{text}: {humane.size(total)}" + (" done" if is_done else "") if total else text
        if line not in told:
            told.add(line)
            print(line, file=sys.stderr, flush=True)


def _with_bars(statuses: Iterable[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as progress:
        for status in statuses:
            text = str(status.get("status", ""))
            key = str(status.get("digest") or text)
            if not status.get("total"):
                if key not in tasks:
                    tasks[key] = progress.add_task(text, visible=False)
                    progress.console.print(text)
                continue
            if key not in tasks:
                tasks[key] = progress.add_task(text, total=status["total"])
            progress.update(tasks[key], completed=status.get("completed") or 0)
