"""Traffic: the shape of real requests, kept by the server for the bench without a word of them.

Lengths, times, and which prompts begin alike. What begins alike is known by hashes with a salt
that is never written, so that nobody can ask the file whether a given text was sent.
"""

import contextlib
import hashlib
import itertools
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from vllama.errors import UsageError

FORMAT = 1
# A file that is full is put aside; that many are kept, over all servers that ever observed.
FILE_BYTES = 4 * 2**20
FILES = 8
_HASH_BYTES = 5


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that is over. Times in seconds; `at_s` on the wall clock.

    `prompt_tokens` is 0 where the engine did not come to tell it. `prefix` are hashes of the
    prompt's beginnings, one for each of `ends` within its `letters`.
    """

    at_s: float
    took_s: float
    model: str
    stream: bool
    letters: int
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[str, ...] = ()


class Salt:
    """Makes the hashes of one server; processes that serve together share one."""

    def __init__(self, secret: bytes | None = None) -> None:
        self.secret = secret or secrets.token_bytes(32)

    def prefix(self, prompt: str) -> tuple[str, ...]:
        """A hash of each beginning of `prompt` that ends at one of `ends`."""
        found = []
        state, begin = hashlib.blake2b(key=self.secret, digest_size=_HASH_BYTES), 0
        for end in ends(len(prompt)):
            state.update(prompt[begin:end].encode("utf-8", "surrogatepass"))
            found.append(state.hexdigest())
            begin = end
        return tuple(found)


def ends(letters: int) -> Iterator[int]:
    """Where beginnings are compared: finely at first, for most that is shared is short."""
    steps = itertools.chain(
        range(64, 4096, 64), range(4096, 32768, 512), itertools.count(32768, 4096)
    )
    return itertools.takewhile(lambda end: end <= letters, steps)


class Notebook:
    """Appends to bounded files in `folder`; a disk that is full ends the notes, not the server."""

    def __init__(self, folder: Path, *, file_bytes: int = FILE_BYTES, files: int = FILES) -> None:
        self._folder = folder
        self._file_bytes = file_bytes
        self._files = files
        self._size = 0
        self._path: Path | None = None

    def add(self, seen: Seen) -> None:
        """Keep one."""
        line = json.dumps(asdict(seen), separators=(",", ":")) + "\n"
        with contextlib.suppress(OSError):
            if self._path is None or self._size + len(line) > self._file_bytes:
                self._open()
            assert self._path is not None
            with self._path.open("a") as file:
                file.write(line)
            self._size += len(line)

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"{time.time_ns()}-{os.getpid()}.jsonl"
        self._path = self._folder / name
        head = json.dumps({"format": FORMAT}) + "\n"
        with self._path.open("x") as file:
            file.write(head)
        self._size = len(head)
        for old in sorted(self._folder.glob("*.jsonl"))[: -self._files]:
            old.unlink(missing_ok=True)


def read(folder: Path) -> list[Seen]:
    """All that is kept, in the order of arrival.

    Raises:
        UsageError: nothing is, or it was written by another version.
    """
    found = [seen for path in sorted(folder.glob("*.jsonl")) for seen in _lines(path)]
    if not found:
        raise UsageError(
            f"no traffic was observed in {folder}",
            "Let real requests come to `vllama serve --observe` first.",
        )
    return sorted(found, key=lambda seen: seen.at_s)


def _lines(path: Path) -> Iterable[Seen]:
    with path.open() as file:
        head = json.loads(file.readline() or "{}")
        if head.get("format") != FORMAT:
            raise UsageError(
                f"{path} is of format {head.get('format')!r}, not {FORMAT}", "Remove it."
            )
        for line in file:
            # The last line may have been cut by a kill.
            with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
                yield msgspec.json.decode(line, type=Seen)
