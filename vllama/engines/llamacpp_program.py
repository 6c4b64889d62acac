"""The program `llama-server`: what its help says it takes, and a command line that it takes.

Its flags changed over the years, so each build is asked: `--flash-attn` had no value before
it took on, off and auto; some switches had only a `--no-` form; some flags were renamed.
"""

import functools
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllama.engines import llamacpp_options
from vllama.engines.llamacpp_options import OPTIONS, Option
from vllama.errors import EngineMissing
from vllama.profile import Scalar

HOST = "127.0.0.1"
ASK_S = 60.0
# Variables that would set flags behind the profile's back, or ask for a key that we have not.
FOREIGN = ("LLAMA_ARG_", "LLAMA_API_KEY", "LLAMA_LOG_")
# In the help's table what a flag does begins in this column.
_COLUMN = 40
_FLAG = re.compile(r"(-[-\w.]+)(,\s*)?")


@dataclass(frozen=True, slots=True)
class Help:
    """The flags that a build has, by whether a value follows; removed ones are left out."""

    valued: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()

    def __contains__(self, flag: str) -> bool:
        return flag in self.valued or flag in self.bare


@dataclass(frozen=True, slots=True)
class Program:
    """The program `llama-server`."""

    path: Path

    def version(self) -> str:
        """Such as `llama-server 6543`."""
        said = _said(str(self.path), "--version")
        # A build of a shallow clone calls itself build 1.
        found = re.search(r"\(build (\d{3,})", said) or re.search(r"version:\s*(\S+)", said)
        return f"llama-server {found[1] if found else 'unknown'}"

    def accepts(self) -> frozenset[str]:
        """Those for which it has a flag in some spelling."""
        known = self.help()
        return frozenset(name for name, option in OPTIONS.items() if _spelling(option, known))

    def command(
        self, model: Path, alias: str, port: int, options: Mapping[str, Scalar]
    ) -> list[str]:
        """Its command line."""
        known = self.help()
        given = [
            str(self.path), "--model", str(model), "--alias", alias,
            "--host", HOST, "--port", str(port), "--metrics", "--slots",
        ]  # fmt: skip
        if "--cors-origins" in known:
            # By default any web page may read what the server answers.
            given += ["--cors-origins", ""]
        if "--no-jinja" not in known and "--jinja" in known and "jinja" not in options:
            # Where it is not the default, there are no tools without it.
            given.append("--jinja")
        return [*given, *_words(options, known)]

    def help(self) -> Help:
        """The flags that it has.

        Raises:
            EngineMissing: it cannot be run.
        """
        text = _said(str(self.path), "--help")
        if "--model" not in text:
            raise EngineMissing(
                f"{self.path} does not run as a llama-server: {' '.join(text.split())[-300:]}",
                "Install a build for this system, or name another one in VLLAMA_LLAMA_SERVER.",
            )
        return read_help(text)


@functools.lru_cache(maxsize=16)
def read_help(text: str) -> Help:
    """The flags that a help lists."""
    valued: set[str] = set()
    bare: set[str] = set()
    for entry in re.split(r"\n(?=-)", text):
        if not entry.startswith("-") or "argument has been removed" in entry:
            continue
        flags, at = [], 0
        while found := _FLAG.match(entry, at):
            flags.append(found[1])
            at = found.end()
            if not found[2]:
                break
        rest = entry[at : at + 2]
        takes_value = rest[:1] == " " and bool(rest[1:].strip()) and at + 1 != _COLUMN
        (valued if takes_value else bare).update(flags)
    return Help(frozenset(valued), frozenset(bare))


def _spelling(option: Option, known: Help) -> str:
    """The flag by which this build knows an option; empty if it does not."""
    names = [option.flag, *option.older]
    if option.is_switch:
        names += [_negated(option)]
    return next((name for name in names if name in known), "")


def _words(options: Mapping[str, Scalar], known: Help) -> Iterator[str]:
    ranks = options.get("pooling") == "rank" and "--rerank" in known
    if ranks:
        # Older builds rank only with this flag, and not with --embeddings beside it.
        yield "--rerank"
    for name, value in options.items():
        option = OPTIONS[name]
        flag = _spelling(option, known)
        if name == "embeddings" and ranks:
            continue
        if option.is_switch:
            wanted = option.flag if llamacpp_options.is_true(value) else _negated(option)
            # A form that is not there is what it does anyway.
            if wanted in known:
                yield wanted
        elif flag in known.valued:
            yield from (flag, str(value))
        elif llamacpp_options.is_true(value) and str(value).lower() != "auto":
            # For auto, an older build does without the flag what it can.
            yield flag


def _negated(option: Option) -> str:
    return option.flag.replace("--", "--no-", 1)


@functools.cache
def _said(program: str, flag: str) -> str:
    """What the program prints, or why it cannot be run."""
    try:
        done = subprocess.run(
            [program, flag], capture_output=True, text=True, timeout=ASK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr
