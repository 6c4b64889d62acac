"""Which names this server answers to, and what each means. No name costs a look at the disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vllama.store import names

URLs = tuple[str, ...]
# Names are the client's to choose: no more are kept.
REMEMBERED = 1000


class Catalogue:
    """Names of models that were given on the command line, and of those that others run.

    Every other name is taken as the store knows it.
    """

    def __init__(
        self, served: Sequence[str] = (), attached: Mapping[str, URLs] | None = None
    ) -> None:
        self.served = tuple(served)
        self.attached = dict(attached or {})
        self._keys: dict[str, str] = {}

    def key(self, name: str) -> str:
        """The one name for all names of a model: a reference for the store, or an attached one."""
        found = self._keys.get(name)
        if found is None:
            found = self._look_up(name)
            if len(self._keys) < REMEMBERED:
                self._keys[name] = found
        return found

    def urls(self, key: str) -> URLs:
        """Where an attached model is run by somebody else; empty for one of ours."""
        return self.attached.get(key, ())

    def _look_up(self, name: str) -> str:
        for each in (*self.attached, *self.served):
            if names.same(name, each):
                return each
        # Only a name may be spelt in several ways; a path is what it is.
        return name if Path(name).is_absolute() else name.removesuffix(names.TAG)
