"""Trials on an existing Ray cluster: each in an actor that holds the GPUs it needs.

The actor starts the engine and loads it on its own host, so that no network is measured.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from vllama import hardware
from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench, Rig, Session
from vllama.bench.workload import Workload
from vllama.engines.engine import Endpoint, Fact, Immortal
from vllama.errors import EngineFailed, UsageError
from vllama.machine import Machine
from vllama.profile import Profile
from vllama.settings import Settings
from vllama.tuner import attempt
from vllama.tuner.jobs import needed

# Must be importable on every host of the cluster.
Make: TypeAlias = Callable[[], Bench]
STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Rigs:
    """What an actor is told to make: the rig of an engine of its host."""

    engine: str

    def __call__(self) -> Bench:
        """The rig of this host."""
        from vllama.engines import engine

        return Rig(engine(self.engine, Settings.from_environment()))


def connect(address: str) -> None:
    """Join the cluster at `address`; `auto` is the one of this host.

    Raises:
        UsageError: Ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("--ray needs Ray", "Install it: pip install 'vllama[ray]'") from None
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"there is no Ray cluster at {address} ({error})",
            "Start one with `ray start --head`, or give the address it told.",
        ) from error


class RayBench:
    """Starts each engine in an actor, when and where the cluster has what it needs.

    A launch takes as many GPUs as its parallel sizes multiply to; without GPUs it takes all
    the cores of a host, for trials on one processor would measure each other.
    """

    def __init__(self, make: Make, machine: Machine) -> None:
        self._make = make
        self._machine = machine
        # Of the whole host, as an actor sees it, not of the GPUs that this process may use.
        self._fingerprint = hardware.detect().fingerprint

    @asynccontextmanager
    async def started(self, profile: Profile) -> AsyncIterator[Session]:
        """Wait for the cluster, then start there; the actor is gone on leaving.

        Raises:
            EngineFailed: as a start here does; or the cluster is never so large, or the host
                is of another kind than the one that is tuned for.
        """
        import ray

        wants = self._wants(profile)
        _check(wants, ray.cluster_resources())
        actor = ray.remote(_Host).options(**wants).remote(self._make, self._fingerprint)
        try:
            up = await _asked(actor.start, profile)
            yield _FarSession(actor, up)
        finally:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(_asked(actor.stop), STOP_S)
            # The guard of its engine sees it end, whatever became of `stop`.
            ray.kill(actor)

    def _wants(self, profile: Profile) -> dict[str, int]:
        if self._machine.gpus:
            return {"num_gpus": needed(profile.options), "num_cpus": 1}
        return {"num_cpus": self._machine.cpu.cores}


def _check(wants: Mapping[str, int], has: Mapping[str, float]) -> None:
    for name, what in (("num_gpus", "GPU"), ("num_cpus", "CPU")):
        if wants.get(name, 0) > has.get(what, 0):
            raise EngineFailed(
                f"{wants[name]} {what}s are asked for and the cluster has {has.get(what, 0):g}",
                kind="bad_option",
            )


@dataclass(frozen=True, slots=True)
class _Up:
    """What a start told."""

    endpoint: Endpoint
    facts: dict[str, Fact]
    start_s: float


@dataclass(frozen=True, slots=True)
class _Fell:
    """An EngineFailed, as it travels: exceptions of Ray's tasks lose what they know."""

    message: str
    remedy: str
    kind: str
    phase: str
    log: tuple[str, ...]

    @classmethod
    def of(cls, failed: EngineFailed) -> "_Fell":
        return cls(failed.message, failed.remedy, failed.kind, failed.phase, failed.log)

    def raised(self) -> EngineFailed:
        return EngineFailed(
            self.message, self.remedy, kind=self.kind, phase=self.phase, log=self.log
        )


class _Host:
    """In the actor: an engine and what measures it, on the host where Ray found room."""

    def __init__(self, make: Make, fingerprint: str) -> None:
        self._bench = make()
        self._fingerprint = fingerprint
        self._stack = AsyncExitStack()
        self._session: Session | None = None

    async def start(self, profile: Profile) -> _Up | _Fell:
        here = hardware.detect().fingerprint
        if here != self._fingerprint:
            return _Fell(
                f"Ray placed it on a machine of another kind: {here}, not {self._fingerprint}",
                "Tune on a cluster whose hosts are alike.", "bad_option", "parse", (),
            )  # fmt: skip
        try:
            session = await self._stack.enter_async_context(self._bench.started(profile))
        except EngineFailed as failed:
            return _Fell.of(failed)
        self._session = session
        # Its life stays here: what it says is told with the measurement that it ended.
        told = session.endpoint
        far = Endpoint(told.base_url, told.model, told.engine, Immortal(), told.api, told.version,
                       told.command, told.start_s)  # fmt: skip
        return _Up(far, dict(session.facts), session.start_s)

    async def measure(self, workload: Workload) -> Measurement | _Fell:
        assert self._session is not None
        try:
            return await attempt.bounded(self._session, workload)
        except EngineFailed as failed:
            return _Fell.of(failed)

    async def stop(self) -> None:
        await self._stack.aclose()


@dataclass(frozen=True, slots=True)
class _FarSession:
    actor: Any
    up: _Up

    @property
    def endpoint(self) -> Endpoint:
        return self.up.endpoint

    @property
    def facts(self) -> Mapping[str, Fact]:
        return self.up.facts

    @property
    def start_s(self) -> float:
        return self.up.start_s

    async def measure(self, workload: Workload) -> Measurement:
        found: Measurement = await _asked(self.actor.measure, workload)
        return found


async def _asked(method: Any, *arguments: object) -> Any:
    """What the actor answers.

    Raises:
        EngineFailed: the engine fell, or the host did.
    """
    from ray.exceptions import RayError

    try:
        told = await method.remote(*arguments)
    except RayError as error:
        first = str(error).strip().splitlines()[-1]
        raise EngineFailed(f"the Ray actor that held the engine fell: {first}") from error
    if isinstance(told, _Fell):
        raise told.raised()
    return told
