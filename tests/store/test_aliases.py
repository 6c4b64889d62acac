"""The alias table is well formed, and a user's own entries come first."""

import logging
import re

import pytest

from vllama.settings import Settings
from vllama.store import aliases, hub_cache
from vllama.store.reference import Name

FAMILIES = ("llama3.2", "llama3.1", "qwen3", "qwen2.5", "gemma3", "mistral", "phi4",
            "deepseek-r1", "gpt-oss", "all-minilm", "nomic-embed-text", "codellama")  # fmt: skip


def test_every_alias_is_an_ollama_name_and_a_repository() -> None:
    for name, repository in aliases.built_in().items():
        assert Name.parse(name).shown == name == name.lower()
        found = hub_cache.parse(repository)
        assert found is not None
        assert (found.id, found.quant, found.revision) == (repository, "", "main")
        assert repository.count("/") == 1


def test_every_family_has_a_default_that_is_one_of_its_sizes() -> None:
    table = aliases.built_in()
    families = {name.partition(":")[0] for name in table}
    assert len(families) >= 60
    assert set(FAMILIES) <= families
    for family in families:
        sizes = {t: r for n, r in table.items() for f, _, t in [n.partition(":")] if f == family}
        assert sizes.pop("latest") in sizes.values()


def test_the_size_in_a_name_is_the_size_of_its_repository() -> None:
    for name, repository in aliases.built_in().items():
        tag = re.fullmatch(r"(\d+(?:\.\d+)?)b", name.partition(":")[2])
        sizes = re.findall(r"(?<![\d.])(\d+(?:[._]\d+)?)[bB](?![a-z])", repository)
        if tag and sizes:
            assert tag[1] in [s.replace("_", ".") for s in sizes], f"{name} is {repository}"


def test_the_instruct_repository_is_the_original_of_a_chat_model() -> None:
    assert aliases.built_in()["llama3.2:3b"] == "meta-llama/Llama-3.2-3B-Instruct"
    assert aliases.built_in()["llama3.2:latest"] == "meta-llama/Llama-3.2-3B-Instruct"


def test_a_users_own_aliases_come_first(settings: Settings) -> None:
    settings.home.mkdir(parents=True)
    (settings.home / "aliases.json").write_text('{"Llama3.2:3B": "me/mine", "new": "me/new"}')
    table = aliases.table(settings)
    assert table["llama3.2:3b"] == "me/mine"
    assert table["new:latest"] == "me/new"
    assert table["llama3.2:1b"] == "meta-llama/Llama-3.2-1B-Instruct"


@pytest.mark.parametrize("text", ["{", "[1, 2]", '"x"'])
def test_a_broken_alias_file_is_left_out_and_named(
    text: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.home.mkdir(parents=True)
    (settings.home / "aliases.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert aliases.table(settings) == aliases.built_in()
    assert "aliases.json" in caplog.text
