"""Models as requests name them: valid or not, here or not, and what their cards say."""

import asyncio
import time

from vllama.errors import ModelBroken, ModelNotFound, UsageError
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.relay.refusal import Refusal
from vllama.settings import Settings
from vllama.store import catalogue as library
from vllama.store import names
from vllama.store.card import Card
from vllama.store.reference import Name

# Reading a card costs milliseconds; what changes on disk beside us is seen after this long.
FRESH_S = 3.0
# How many spellings of names are remembered.
_NAMES = 1000


class CloudDisabled(Refusal):
    """The name is that of a model in Ollama's cloud, and there is none here."""

    def __init__(self, what: str = "remote model is unavailable") -> None:
        super().__init__(403, f"ollama cloud is disabled: {what}")


class Models:
    """The cards of the models here, each read at most every few seconds."""

    def __init__(self, catalogue: Catalogue, settings: Settings) -> None:
        self._catalogue = catalogue
        self._settings = settings
        self._cards: dict[str, tuple[float, Card]] = {}
        self._keys: dict[str, str] = {}
        # What a model of the store was first called here: one engine serves all spellings.
        self._spelt: dict[str, str] = {}

    def key(self, name: str) -> str:
        """What to lease for a name; the same for all spellings whose `card` has been read.

        Raises:
            Refusal: it is no name; `invalid model name`.
        """
        known = self._keys.get(name)
        if known is not None:
            return known
        key = self._catalogue.key(_local(name))
        if not self._is_given(key):
            try:
                parsed = Name.parse(_local(name))
            except UsageError:
                raise Refusal(400, "invalid model name") from None
            if parsed.tag.lower() == "cloud" or parsed.tag.lower().endswith("-cloud"):
                raise CloudDisabled
        if len(self._keys) < _NAMES:
            self._keys[name] = key
        return key

    async def card(self, name: str) -> Card | None:
        """The card; None for a model that somebody else runs.

        Raises:
            Refusal: no valid name.
            ModelNotFound: not here; its `name` is as asked.
        """
        key = self.key(name)
        if key in self._catalogue.attached:
            return None
        known = self._cards.get(key)
        if known is not None and time.monotonic() - known[0] < FRESH_S:
            return known[1]
        try:
            card = await asyncio.to_thread(library.card, key, self._settings)
        except ModelBroken:
            raise
        except (ModelNotFound, UsageError):
            raise ModelNotFound(name) from None
        self._cards[key] = (time.monotonic(), card)
        if names.same(key, card.name) and name in self._keys:
            self._keys[name] = self._spelt.setdefault(card.name, key)
        return card

    async def to_embed(self, name: str) -> Card | None:
        """The card, or the error as the embedding routes word it."""
        if not name.strip():
            raise Refusal(404, f"model '{name}' not found")
        try:
            return await self.card(name)
        except ModelNotFound:
            raise Refusal(404, f'model "{name}" not found, try pulling it first') from None

    async def all(self) -> list[Card]:
        """The cards of all models here and of those named on the command line, newest first."""
        found = {c.name: c for c in await asyncio.to_thread(library.cards, self._settings)}
        for reference in self._catalogue.served:
            try:
                card = await self.card(reference)
            except (ModelNotFound, ModelBroken):
                continue
            if card is not None:
                found.setdefault(card.name, card)
        return sorted(found.values(), key=lambda c: c.modified_at, reverse=True)

    @property
    def attached(self) -> list[str]:
        """The names of the models that others run, as shown."""
        return [names.shown(name) for name in self._catalogue.attached]

    def forget(self) -> None:
        """Something changed on disk."""
        self._cards.clear()

    def _is_given(self, key: str) -> bool:
        return key in self._catalogue.attached or key in self._catalogue.served


def _local(name: str) -> str:
    """A name without the suffix that says where the model is to be found."""
    lower = name.lower()
    if lower.endswith((":cloud:local", ":local:cloud")):
        raise Refusal(400, f'use either :local or :cloud, not both: "{name}"')
    return name[: -len(":local")] if lower.endswith(":local") else name


def full(card: Card | None, name: str) -> str:
    """With host and namespace, as some of Ollama's errors say it."""
    try:
        return Name.parse(card.name if card is not None else name).full
    except UsageError:
        return name
