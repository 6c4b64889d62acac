"""`vllama report`: one page that shows what was tuned and measured."""

import argparse
import json
import sys
import webbrowser
from pathlib import Path
from typing import Any

from vllama.errors import UsageError
from vllama.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "what",
        nargs="*",
        metavar="STUDY|FILE",
        help="studies by name, or files of `tune --json` and `bench --json` (the newest study)",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="where to write the page")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the same as Markdown")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="every measurement as a table")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    parser.add_argument("--title", default="", help="the page's heading")


def run(args: argparse.Namespace) -> int:
    """Write the report; its path goes to stdout."""
    settings = Settings.from_environment()
    documents = [_read(what, settings) for what in args.what or [_newest(settings)]]
    tune = _only([d for d in documents if "trials" in d], "tunes")
    bench = _only([d for d in documents if "results" in d], "benches")
    title = args.title or _title(tune or bench or {})
    # Only now, since pandas and matplotlib take longer to load than a mistake should cost.
    from vllama.disk import write_whole
    from vllama.results import frame, markdown, report

    if args.markdown:
        parts = [markdown.summary(d) for d in (tune, bench) if d is not None]
        write_whole(args.markdown, "\n\n".join(parts))
        print(args.markdown)
    if args.csv:
        frame.write_document(documents, args.csv)
        print(args.csv)
    if args.html or args.open or not (args.markdown or args.csv):
        page = report.write(args.html or Path("report.html"), tune=tune, bench=bench, title=title)
        print(page)
        if args.open:
            webbrowser.open(page.absolute().as_uri())
    return 0


def _read(what: str, settings: Settings) -> dict[str, Any]:
    path = Path(what)
    if not path.is_file():
        path = settings.home / "studies" / f"{what}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise UsageError(
            f"no file and no study '{what}'", f"Studies: {known}. Make one: vllama tune MODEL"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no JSON document of vllama: {error}") from error
    if not isinstance(document, dict) or not {"trials", "results"} & document.keys():
        raise UsageError(
            f"{path} is neither a tune nor a bench", "Give what `--json` or `--out` wrote."
        )
    return document


def _newest(settings: Settings) -> str:
    studies = sorted(
        (settings.home / "studies").glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True
    )
    if not studies:
        raise UsageError("nothing was tuned yet", "Run `vllama tune MODEL` first, or give a file.")
    print(f"reporting on the newest study, {studies[0].stem}", file=sys.stderr)
    return studies[0].stem


def _only(found: list[dict[str, Any]], what: str) -> dict[str, Any] | None:
    if len(found) > 1:
        raise UsageError(f"one report shows one tune and one bench, not {len(found)} {what}")
    return found[0] if found else None


def _title(document: dict[str, Any]) -> str:
    model = str(document.get("model") or "").rstrip("/").rpartition("/")[2]
    return f"vllama: {model}" if model else "vllama report"
