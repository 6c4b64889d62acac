"""The examples for several hosts: their commands are understood, and what they build holds.

The scripts are really run, with programs in the path that only write down what they are told.
"""

import argparse
import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.conftest import ROOT, installed
from tests.server.house import listening
from tests.server.running import Running, chat, cmdline, serving
from vllama.cli import serve
from vllama.engines.attached import Attached
from vllama.engines.process import free_port
from vllama.engines.simulator import Simulator
from vllama.engines.vllm import Vllm
from vllama.engines.vllm_dry_run import CHILD
from vllama.profile import Profile
from vllama.settings import Settings

EXAMPLES = ROOT / "examples" / "distributed"
KEY = {"authorization": "Bearer secret"}
SCRIPTS = (
    ("engines.sh",),
    ("router.sh", "http://a:8000", "http://b:8000"),
    ("ray.sh", "head"),
    ("ray.sh", "worker", "10.0.0.1"),
    ("ray.sh", "serve"),
)
PARSE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import vllama_dry_run
parser = vllama_dry_run._parser()
for words in json.loads(sys.argv[2]):
    try:
        parser.parse_args(words)
        print("taken")
    except vllama_dry_run.Refused as refused:
        print("refused:", refused)
"""


def pods() -> dict[str, dict[str, Any]]:
    """The pods of kubernetes.yaml by the names of what they belong to."""
    documents = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    return {
        d["metadata"]["name"]: d["spec"]["template"]["spec"]
        for d in documents
        if d["kind"] != "Service"
    }


def main_container(name: str) -> dict[str, Any]:
    (container,) = pods()[name]["containers"]
    assert isinstance(container, dict)
    return container


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """What the scripts launch, word for word."""
    folder = tmp_path_factory.mktemp("programs")
    for program in ("vllm", "vllm-router", "ray"):
        said = f'#!/bin/sh\nprintf "%s\\n" {program} "$@"\n'
        (folder / program).write_text(said)
        (folder / program).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    for mine in ("MODEL", "PORT", "METRICS_PORT", "GPUS_PER_HOST", "HOSTS"):
        environment.pop(mine, None)
    return [
        subprocess.run(
            [EXAMPLES / script, *words], env=environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for script, *words in SCRIPTS
    ]


def written(program: str) -> Iterator[list[str]]:
    """The commands of a program that a reader finds in the pages."""
    for page in (EXAMPLES / "README.md", ROOT / "docs" / "serving.md"):
        for found in re.findall(rf"^{program} .*$|(?<=`){program} [^`]*", page.read_text(), re.M):
            if "--attach NAME=" not in found:
                yield shlex.split(found)


def test_ray_is_told_the_same_port_on_both_sides(scripted: list[list[str]]) -> None:
    head, worker = (words for words in scripted if words[0] == "ray")
    assert head == ["ray", "start", "--head", "--port=6379", "--block"]
    assert worker == ["ray", "start", "--address=10.0.0.1:6379", "--block"]


@pytest.mark.vllm
def test_the_installed_vllm_takes_every_command(
    scripted: list[list[str]], settings: Settings
) -> None:
    vllm = installed("vllm", settings)
    assert isinstance(vllm, Vllm)
    commands = [words for words in scripted if words[0] == "vllm"]
    commands += [main_container("engines")["command"], *written("vllm")]
    assert len(commands) >= 3
    assert all(words[1] == "serve" for words in commands)
    flags = [w.partition("=")[0] for words in commands for w in words if w.startswith("--")]
    # Exactly: argparse would take the beginning of a name, too.
    known = vllm.installed().flags.names
    assert {flag.removeprefix("--").replace("-", "_") for flag in flags} <= known
    asked = [*(words[2:] for words in commands), ["m", "--tensor-parallel-size", "two"]]
    python = str(vllm.installed().python)
    environment = {**settings.environment, "CUDA_VISIBLE_DEVICES": ""}
    said = subprocess.run(
        [python, "-c", PARSE, str(CHILD.parent), json.dumps(asked)],
        capture_output=True, text=True, check=True, env=environment,
    ).stdout.splitlines()  # fmt: skip
    answers = [line for line in said if line.startswith(("taken", "refused"))]
    assert answers[:-1] == ["taken"] * len(commands)
    assert answers[-1].startswith("refused")


def test_vllama_takes_every_command() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    serve.arguments(parser)
    commands = [main_container("vllama")["command"], *written("vllama serve")]
    assert len(commands) >= 5
    for words in commands:
        assert words[:2] == ["vllama", "serve"]
        for attached in parser.parse_args(words[2:]).attach:
            name, _, urls = attached.partition("=")
            assert name == "big"
            assert all(Attached(url) for url in urls.split(","))


def test_kubernetes_is_told_of_one_gpu_for_each_engine_and_no_name_that_vllm_refuses() -> None:
    documents = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
    services = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "Service"}
    assert "vllm" not in services
    workloads = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] != "Service"}
    assert main_container("engines")["resources"]["limits"]["nvidia.com/gpu"] == 1
    # Each engine has a name, and the router knows all of them.
    urls = [w for w in main_container("router")["command"] if w.startswith("http://")]
    count = workloads["engines"]["replicas"]
    assert urls == [f"http://engines-{i}.engines:8000" for i in range(count)]
    for name, workload in workloads.items():
        labels = workload["template"]["metadata"]["labels"]
        assert services[name]["selector"] == workload["selector"]["matchLabels"] == labels
        command = main_container(name)["command"]
        (port,) = (p["port"] for p in services[name]["ports"])
        assert f"--port={port}" in command
        assert port in [p["containerPort"] for p in main_container(name)["ports"]]
        mounted = {m["name"] for m in main_container(name).get("volumeMounts", [])}
        claims = [c["metadata"]["name"] for c in workload.get("volumeClaimTemplates", [])]
        volumes = [v["name"] for v in pods()[name].get("volumes", [])]
        assert mounted == {*claims, *volumes}
    drain = next(w for w in main_container("vllama")["command"] if w.startswith("--drain="))
    assert pods()["vllama"]["terminationGracePeriodSeconds"] > float(drain.partition("=")[2])


def test_the_charts_values_name_a_model_for_each_gpu() -> None:
    values = yaml.safe_load((EXAMPLES / "production-stack.yaml").read_text())
    (model,) = values["servingEngineSpec"]["modelSpec"]
    assert (model["name"], model["requestGPU"], model["replicaCount"]) == ("big", 1, 2)


def probed(name: str) -> set[str]:
    """The paths that Kubernetes asks of a container."""
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    return {main_container(name)[kind]["httpGet"]["path"] for kind in kinds}


@asynccontextmanager
async def engine_of_theirs(settings: Settings) -> AsyncIterator[tuple[str, psutil.Process]]:
    options = {"time_scale": 8, "answer_tokens": 200}
    async with Simulator(settings).start(Profile("t", "simulator", "big", options)) as endpoint:
        below = [psutil.Process(pid) for pid in endpoint.life.pids]
        named = [p for p in below if "simulator_child" in cmdline(p)]
        yield endpoint.base_url, next(p for p in named if "guard.py" not in cmdline(p))


@asynccontextmanager
async def taking_turns(*urls: str) -> AsyncIterator[str]:
    """A proxy that asks its engines in turn, and the next one where nobody listens."""
    client = httpx.AsyncClient(trust_env=False, timeout=60)
    turn = iter(range(1_000_000))

    async def pass_on(request: Request) -> Response:
        body = await request.body()
        first = next(turn) if request.method == "POST" else 0
        for step in range(len(urls)):
            url = urls[(first + step) % len(urls)] + request.url.path
            asked = client.build_request(
                request.method, url, content=body, headers={"content-type": "application/json"}
            )
            with suppress(httpx.ConnectError):
                answer = await client.send(asked, stream=True)
                kind = answer.headers.get("content-type", "")
                return StreamingResponse(answer.aiter_raw(), answer.status_code, media_type=kind)
        return JSONResponse({"error": {"message": "no engine is left"}}, 503)

    app = Starlette(routes=[Route("/{path:path}", pass_on, methods=["GET", "POST"])])
    async with client, listening(app) as url:
        yield url


@asynccontextmanager
async def vllms_router(*urls: str) -> AsyncIterator[str]:
    """The example's own router, where it is installed."""
    if shutil.which("vllm-router") is None:
        pytest.skip("vllm-router is not installed")
    port = free_port()
    ports = {"PORT": str(port), "METRICS_PORT": str(free_port())}
    process = await asyncio.create_subprocess_exec(
        EXAMPLES / "router.sh",
        *urls,
        env={**os.environ, **ports},
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(120):
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get(f"{url}/readiness")).status_code == 200:
                        break
                await asyncio.sleep(0.1)
            for path in probed("router"):
                assert (await client.get(url + path)).status_code == 200
        yield url
    finally:
        process.terminate()
        await process.wait()


