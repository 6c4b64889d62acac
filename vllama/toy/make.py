"""Making a toy model: all of it, or nothing."""

import shutil
import tempfile
from pathlib import Path

from vllama.errors import StorageError, UsageError
from vllama.toy.size import Size, choose

MARK = "toy-f16.gguf"


def make(
    directory: Path, *, parameters: int = 4_000_000, seed: int = 0, pooling: str | None = None,
    size: Size | None = None,
) -> Path:  # fmt: skip
    """Write a Hugging Face folder with GGUF files of the same weights in it; its path.

    An earlier toy is replaced, any other folder refused. With `pooling="mean"` it is an
    embedding model. `size` says its dimensions where a number of parameters does not.
    """
    from vllama.toy import to_gguf, tokenizer, weights

    target = directory.absolute()
    if target.exists() and (not target.is_dir() or _is_foreign(target)):
        raise UsageError(f"{target} is there already and no toy model", "Choose another folder.")
    size = size or choose(parameters)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        drawn = weights.draw(size, seed)
        tokenizer.write(beside)
        weights.write(beside, size, drawn, pooling)
        for quantization in ("f16", "q8_0"):
            path = beside / f"toy-{quantization}.gguf"
            to_gguf.write(path, quantization, size, drawn, beside / "tokenizer.json", pooling)
        beside.chmod(0o755)
        (beside / "model.safetensors").chmod(0o644)
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror}", "Free some space."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _is_foreign(folder: Path) -> bool:
    return any(folder.iterdir()) and not (folder / MARK).exists()
