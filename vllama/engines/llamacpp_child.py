"""A llama.cpp server in a process of its own, on the wheel `xllamacpp`.

`python -m vllama.engines.llamacpp_child JSON`: the JSON names fields of its `CommonParams`
by path (`cpuparams.n_threads`) with their values. Runs until SIGTERM.
"""

import json
import signal
import sys
import threading
from typing import Any


def main() -> int:
    """Serve until told to stop."""
    import xllamacpp

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    params = xllamacpp.CommonParams()
    for path, value in json.loads(sys.argv[1]).items():
        _put(params, path, value)
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)
    while not stop.wait(0.2):
        pass
    del server
    return 0


def _put(params: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        params = getattr(params, name)
    current = getattr(params, last)
    if isinstance(current, set):
        value = set(value)
    elif isinstance(value, str) and not isinstance(current, str) and hasattr(current, "name"):
        value = getattr(type(current), value)
    setattr(params, last, value)


if __name__ == "__main__":
    sys.exit(main())
