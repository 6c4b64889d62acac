"""The environment means to vllama what it means to Ollama and to the hub."""

import math
from pathlib import Path

import pytest

from vllama.errors import UsageError
from vllama.settings import Address, Settings


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://0.0.0.0:11434"),
        ("host:80", "http://host:80"),
        (":5000", "http://127.0.0.1:5000"),
        ("http://host", "http://host:80"),
        ("https://host", "https://host:443"),
        ("https://host:9/path", "https://host:9"),
        ("[::1]:7", "http://[::1]:7"),
        ("[::1]", "http://[::1]:11434"),
        ("host:99999", "http://host:11434"),
        (' "host:1" ', "http://host:1"),
    ],
)
def test_every_form_of_ollama_host_is_understood(text: str, url: str) -> None:
    assert Address.parse(text).url == url


@pytest.mark.parametrize(
    ("text", "keeps"), [("", False), ("0", False), ("false", False), ("1", True), ("yes", True)]
)
def test_blobs_are_kept_where_ollama_would_keep_them(text: str, keeps: bool) -> None:
    settings = Settings.from_environment({"HOME": "/home/me", "OLLAMA_NOPRUNE": text})
    assert settings.keeps_blobs is keeps


def test_defaults_are_ollamas() -> None:
    settings = Settings.from_environment({"HOME": "/home/me"})
    assert settings.home == Path("/home/me/.vllama")
    assert settings.keep_alive_s == 300
    assert settings.max_queue == 512
    assert settings.hub_cache == Path("/home/me/.cache/huggingface/hub")


def test_keep_alive_may_be_for_ever() -> None:
    settings = Settings.from_environment({"HOME": "/", "OLLAMA_KEEP_ALIVE": "-1"})
    assert settings.keep_alive_s == math.inf


@pytest.mark.parametrize(
    ("name", "text"), [("OLLAMA_KEEP_ALIVE", "soon"), ("OLLAMA_MAX_QUEUE", "many")]
)
def test_a_value_that_makes_no_sense_is_named(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=name):
        Settings.from_environment({"HOME": "/", name: text})
