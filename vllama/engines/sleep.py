"""Sleep: an engine gives its accelerator's memory back and keeps its weights in the host's.

Waking takes seconds where a start takes minutes. An engine that cannot sleep is `Sleepless`.
"""

import math
from typing import Protocol

# The option that vLLM has for it.
OPTION = "enable_sleep_mode"


class Sleep(Protocol):
    """How one engine that runs goes to sleep, and what it keeps meanwhile."""

    @property
    def host_bytes(self) -> float:
        """What it takes of the host's memory while it sleeps, beyond what it has awake."""
        ...

    @property
    def rest_bytes(self) -> int:
        """What it keeps of each accelerator's memory."""
        ...

    async def fall_asleep(self) -> bool:
        """Go to sleep; whether it does. Nobody may be using it. Never raises."""
        ...

    async def wake(self) -> bool:
        """Be as before; whether it is, in time. If not, it is good for nothing. Never raises."""
        ...


class Sleepless:
    """Of an engine that can only run or be stopped."""

    host_bytes = math.inf
    rest_bytes = 0

    async def fall_asleep(self) -> bool:
        """No."""
        return False

    async def wake(self) -> bool:
        """No."""
        return False
