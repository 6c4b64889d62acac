"""A `llama-server` for the tests: its flags read by hand, its work done by the real wheel."""

import json
import os
import sys
from pathlib import Path

from vllama.engines import llamacpp_options
from vllama.engines.llamacpp_options import OPTIONS, Option
from vllama.profile import Scalar

# As an older build: it has no --spec-type.
LACKS = {"spec_type"}


def main() -> None:
    if sys.argv[1] == "--version":
        print("version: 6543 (c0ffee12)\nbuilt with cc for x86_64-linux-gnu", file=sys.stderr)
    elif sys.argv[1] == "--help":
        for name, option in OPTIONS.items():
            if name not in LACKS:
                print(f"-x,    {form(option):<33}what it does (default: 0)")
        print("-m,    --model FNAME                    model path to load")
    else:
        serve(sys.argv[1:])


def form(option: Option) -> str:
    if not option.is_switch:
        return f"{option.flag} N"
    negated = option.flag.replace("--", "--no-", 1)
    return f"{option.flag}, {negated}" if option.negates else option.flag


def serve(words: list[str]) -> None:
    fields: dict[str, object] = {"endpoint_slots": True}
    options: dict[str, Scalar] = {}
    by_flag = {option.flag: name for name, option in OPTIONS.items()}
    rest = iter(words)
    for word in rest:
        positive = word.replace("--no-", "--", 1)
        if word == "--model":
            fields["model.path"] = next(rest)
        elif word == "--alias":
            fields["model_alias"] = [next(rest)]
        elif word == "--host":
            fields["hostnames"] = [next(rest)]
        elif word == "--port":
            fields["port"] = int(next(rest))
        elif word in ("--metrics", "--slots"):
            fields[f"endpoint_{word[2:]}"] = True
        elif positive in by_flag and OPTIONS[by_flag[positive]].is_switch:
            options[by_flag[positive]] = word == positive
        elif word in by_flag:
            value = next(rest)
            options[by_flag[word]] = int(value) if value.lstrip("-").isdigit() else value
        else:
            sys.exit(f"error: invalid argument: {word}")
    fields |= llamacpp_options.fields(options)
    child = Path(llamacpp_options.__file__).with_name("llamacpp_child.py")
    os.execv(sys.executable, [sys.executable, "-P", str(child), json.dumps(fields)])


if __name__ == "__main__":
    main()
