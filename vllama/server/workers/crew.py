"""Several worker processes on one socket, kept up, and ended together."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys

from vllama.server.workers.letters import Letter

log = logging.getLogger(__name__)
RETURN_S = 0.5


class Workers:
    """`count` of them, each told the same."""

    def __init__(self, count: int, listener: socket.socket, told: Letter) -> None:
        self._count = count
        self._listener = listener
        self._told = {**told, "listener": listener.fileno()}
        self._stopping = asyncio.Event()
        self._forced = False
        self._processes: set[asyncio.subprocess.Process] = set()
        self.should_exit = False

    def stop(self) -> None:
        """Let them finish what they have; asked twice, end them."""
        self._forced = self.should_exit
        self.should_exit = True
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL if self._forced else signal.SIGTERM)
        self._stopping.set()

    async def run(self) -> None:
        """Until all have ended after `stop`."""
        await asyncio.gather(*(self._keep(number) for number in range(self._count)))

    async def _keep(self, number: int) -> None:
        while not self.should_exit:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vllama.server.workers.worker",
                stdin=asyncio.subprocess.PIPE, pass_fds=(self._listener.fileno(),),
            )  # fmt: skip
            self._processes.add(process)
            assert process.stdin is not None
            process.stdin.write(json.dumps(self._told).encode() + b"\n")
            if self.should_exit:
                process.send_signal(signal.SIGTERM)
            await process.wait()
            self._processes.discard(process)
            if not self.should_exit:
                log.error(
                    "worker %d ended with status %s; starting another", number, process.returncode
                )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), RETURN_S)
