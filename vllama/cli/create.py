"""`vllama create MODEL -f Modelfile`: make a model out of another, or out of files."""

import argparse
import sys
from pathlib import Path
from typing import Any

from vllama.cli import progress
from vllama.cli.client import Client
from vllama.errors import VllamaError
from vllama.settings import Settings

# What a safetensors folder needs beside its weights; whatever else lies in it stays there.
_DESCRIPTIONS = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "*.tiktoken",
                 "1_Pooling/*.json")  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("-f", "--file", type=Path, default=Path("Modelfile"), metavar="FILE",
                        help="the Modelfile, or - for stdin (Modelfile)")  # fmt: skip
    parser.add_argument("-q", "--quantize", metavar="TYPE", help="make it smaller: Q8_0, F16")
    parser.add_argument("--draft-quantize", metavar="TYPE", help="make the DRAFT model smaller")


def run(args: argparse.Namespace) -> int:
    """Read the Modelfile, give the server the files it names, and have the model made."""
    from vllama.store import modelfile

    made = modelfile.parse(modelfile.decode(_read(args.file)))
    for name in made.deprecated:
        print(f"warning: parameter {name} is deprecated", file=sys.stderr)
    client = Client(Settings.from_environment())
    folder = Path.cwd() if str(args.file) == "-" else args.file.resolve().parent
    body = _sources(made.sources, folder, client, args.quiet)
    for draft in made.drafts[-1:]:
        path = _path(draft, folder)
        if path is None or not path.is_file():
            raise VllamaError(f"no draft model at {draft}", "Give a GGUF file.")
        body["draft_files"] = _upload(path, client, args.quiet)
    for adapter in made.adapters:
        path = _path(adapter, folder)
        if path is None:
            raise VllamaError(f"no adapter at {adapter}", "Give a GGUF file or peft's folder.")
        body["adapters"] = {**body.get("adapters", {}), **_upload(path, client, args.quiet)}
    given = {
        "template": made.template,
        "system": made.system,
        "license": list(made.licenses),
        "parameters": made.parameters,
        "messages": list(made.messages),
        "renderer": made.renderer,
        "parser": made.parser,
        "requires": made.requires,
        "quantize": args.quantize,
        "draft_quantize": args.draft_quantize,
    }
    body |= {key: value for key, value in given.items() if value}
    statuses = client.stream("/api/create", {"model": args.model, "stream": True, **body})
    progress.show(statuses, quiet=args.quiet)
    return 0


def _read(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise VllamaError(
            f"no Modelfile at {path}: {error.strerror}", "Name it with -f FILE."
        ) from error


def _sources(sources: tuple[str, ...], folder: Path, client: Client, quiet: bool) -> dict[str, Any]:
    """What FROM means: files that are here are given to the server, all else is a name."""
    body: dict[str, Any] = {}
    for source in sources:
        path = _path(source, folder)
        if path is None:
            body["from"] = source
        else:
            body["files"] = {**body.get("files", {}), **_upload(path, client, quiet)}
    return body


def _path(text: str, folder: Path) -> Path | None:
    """The file or folder that a line names, relative to the Modelfile."""
    path = folder / Path(text).expanduser()
    if path.is_file() or (path.is_dir() and any(_files(path))):
        return path
    if text.startswith((".", "/", "~")) or text.endswith((".gguf", ".safetensors")):
        raise VllamaError(f"no model files at {path}", "Give a GGUF file or a safetensors folder.")
    return None


def _files(folder: Path) -> list[Path]:
    """A folder's weights and what describes them; GGUF only where there is nothing else."""
    tensors = sorted(folder.glob("*.safetensors"))
    if not tensors:
        return sorted(folder.glob("*.gguf"))
    described = {p for pattern in _DESCRIPTIONS for p in folder.glob(pattern) if p.is_file()}
    return tensors + sorted(described)


def _upload(path: Path, client: Client, quiet: bool) -> dict[str, str]:
    """Names below the folder, and the digests under which the server now has them."""
    import hashlib

    found = {}
    for file in [path] if path.is_file() else _files(path):
        with file.open("rb") as opened:
            digest = f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"
        if not client.has_blob(digest):
            if not quiet:
                print(f"copying file {digest}", file=sys.stderr)
            client.put_blob(digest, file)
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        # A file that the server names by its digest carries no ending.
        is_gguf = file.open("rb").read(4) == b"GGUF"
        found[name if not is_gguf or name.endswith(".gguf") else f"{name}.gguf"] = digest
    return found
