"""A profile made with another release of its engine is used, and the log says what that means."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from vllama import engines
from vllama.machine import Machine
from vllama.profile import Profile
from vllama.server.catalogue import Catalogue
from vllama.server.launch import Launcher
from vllama.settings import Settings
from vllama.shelf import Shelf
from vllama.store import names


def test_a_profile_is_outdated_by_another_release_and_not_by_a_repair_of_its_own() -> None:
    profile = Profile("best", "vllm", "m", engine_version="0.32.0")
    assert not profile.is_outdated_by("0.32.1")
    assert profile.is_outdated_by("0.33.0")
    assert not profile.is_outdated_by("")
    assert not replace(profile, engine_version="").is_outdated_by("0.33.0")


@pytest.mark.parametrize("is_old", [True, False])
def test_serve_says_that_a_profile_of_another_release_should_be_tuned_again(
    is_old: bool, settings: Settings, machine: Machine, toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = str(toy / "toy-f16.gguf")
    model = names.resolve(file, settings)
    version = engines.engine("llamacpp", settings).version()
    made = "xllamacpp 1.2.3" if is_old else version
    Shelf(settings.home / "profiles").put(
        Profile("best", "llamacpp", model.name, {}, {}, made, machine.fingerprint)
    )
    with caplog.at_level(logging.WARNING):
        plan = Launcher(Catalogue(), settings, machine).plan(file)
    assert plan.starts[0].profile.name == "best"
    assert (f"tune again: vllama tune {model.name}" in caplog.text) is is_old
