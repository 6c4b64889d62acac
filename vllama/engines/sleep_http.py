"""Putting an engine to sleep by vLLM's three routes."""

import json
import logging
from dataclasses import dataclass

import httpx

log = logging.getLogger(__name__)
PATIENCE_S = 30.0
# Slower than any link between an accelerator and its host, also while others use it.
SLOWEST_BYTES_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class SleepOverHttp:
    """By `/sleep`, `/wake_up` and `/is_sleeping`.

    Only the first level: the weights stay, in the host's memory, and come back as they were.
    """

    base_url: str
    host_bytes: float
    rest_bytes: int = 0
    patience_s: float = PATIENCE_S

    async def fall_asleep(self) -> bool:
        """Drop the cache, move the weights."""
        return await self._becomes("/sleep?level=1", asleep=True)

    async def wake(self) -> bool:
        """Move the weights back, with a new cache."""
        return await self._becomes("/wake_up", asleep=False)

    async def _becomes(self, path: str, *, asleep: bool) -> bool:
        patience_s = self.patience_s + self.host_bytes / SLOWEST_BYTES_PER_S
        try:
            async with httpx.AsyncClient(
                base_url=self.base_url, trust_env=False, timeout=patience_s
            ) as client:
                (await client.post(path)).raise_for_status()
                said = (await client.get("/is_sleeping")).json()
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            log.warning("%s%s: %r", self.base_url, path, error)
            return False
        return isinstance(said, dict) and said.get("is_sleeping") is asleep