def served_by_the_pod(url: str, keys: Path) -> list[str]:
    """The pod's command, for the router and the keys that are here."""
    words = [str(word) for word in main_container("vllama")["command"][2:]]
    here = {"--host": "127.0.0.1", "--api-key-file": str(keys), "--attach": f"big={url}"}
    changed = [f"{name}={here.get(name, value)}" if is_given else name
               for name, is_given, value in (w.partition("=") for w in words)]  # fmt: skip
    return [word for word in changed if not word.startswith("--port")]


async def told(running: Running, prompt: str, tokens: int) -> str:
    """The last line of a streamed chat."""
    body = {**chat("big", tokens), "messages": [{"role": "user", "content": prompt}]}
    async with httpx.AsyncClient(trust_env=False, timeout=300, headers=KEY) as client:
        answer = await client.post(f"{running.url}/api/chat", json=body)
    return answer.text.splitlines()[-1]


@pytest.mark.parametrize("front", [taking_turns, vllms_router])
async def test_an_engine_behind_the_router_dies_and_the_service_goes_on(
    front: Any, settings: Settings, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    async with (
        engine_of_theirs(settings) as (one, first),
        engine_of_theirs(settings) as (two, second),
        front(one, two) as url,
        serving(*served_by_the_pod(url, keys), settings=settings) as running,
        httpx.AsyncClient(trust_env=False, base_url=running.url) as anybody,
    ):
        for path in probed("vllama"):
            assert (await anybody.get(path)).status_code == 200
        for path in probed("engines"):
            assert (await anybody.get(one + path)).status_code == 200
        assert (await anybody.post("/api/chat", json=chat("big", 1))).status_code == 401
        # Prompts that begin differently: each may go to another engine.
        prompts = [letter * 200 for letter in "abcdefgh"]
        asking = [asyncio.create_task(told(running, prompt, 150)) for prompt in prompts]
        await until_both_work(one, two)
        first.kill()
        ends = [json.loads(line) for line in await asyncio.gather(*asking)]
        assert any(end.get("done") for end in ends)
        assert any("error" in end for end in ends)
        assert all(end.get("done") or "error" in end for end in ends)
        for prompt in prompts:
            assert json.loads(await told(running, prompt, 2))["done"]

        second.kill()
        refused = await anybody.post("/api/chat", json=chat("big", 1), headers=KEY, timeout=60)
        assert refused.status_code >= 500
        assert refused.json()["error"]


async def until_both_work(*urls: str) -> None:
    """Until each engine says that it works on a request."""
    working = re.compile(r"^vllm:num_requests_running\S* [1-9]", re.MULTILINE)

    def all_work() -> bool:
        pages = [httpx.get(f"{url}/metrics", trust_env=False).text for url in urls]
        return all(map(working.search, pages))

    async with asyncio.timeout(120):
        while not await asyncio.to_thread(all_work):  # noqa: ASYNC110 - others' processes
            await asyncio.sleep(0.01)
