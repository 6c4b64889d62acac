"""vLLM kept imported, to build its configuration for one command line after another.

`PYTHON vllama_dry_run.py SOCKET`: reads from that Unix socket lines of JSON, each a list of
arguments of `vllm serve`, and answers each with a line: `effective` values, or the `error`
that vLLM would have ended with after a whole start. Nothing is loaded, no device is touched.
"""

import argparse
import dataclasses
import enum
import json
import socket
import sys
from typing import Any

import vllama_serve  # type: ignore[import-not-found] # noqa: F401  # vLLM finds its version

SCALARS = (str, int, float, bool, type(None))


class Refused(Exception):
    """What the parser has to say."""


def main() -> int:
    """Answer until the socket closes."""
    parser = _parser()
    link = socket.socket(socket.AF_UNIX)
    link.connect(sys.argv[1])
    stream = link.makefile("rw")
    print("ready", file=stream, flush=True)
    for line in stream:
        answer: dict[str, Any]
        try:
            answer = {"effective": _effective(_configure(parser, json.loads(line)))}
        except (Exception, SystemExit) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=stream, flush=True)
    return 0


def _parser() -> Any:
    """The parser of `vllm serve`, wherever this version keeps it."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> None:
            raise Refused(message)

    for place in ("launchers", "openai", "common"):
        try:
            module = __import__(f"vllm.entrypoints.{place}.cli_args", fromlist=["make_arg_parser"])
        except ImportError:
            continue
        return module.make_arg_parser(Parser())
    from vllm.engine.arg_utils import AsyncEngineArgs

    return AsyncEngineArgs.add_cli_args(Parser())


def _configure(parser: Any, arguments: list[str]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    parsed: argparse.Namespace = parser.parse_args(arguments)
    if getattr(parsed, "model_tag", None):
        parsed.model = parsed.model_tag
    made = AsyncEngineArgs.from_cli_args(parsed)
    return made.create_engine_config(UsageContext.OPENAI_API_SERVER)


def _effective(config: Any) -> dict[str, Any]:
    """Every plain value of the configuration's parts, by name; the first part wins."""
    values: dict[str, Any] = {}
    for part in dataclasses.fields(config):
        inner = getattr(config, part.name, None)
        if dataclasses.is_dataclass(inner):
            for field in dataclasses.fields(inner):
                value = _plain(getattr(inner, field.name, None))
                if isinstance(value, SCALARS):
                    values.setdefault(field.name, value)
    values["kv_cache_dtype"] = values.get("cache_dtype")
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if type(value).__module__ == "torch":
        return str(value).removeprefix("torch.")
    return value


if __name__ == "__main__":
    sys.exit(main())
