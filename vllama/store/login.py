"""How this user is known to registries: Ollama's key, or what Docker has noted for a host."""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from vllama.settings import Settings
from vllama.store.errors import TransferFailed

# Ollama's registry asks another host of Ollama's who somebody is. For any other pair a signature
# would give one registry the right to act at another as this user.
_SIGNS_FOR = {"registry.ollama.ai": "ollama.com"}
_EMPTY = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()


@dataclass(frozen=True, slots=True)
class Login:
    """Where keys and passwords of this user lie; neither need be there."""

    key: Path
    docker: Path

    @classmethod
    def of(cls, settings: Settings) -> "Login":
        """Those of the user whose environment this is."""
        user = Path(settings.environment.get("HOME") or Path.home())
        docker = settings.environment.get("DOCKER_CONFIG")
        return cls(
            key=user / ".ollama" / "id_ed25519",
            docker=Path(docker or user / ".docker") / "config.json",
        )

    def password(self, host: str) -> str:
        """The `Authorization` for a registry that Docker has a password of; empty without one."""
        try:
            entry = json.loads(self.docker.read_text("utf-8"))["auths"][host]["auth"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        return f"Basic {entry}" if isinstance(entry, str) and entry.isascii() else ""

    def signature(self, url: str, host: str) -> str:
        """The `Authorization` for asking `url` for a token of the registry `host`.

        Empty where there is no key, or where the registry may not ask for it to be used.

        Raises:
            TransferFailed: the key cannot be read.
        """
        realm = urlsplit(url).netloc
        if not self.key.exists() or realm not in (host, _SIGNS_FOR.get(host)):
            return ""
        key: Any = _read(self.key)
        from cryptography.hazmat.primitives import serialization as form

        public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
        signed = base64.b64encode(key.sign(f"GET,{url},{_EMPTY}".encode())).decode()
        return f"{public.split()[1].decode()}:{signed}"


def question(realm: str, asked: Mapping[str, str], now_s: float) -> str:
    """The address at which a token is asked for, never the same twice."""
    parts = urlsplit(realm)
    values = parse_qsl(parts.query, keep_blank_values=True)
    values += [("service", asked["service"])] if asked.get("service") else []
    values += [("scope", scope) for scope in asked.get("scope", "").split()]
    values += [("ts", str(int(now_s))), ("nonce", secrets.token_urlsafe(16))]
    # Sorted, as the other side does before it checks the signature.
    return urlunsplit(parts._replace(query=urlencode(sorted(values, key=lambda v: v[0]))))


def _read(path: Path) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise TransferFailed(f"{path}: {error}", 401, "`ollama signin` makes a new key.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise TransferFailed(f"{path} is no ed25519 key", 401, "`ollama signin` makes one.")
    return key
