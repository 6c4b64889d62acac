"""A profile made with another release of its engine is used, and the log says what that means."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from vllama import engines
from vllama.machine import Machine
from vllama.profile import Profile
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.launch import Launcher
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
        launcher = Launcher(Catalogue(), settings, machine)
        for _ in range(2):
            assert launcher.plan(file).starts[0].profile.name == "best"
    assert caplog.text.count(f"tune again: vllama tune {model.name}") == int(is_old)


@pytest.mark.parametrize(
    ("made_with", "is_for", "here", "is_outdated"),
    [
        ("0.32.0", "", "0.32.1rc2+cpu", False),
        ("0.32.0", ">=0.31,<0.34", "0.33.2", False),
        ("0.32.0", ">=0.31,<0.34", "0.34.0", True),
        ("0.32.0", ">=0.31,<0.34", "0.30.9", True),
        ("llama-server 6543", "", "llama-server 6543", False),
        ("llama-server 6543", "", "llama-server 6544", True),
        ("xllamacpp 2026.10.11549", "", "xllamacpp 2026.10.2", False),
        ("xllamacpp 2026.10.11549", "", "xllamacpp 2026.11.1", True),
        ("xllamacpp 2026.10.11549", "", "llama-server 6543", True),
        ("xllamacpp 2026.10.11549", "xllamacpp >=2026.9, <2027", "xllamacpp 2026.11.1", False),
        ("", "", "0.32.0", False),
    ],
)
def test_a_profile_is_for_the_versions_that_it_says(
    made_with: str, is_for: str, here: str, is_outdated: bool
) -> None:
    provenance = {"engine_versions": is_for} if is_for else {}
    profile = Profile("best", "vllm", "m", engine_version=made_with, provenance=provenance)
    assert profile.is_outdated_by(here) is is_outdated
