"""A llama.cpp server in a process of its own, on the wheel `xllamacpp`.

A program: `python llamacpp_child.py JSON`, where the JSON names fields of the wheel's
`CommonParams` by path (`cpuparams.n_threads`) with their values; it runs until SIGTERM.
`python llamacpp_child.py --fields` prints which of the paths on its input exist.
"""

import json
import signal
import sys
import threading
from typing import Any


def main() -> int:
    """Serve until told to stop."""
    import xllamacpp

    if sys.argv[1] == "--fields":
        params = xllamacpp.CommonParams()
        print(json.dumps([path for path in json.load(sys.stdin) if _exists(params, path)]))
        return 0
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    params = xllamacpp.CommonParams()
    for path, value in json.loads(sys.argv[1]).items():
        _put(params, path, value)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        # The cause is what llama.cpp has already printed.
        print(error, flush=True)
        return 1
    print(f"listening on {server.listening_address}", flush=True)
    while not stop.wait(0.2):
        pass
    del server
    return 0


def _exists(params: Any, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(params, name):
            return False
        params = getattr(params, name)
    return True


def _put(params: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        params = getattr(params, name)
    if last == "lora_adapters":
        params.lora_adapters = [_adapter(value)]
    else:
        setattr(params, last, _like(getattr(params, last), value))


def _adapter(path: str) -> Any:
    import xllamacpp

    info = xllamacpp.CommonAdapterLoraInfo()
    info.path = path
    return info


def _like(current: Any, value: Any) -> Any:
    """`value` as the type that the field has now: a set, an enumeration, a list of fixed length."""
    if isinstance(current, set):
        return set(value)
    if isinstance(current, list) and current and isinstance(value, list):
        made = [_like(current[0], one) for one in value]
        # tensor_split has one place per possible device.
        return made + current[len(made) :] if isinstance(current[0], float) else made
    if isinstance(value, str) and not isinstance(current, str) and hasattr(current, "name"):
        return getattr(type(current), value)
    return value


if __name__ == "__main__":
    sys.exit(main())
