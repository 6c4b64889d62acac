"""Prompts from a dataset of the hub: `hub:OWNER/NAME/FILE.jsonl[@REVISION]`, kept in its cache."""

import re
from pathlib import Path

from vllama.errors import UsageError
from vllama.settings import Settings

PREFIX = "hub:"
_FORM = re.compile(r"hub:([\w.-]+/[\w.-]+)/([^@]+\.jsonl)(?:@([\w./-]+))?")


def fetch(text: str, settings: Settings) -> Path:
    """The file on this disk; asked for only where the cache lacks it or it may have changed.

    Raises:
        UsageError: it is named in another way, is not there, or cannot be had now.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"'{text}' names no file", "Write it like hub:owner/name/file.jsonl.")
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        kept = hf_hub_download(
            match[1], match[2], repo_type="dataset", revision=match[3],
            cache_dir=settings.hub_cache, endpoint=settings.hub_endpoint,
            token=settings.hub_token or False, local_files_only=settings.hub_offline,
        )  # fmt: skip
    except errors.GatedRepoError as error:
        page = f"{settings.hub_endpoint}/datasets/{match[1]}"
        raise UsageError(
            f"{text}: the dataset is gated", f"Accept its conditions at {page}, then set HF_TOKEN."
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        said = str(error).partition("\n")[0]
        raise UsageError(
            f"{text} cannot be had from {settings.hub_endpoint}: {said}",
            "Check its name; a private one needs HF_TOKEN.",
        ) from error
    return Path(kept)
