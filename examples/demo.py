"""The whole of vllama in a few minutes: tune, compare, serve, ask.

It runs the commands a user would type, on a model of random weights made on the spot.
"""

import argparse
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent.parent / "demo"
MODEL = HERE / "toy"
WORKLOAD = "concurrent-10"


def main() -> int:
    """Run all of it; 0 when all of it worked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--engine", choices=["vllm", "llamacpp"], help="the usual one of this machine"
    )
    engine = parser.parse_args().engine
    chosen = ("--engine", engine) if engine else ()
    started = time.monotonic()
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    os.environ["VLLAMA_HOME"] = str(HERE / "home")

    vllama("toy-model", MODEL, "--parameters", "4M")
    load = (*chosen, "--workload", WORKLOAD)
    # More settings on each start would take vLLM on a processor beyond twenty minutes.
    quick = ("--no-live",) if engine == "vllm" else ()
    vllama("tune", MODEL, *load, "--trials", 8, *quick, "--json", save=HERE / "tune.json")
    sides = ("--profile", "best", "--profile", "default", "--requests", 120)
    vllama("bench", MODEL, *load, *sides, "--json", save=HERE / "bench.json")
    ask_served_model(chosen)
    vllama("report", HERE / "tune.json", HERE / "bench.json", "--html", HERE / "report.html")
    print(f"\nDone in {time.monotonic() - started:.0f} s. The report: {HERE / 'report.html'}")
    return 0


def vllama(*words: object, save: Path | None = None) -> None:
    """Run one command, shown as it is typed; its stdout goes to `save`."""
    command = shown(words, save)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"the command failed with exit code {done.returncode}")
    if save:
        save.write_bytes(done.stdout)


def shown(words: tuple[object, ...], save: Path | None = None) -> list[str]:
    """The command line as a list, after printing it."""
    texts = [str(w) for w in words]
    print(f"\n$ vllama {shlex.join(texts)}" + (f" > {save}" if save else ""), flush=True)
    return [sys.executable, "-m", "vllama", *texts]


def ask_served_model(chosen: tuple[str, ...]) -> None:
    """Serve the tuned model, and ask it as any Ollama client would."""
    command = shown(("serve", MODEL, *chosen, "--profile", "best", "--port", 0))
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            print(line, end="")
            if ready := re.search(r"ready on http://([^:]+):(\d+)", line):
                chat(ready[1], int(ready[2]))
                return
        sys.exit("the server ended before it was ready")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def chat(host: str, port: int) -> None:
    """Stream one answer of /api/chat to the terminal."""
    request = {
        "model": "toy",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        # Random weights repeat their last token for ever unless that costs them a lot.
        "options": {"num_predict": 32, "temperature": 0, "repeat_penalty": 10},
    }
    print(f"$ curl http://{host}:{port}/api/chat -d '{json.dumps(request)}'")
    connection = http.client.HTTPConnection(host, port, timeout=300)
    connection.request("POST", "/api/chat", json.dumps(request))
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"{response.status}: {response.read().decode()}")
    for line in response:
        answer = json.loads(line)
        print(answer["message"]["content"], end="", flush=True)
        if answer["done"]:
            print(f"\n{answer['eval_count']} tokens in {answer['eval_duration'] / 1e9:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
