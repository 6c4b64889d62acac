"""What the engine of a tune can do beside starting: a dry run, and limits that change live."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from vllama import hardware
from vllama.bench.rig import Bench, Rig, Session
from vllama.engines import vllm_live
from vllama.engines.engine import Engine
from vllama.engines.vllm import Vllm
from vllama.engines.vllm_dry_run import DryRun, Verdict
from vllama.machine import Machine
from vllama.profile import Profile
from vllama.settings import Settings
from vllama.tuner.ladder import Aids
from vllama.tuner.released import Released


class LiveLimits:
    """vLLM's scheduler follows other limits from the next step on."""

    limits: tuple[str, ...] = vllm_live.LIMITS

    def steerable(self, profile: Profile) -> Profile:
        """With the scheduler that follows."""
        return vllm_live.live(profile)

    def steer(self, session: Session, limits: Mapping[str, int]) -> bool:
        """False where this vLLM cannot."""
        return vllm_live.set_limits(session.endpoint, **limits)


def bench(engine: Engine, machine: Machine, settings: Settings) -> Bench:
    """What starts it; on GPUs never before the memory of the engine before is back."""
    if not machine.gpus:
        return Rig(engine)

    def free() -> list[int]:
        return [gpu.free_bytes for gpu in hardware.visible(settings.environment).gpus]

    return Released(Rig(engine), free)


@asynccontextmanager
async def of(engine: Engine, default: Profile, *, live: bool = True) -> AsyncIterator[Aids]:
    """The aids of `engine`, none where it has none; their helper is stopped on leaving."""
    if not isinstance(engine, Vllm):
        yield Aids()
        return
    async with DryRun(engine, default) as dry:

        async def check(profile: Profile) -> Verdict:
            return await dry.check(profile.options)

        steers = live and vllm_live.is_supported(engine.installed())
        yield Aids(check, LiveLimits() if steers else None)
