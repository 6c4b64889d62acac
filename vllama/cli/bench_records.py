"""Blocks of a bench as records of the ledger."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from vllama import __version__
from vllama.bench.contest import Block, Contest
from vllama.bench.measurement import summarize
from vllama.results.record import Record


def of_blocks(
    blocks: Sequence[Block], contest: Contest, machine: str, times: tuple[datetime, datetime]
) -> Iterator[Record]:
    """One record a block; `times` are the start and the end of the whole bench."""
    targets = {t.name: t for t in contest.targets}
    for block in blocks:
        endpoint = contest.endpoints[block.target]
        yield Record(
            "measurement",
            targets[block.target].profile,
            machine=machine,
            engine=str(endpoint.facts.get("engine", endpoint.engine)),
            engine_version=endpoint.version,
            vllama_version=__version__,
            seed=block.workload.seed,
            started_at=times[0],
            ended_at=times[1],
            workload=block.workload,
            measurement=summarize(block.run),
        )
