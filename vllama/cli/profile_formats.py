"""A profile in the words of others: vLLM's config file, a command, a compose file, a unit."""

import json
import re
import shlex
from collections.abc import Callable, Mapping

from vllama.errors import UsageError
from vllama.profile import Profile, Scalar

_PORT = {"vllm": 8000, "llamacpp": 8080}


def as_json(profile: Profile) -> str:
    """What `import` reads."""
    return json.dumps(profile.to_json(), indent=2)


def as_vllm(profile: Profile) -> str:
    """vLLM's `--config` file: YAML, of which JSON values are a part."""
    _only_vllm(profile, "its --config file")
    lines = [*_comment(profile), *_unsaid(profile), f"model: {json.dumps(profile.model)}"]
    lines += [f"{_dashed(k)}: {_yaml(v)}" for k, v in profile.options.items()]
    return "\n".join(lines)


def as_command(profile: Profile) -> str:
    """One line for a shell, with the environment before it."""
    words = [f"{k}={shlex.quote(v)}" for k, v in profile.environment.items()]
    return " ".join([*words, shlex.join(command(profile))])


def as_environment(profile: Profile) -> str:
    """A file to be read by a shell, or as systemd's EnvironmentFile."""
    words = command(profile)[1:]
    found = {
        **profile.environment,
        "VLLAMA_MODEL": profile.model,
        "VLLAMA_ENGINE": profile.engine,
        "VLLAMA_ENGINE_ARGS": shlex.join(words[2:]),
    }
    return "\n".join(f"{k}={shlex.quote(v)}" for k, v in found.items())


def as_compose(profile: Profile) -> str:
    """A file for `docker compose up`."""
    port = _PORT[_engine(profile)]
    words = command(profile)[1:]
    # The images' entry points are the programs themselves.
    inside = words[1:] if profile.engine == "vllm" else words
    tag = f"v{profile.engine_version}" if profile.engine_version[:1].isdigit() else "latest"
    image = f"vllm/vllm-openai:{tag}" if profile.engine == "vllm" else "${LLAMA_SERVER_IMAGE:?}"
    lines = [
        *_comment(profile),
        "services:",
        "  model:",
        f"    image: {json.dumps(image)}",
        f"    command: {_literal([*inside, '--host', '0.0.0.0', '--port', str(port)])}",
        f'    ports: ["127.0.0.1:{port}:{port}"]',
        "    ipc: host",
        "    restart: unless-stopped",
    ]
    if profile.environment:
        lines.append("    environment:")
        lines += [f"      {k}: {_literal(v)}" for k, v in profile.environment.items()]
    volumes = ['"${HF_HOME:-~/.cache/huggingface}:/root/.cache/huggingface"']
    if profile.model.startswith("/"):
        volumes.append(json.dumps(f"{profile.model}:{profile.model}:ro"))
    lines.append(f"    volumes: [{', '.join(volumes)}]")
    if profile.machine and not profile.machine.startswith("cpu"):
        lines += [
            "    deploy:",
            "      resources:",
            "        reservations:",
            "          devices: [{driver: nvidia, count: all, capabilities: [gpu]}]",
        ]
    return "\n".join(lines)


def as_systemd(profile: Profile) -> str:
    """A unit of a service."""
    port = _PORT[_engine(profile)]
    words = [*command(profile), "--host", "127.0.0.1", "--port", str(port)]
    lines = [
        *_comment(profile),
        "[Unit]",
        f"Description={profile.model} served by {profile.engine}",
        "After=network-online.target",
        "Wants=network-online.target",
        "",
        "[Service]",
        *(f"Environment={_unit(f'{k}={v}')}" for k, v in profile.environment.items()),
        # Of the system, or of the environment that the engine is installed in.
        f"ExecStart=/usr/bin/env {' '.join(map(_unit, words))}",
        "Restart=on-failure",
        # Engines have processes of their own, which must not outlive them.
        "KillMode=control-group",
        "TimeoutStopSec=30",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines)


FORMATS: Mapping[str, Callable[[Profile], str]] = {
    "json": as_json,
    "vllm": as_vllm,
    "command": as_command,
    "env": as_environment,
    "compose": as_compose,
    "systemd": as_systemd,
}


def command(profile: Profile) -> list[str]:
    """The words that launch the engine itself, without vllama.

    Raises:
        UsageError: its engine is not one that is launched.
    """
    if _engine(profile) == "llamacpp":
        from vllama.engines import llamacpp_options

        flags = llamacpp_options.flags(profile.options)
        return ["llama-server", "--model", profile.model, *flags]
    words = ["vllm", "serve", profile.model]
    for name, value in profile.options.items():
        words += _flag(name, value)
    return words


def _engine(profile: Profile) -> str:
    if profile.engine not in _PORT:
        raise UsageError(f"a profile of '{profile.engine}' launches nothing that could be exported")
    return profile.engine


def _only_vllm(profile: Profile, what: str) -> None:
    if profile.engine != "vllm":
        raise UsageError(
            f"'{profile.name}' is a profile of {profile.engine}, and {what} is vLLM's",
            "Export it with --format command, compose, systemd or json.",
        )


def _flag(name: str, value: Scalar) -> list[str]:
    if value is True:
        return [f"--{_dashed(name)}"]
    if value is False:
        return [f"--no-{_dashed(name)}"]
    return [f"--{_dashed(name)}", str(value)]


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _yaml(value: Scalar) -> str:
    """Numbers and truths as they are; a text that holds JSON as the map that it is."""
    if isinstance(value, str) and value[:1] in "{[":
        return value
    return json.dumps(value)


def _literal(value: str | list[str]) -> str:
    """As compose reads it: a single dollar would begin a variable."""
    return json.dumps(value).replace("$", "$$")


def _comment(profile: Profile) -> list[str]:
    made = f" on {profile.machine}" if profile.machine else ""
    version = f" {profile.engine_version}" if profile.engine_version else ""
    return [f"# vllama profile {profile.name}: {profile.engine}{version}, tuned{made}"]


def _unsaid(profile: Profile) -> list[str]:
    """The environment, which vLLM's file has no place for."""
    words = [f"{k}={shlex.quote(v)}" for k, v in profile.environment.items()]
    return [f"# It is for this environment: {' '.join(words)}"] if words else []


def _unit(word: str) -> str:
    """A word as systemd reads it: quoted where it must be, `%` and `$` doubled."""
    safe = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w@%+=:,./-]+", safe):
        return safe
    escaped = safe.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
