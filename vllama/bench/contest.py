"""Several targets under the same loads, in turns that cancel drift: A B B A.

Every target gets the same prompts in the same order. Blocks are yielded as they end, so
that whoever holds them has kept them when the rest is called off.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from vllama.bench.measurement import Run
from vllama.bench.prompts import Prompts
from vllama.bench.rig import LiveSession, Rig
from vllama.bench.wire import USUAL, Client
from vllama.bench.workload import Workload
from vllama.engines.engine import Endpoint, Engine
from vllama.profile import Profile


@dataclass(frozen=True, slots=True)
class Target:
    """Something to be measured. `launched` where measuring starts and stops it."""

    name: str
    engine: Engine
    profile: Profile
    launched: bool = True


@dataclass(frozen=True, slots=True)
class Block:
    """One load on one target; blocks of equal `start` and `block` form a pair."""

    target: str
    workload: Workload
    start: int
    block: int
    run: Run


@dataclass
class Contest:
    """`blocks` measurements of each workload on each of `starts` starts of each target.

    `together`: all targets are up at once and alternate from block to block. Otherwise only
    one is, and whole starts alternate. `partial` is what a block had when it was called off.
    """

    targets: Sequence[Target]
    workloads: Sequence[Workload]
    blocks: int = 3
    starts: int = 1
    together: bool = True
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    partial: Block | None = None
    client: Client = USUAL
    _shared: dict[str, Prompts] = field(default_factory=dict)

    async def run(self) -> AsyncGenerator[Block, None]:
        """The blocks, in the order measured.

        Raises:
            EngineMissing, EngineFailed: a target did not start, died or answered nothing.
        """
        for start in range(self.starts):
            targets = self.targets if start % 2 == 0 else tuple(reversed(self.targets))
            groups = [targets] if self.together else [[target] for target in targets]
            for group in groups:
                async with AsyncExitStack() as stack:
                    up = {t.name: await self._enter(stack, t) for t in group}
                    async for block in self._alternate(up, start):
                        yield block
                    if not self.together:
                        for session in up.values():
                            await session.unload()

    async def _enter(self, stack: AsyncExitStack, target: Target) -> LiveSession:
        session = await stack.enter_async_context(
            Rig(target.engine, self.client).started(target.profile)
        )
        self.endpoints[target.name] = session.endpoint
        return session

    async def _alternate(
        self, up: dict[str, LiveSession], start: int
    ) -> AsyncGenerator[Block, None]:
        names = list(up)
        for workload in self.workloads:
            for name in names:
                await self._agree(up[name], workload)
                await up[name].warm_up(workload)
            for block in range(self.blocks):
                for name in names if block % 2 == 0 else reversed(names):
                    yield await self._block(up[name], name, workload, start, block)

    async def _block(
        self, session: LiveSession, name: str, workload: Workload, start: int, block: int
    ) -> Block:
        try:
            return Block(name, workload, start, block, await session.observe(workload))
        except asyncio.CancelledError:
            if session.cut_off is not None:
                self.partial = Block(name, workload, start, block, session.cut_off)
            raise

    async def _agree(self, session: LiveSession, workload: Workload) -> None:
        """Several targets get the prompts of the first, as text: their tokenizers may differ."""
        if len(self.targets) < 2:
            return
        if workload.kind not in self._shared:
            self._shared[workload.kind] = await session.as_text(workload.kind)
        session.speak(workload.kind, self._shared[workload.kind])
