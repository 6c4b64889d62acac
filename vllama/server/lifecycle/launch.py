"""From a name to a plan: the saved profile, those it falls back on, then the engine's defaults."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vllama import engines, shelf
from vllama.engines import sleep
from vllama.engines.attached import Attached
from vllama.engines.engine import Engine
from vllama.errors import EngineMissing, ProfileBroken, ProfileMismatch, ProfileNotFound
from vllama.machine import Gpu, Machine
from vllama.model import Model
from vllama.profile import Profile
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.plan import Plan, Start
from vllama.server.lifecycle.room import need_bytes
from vllama.settings import Settings
from vllama.shelf import Shelf
from vllama.store import names

log = logging.getLogger(__name__)
BEST = "best"


class Launcher:
    """Chooses engines and profiles. `wanted` is an engine's name or `auto`.

    `profile` names one on the shelf or is a file; `force` takes those of other machines.
    `sleeps` starts engines so that they can be put to sleep, where they can.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        settings: Settings,
        machine: Machine,
        *,
        profile: str = BEST,
        wanted: str = "auto",
        force: bool = False,
        replicas: int = 1,
        sleeps: bool = False,
    ) -> None:
        self._catalogue = catalogue
        self._settings = settings
        self._machine = machine
        self._profile = profile
        self._wanted = wanted
        self._force = force
        self._replicas = replicas
        self._sleeps = sleeps
        self._shelf = Shelf(settings.home / "profiles")
        self._told: dict[str, tuple[str, str]] = {}

    def key(self, name: str) -> str:
        """The one name for all names of a model."""
        return self._catalogue.key(name)

    def plan(self, key: str) -> Plan:
        """How to bring up the model `key`.

        Raises:
            ModelNotFound, ModelBroken: from the store.
            EngineMissing: nothing here can serve it.
            ProfileMismatch: the profile that was asked for was made for another machine.
        """
        urls = self._catalogue.urls(key)
        if urls:
            return Plan((), others=tuple(self._attach(key, url) for url in urls))
        model = names.resolve(key, self._settings)
        starts = tuple(self._starts(model))
        if self._sleeps:
            starts = _able_to_sleep(starts, self._machine)
        need = need_bytes(model, starts[0].profile, self._machine)
        return Plan(starts, replicas=_devices(self._replicas, self._machine), need_bytes=need)

    def saved(self, model: Model) -> Profile | None:
        """The profile that was asked for; None when only the engine's defaults are left.

        Raises:
            ProfileMismatch, ProfileBroken, ProfileNotFound: it cannot be used.
        """
        path = Path(self._profile)
        if path.suffix == ".json" or path.exists():
            found = replace(shelf.load(path), model=model.name)
        else:
            try:
                found = self._shelf.get(model.name, self._profile)
            except ProfileNotFound:
                if self._profile != BEST:
                    raise
                return None
        if self._wanted not in ("auto", found.engine):
            return None
        self._check(found)
        return found

    def _check(self, profile: Profile) -> None:
        here = self._machine.fingerprint
        if profile.machine and profile.machine != here and not self._force:
            raise ProfileMismatch(
                f"profile '{profile.name}' was made on {profile.machine}, this is {here}",
                "Tune here (vllama tune), or use it all the same with --force.",
            )

    def _starts(self, model: Model) -> Iterator[Start]:
        saved = self.saved(model)
        if saved is not None:
            engine = engines.engine(saved.engine, self._settings)
            if self._tell(model.name, f"profile '{saved.name}' on {saved.engine}", saved.digest):
                _warn_if_outdated(saved, engine)
            yield Start(engine, saved)
            for safer in self._safer(saved):
                yield Start(engine, safer)
            wanted = saved.engine
        else:
            wanted = self._wanted
        choice = engines.choose(model, self._machine, self._settings, wanted)
        if saved is None:
            remedy = f"tune it: vllama tune {model.name}"
            said = f"no saved profile, so the defaults of {choice.reason} ({remedy})"
            self._tell(model.name, said)
        yield Start(choice.engine, choice.engine.default(model, self._machine))

    def _tell(self, name: str, how: str, digest: str = "") -> bool:
        """Say how a model is launched, unless that is what was said of it last."""
        is_news = self._told.get(name) != (how, digest)
        if is_news:
            self._told[name] = (how, digest)
            log.info("%s: %s", name, how)
        return is_news

    def _safer(self, saved: Profile) -> Iterator[Profile]:
        """Its fall-back order: names on the shelf, or options outright."""
        for each in saved.provenance.get("fallback", ()):
            if isinstance(each, Mapping):
                yield replace(saved, name=f"{saved.name} (safer)", options=dict(each))
            elif isinstance(each, str):
                try:
                    yield self._shelf.get(saved.model, each)
                except (ProfileNotFound, ProfileBroken):
                    log.warning("%s: its fall-back profile '%s' is missing", saved.model, each)

    def _attach(self, key: str, url: str) -> Start:
        return Start(Attached(url), Profile(name="attached", engine="attached", model=key))


def _warn_if_outdated(profile: Profile, engine: Engine) -> None:
    """It may still be the best, but nobody has measured that."""
    with suppress(EngineMissing):
        here = engine.version()
        if profile.is_outdated_by(here):
            log.warning(
                "%s: profile '%s' was made with %s %s, and this is %s: "
                "its gain is not sure any more (tune again: vllama tune %s)",
                profile.model, profile.name, profile.engine, profile.engine_version, here,
                profile.model,
            )  # fmt: skip


def _able_to_sleep(starts: tuple[Start, ...], machine: Machine) -> tuple[Start, ...]:
    """The first one as one that can sleep; next it comes as it is, should that not start.

    Where the accelerator's memory is the host's, nothing would be gained.
    """
    first = starts[0]
    profile = first.profile
    if not machine.gpus or any(gpu.shares_memory for gpu in machine.gpus):
        return starts
    if sleep.OPTION in profile.options or sleep.OPTION not in first.engine.accepts():
        return starts
    able = Start(first.engine, profile.with_options(**{sleep.OPTION: True}))
    awake = Start(first.engine, replace(profile, name=f"{profile.name} (without sleep mode)"))
    return (able, awake, *starts[1:])


def _devices(replicas: int, machine: Machine) -> tuple[Mapping[str, str], ...]:
    if replicas <= 1:
        return ({},)
    count = len(machine.gpus)
    return tuple(_only(machine.gpus[i % count]) if count else {} for i in range(replicas))


def _only(gpu: Gpu) -> Mapping[str, str]:
    """What makes one card, and no other, visible to an engine."""
    word = gpu.uuid if gpu.is_slice else str(gpu.index)
    names = {
        "nvidia": ("CUDA_VISIBLE_DEVICES",),
        # vLLM on ROCm insists that both say the same where both are set.
        "amd": ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    }
    return dict.fromkeys(names.get(gpu.vendor, ()), word)
