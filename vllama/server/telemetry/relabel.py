"""Putting several pages of Prometheus metrics into one, each sample labelled with its source."""

import re
from collections.abc import Mapping

_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(\{(.*)\})?\s+(\S.*)")
_ENDINGS = ("_bucket", "_count", "_sum", "_total", "_created", "_info")


class Families:
    """Metrics by family: a family's lines have to stand together, and be described once."""

    def __init__(self) -> None:
        self._about: dict[str, dict[str, str]] = {}
        self._samples: dict[str, list[str]] = {}

    def add(self, text: str, labels: Mapping[str, str]) -> None:
        """Take in a page, adding `labels` to each sample; what is no metric is left out."""
        added = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                _, kind, name, rest = (*line.split(" ", 3), "")[:4]
                self._about.setdefault(name, {}).setdefault(kind, rest)
                self._samples.setdefault(name, [])
                continue
            found = _SAMPLE.fullmatch(line)
            if found is None or line.startswith("#"):
                continue
            name, _, old, value = found.groups()
            both = ",".join(part for part in (added, (old or "").rstrip(",")) if part)
            shown = f"{name}{{{both}}} {value}" if both else f"{name} {value}"
            self._samples.setdefault(self._family(name), []).append(shown)

    def text(self) -> str:
        """The page of all."""
        lines = []
        for name, samples in self._samples.items():
            lines += [f"# {kind} {name} {rest}" for kind, rest in self._about.get(name, {}).items()]
            lines += samples
        return "\n".join(lines) + "\n"

    def _family(self, name: str) -> str:
        if name in self._about:
            return name
        for ending in _ENDINGS:
            stem = name.removesuffix(ending)
            if stem != name and stem in self._about:
                return stem
        return name


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
