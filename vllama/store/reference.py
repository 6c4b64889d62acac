"""A model's name by Ollama's rules: `[scheme://][host[:port]/][namespace/]model[:tag]`."""

import re
from dataclasses import dataclass, replace
from typing import Self

from vllama.errors import UsageError

HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
HUB_HOSTS = frozenset({"hf.co", "huggingface.co", "www.hf.co", "www.huggingface.co"})
_PARTS = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}


class InvalidName(UsageError):
    """The text is no name of a model."""


@dataclass(frozen=True, slots=True)
class Name:
    """One model at one registry. Names that differ only in case mean the same model."""

    host: str
    namespace: str
    model: str
    tag: str
    scheme: str = "https"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The name that `text` writes, its missing parts filled in.

        Raises:
            InvalidName: a part is empty, too long or has a character that it must not have.
        """
        scheme, separator, rest = text.rpartition("://")
        head, slash, last = rest.rpartition("/")
        model, colon, tag = last.partition(":")
        outer = head.split("/") if slash else []
        if len(outer) > 2 or (separator and not scheme) or (colon and not tag):
            raise _invalid(text)
        namespace = outer[-1] if outer else NAMESPACE
        host = outer[0] if len(outer) == 2 else HOST
        name = cls(host, namespace, model, tag or TAG, scheme or "https")
        if not name.is_valid:
            raise _invalid(text)
        return name

    @property
    def is_valid(self) -> bool:
        """Whether every part keeps to its length and its characters."""
        return all(rule.fullmatch(getattr(self, part)) for part, rule in _PARTS.items())

    @property
    def is_hub(self) -> bool:
        """Whether the Hugging Face hub holds it, its tag picking the quantisation."""
        return self.host.lower() in HUB_HOSTS

    @property
    def shown(self) -> str:
        """As Ollama shows it: the usual host and namespace hidden, the tag always there."""
        if self.host.lower() != HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace.lower() != NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def full(self) -> str:
        """With every part, as in `registry.ollama.ai/library/llama3:latest`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """Equal for names that mean the same model."""
        return self.full.lower()

    def plain_http(self) -> Self:
        """The same name, its registry reached without TLS."""
        return replace(self, scheme="http")


def _invalid(text: str) -> InvalidName:
    return InvalidName(
        f"invalid model name: {text!r}", "Write it like llama3.2:3b or host/namespace/model:tag."
    )
