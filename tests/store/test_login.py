"""Who must say who they are, does: with Ollama's key, with a password, and to nobody else."""

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.store import registries
from tests.store.registries import Registry
from vllama.settings import Settings
from vllama.store import changes, transfers
from vllama.store.errors import TransferFailed
from vllama.store.login import Login, question


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registries.running() as state:
        state.put("library/tiny:latest", [("license", b"MIT")])
        yield state


@pytest.fixture
def user(settings: Settings, tmp_path: Path) -> Settings:
    """A user with a home of their own, in which nothing lies yet."""
    return replace(settings, environment={**settings.environment, "HOME": str(tmp_path / "user")})


def new_key(user: Settings) -> bytes:
    """Make the user a key where Ollama keeps it; its public half."""
    key, path = Ed25519PrivateKey.generate(), Login.of(user).key
    path.parent.mkdir(parents=True, exist_ok=True)
    secret = form.PrivateFormat.OpenSSH
    path.write_bytes(key.private_bytes(form.Encoding.PEM, secret, form.NoEncryption()))
    return key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)


def note_password(user: Settings, host: str, password: str) -> None:
    path = Login.of(user).docker
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"auth": b64encode(password.encode()).decode()}
    path.write_text(json.dumps({"auths": {host: entry}}))


async def pulled(registry: Registry, user: Settings) -> str:
    name = f"{registry.host}/library/tiny:latest"
    return str([s["status"] async for s in transfers.pull(name, user, insecure=True)][-1])


async def test_a_key_of_ollamas_signs_for_a_token(registry: Registry, user: Settings) -> None:
    registry.token, registry.public_key = "secret", new_key(user)
    assert await pulled(registry, user) == "success"
    name = f"{registry.host}/me/pushed:v1"
    changes.copy(f"{registry.host}/library/tiny:latest", name, user)
    told = [s["status"] async for s in transfers.push(name, user, insecure=True)]
    assert told[-1] == "success"


async def test_another_key_gets_no_token(registry: Registry, user: Settings) -> None:
    registry.token, registry.public_key = "secret", new_key(user)
    new_key(user)
    with pytest.raises(TransferFailed, match="401") as caught:
        await pulled(registry, user)
    assert "ollama signin" in caught.value.remedy


async def test_a_key_that_is_none_is_named(registry: Registry, user: Settings) -> None:
    registry.token, registry.public_key = "secret", new_key(user)
    Login.of(user).key.write_text("no key")
    with pytest.raises(TransferFailed, match="id_ed25519"):
        await pulled(registry, user)


async def test_without_a_key_a_token_is_asked_for_all_the_same(
    registry: Registry, user: Settings
) -> None:
    registry.token = "secret"
    assert await pulled(registry, user) == "success"
    assert registry.realm_asked == [""]


async def test_one_registry_cannot_have_a_token_of_another_signed_for(
    registry: Registry, user: Settings
) -> None:
    registry.token = "secret"
    with registries.running() as other:
        other.token, other.public_key = "secret", new_key(user)
        registry.realm = f"http://{other.host}/token"
        with pytest.raises(TransferFailed, match="401"):
            await pulled(registry, user)
        assert other.realm_asked == [""]


@pytest.mark.parametrize("token", ["", "secret"])
async def test_a_password_of_docker_opens_a_registry(
    token: str, registry: Registry, user: Settings
) -> None:
    registry.token, registry.password = token, "me:pass"
    with pytest.raises(TransferFailed, match="401"):
        await pulled(registry, user)
    note_password(user, registry.host, "me:wrong")
    with pytest.raises(TransferFailed, match="401"):
        await pulled(registry, user)
    note_password(user, registry.host, "me:pass")
    assert await pulled(registry, user) == "success"


def test_ollamas_registry_may_send_to_ollama(user: Settings) -> None:
    new_key(user)
    login = Login.of(user)
    assert login.signature("https://ollama.com/token?ts=1", "registry.ollama.ai")
    assert not login.signature("https://ollama.com/token?ts=1", "evil.example")
    assert not login.signature("https://ollama.com.evil.example/token", "registry.ollama.ai")


def test_a_question_is_sorted_and_never_the_same_twice() -> None:
    asked = {"service": "s", "scope": "a:b:pull a:b:push"}
    one, two = (question("https://h/token?x=1", asked, 7.9) for _ in range(2))
    assert one != two
    assert "scope=a%3Ab%3Apull&scope=a%3Ab%3Apush&service=s&ts=7&x=1" in one
