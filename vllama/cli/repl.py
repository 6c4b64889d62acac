"""The conversation at a terminal: lines in, answers out, and the commands that begin with `/`."""

import sys
from collections.abc import Callable, Iterator

from vllama.cli.talk import Talk
from vllama.errors import VllamaError
from vllama.store.modelfile import ModelfileError, parameter

_HELP = """Available Commands:
  /set            Set session variables
  /show           Show model information
  /load <model>   Load a session or model
  /save <model>   Save your current session
  /clear          Clear session context
  /list           List the models that are here
  /bye            Exit
  /?, /help       Help for a command

Use \"\"\" to begin a multi-line message."""
_SETS = """Available Commands:
  /set parameter ...     Set a parameter
  /set system <string>   Set system message
  /set history           Enable history
  /set nohistory         Disable history
  /set format json       Enable JSON mode
  /set noformat          Disable formatting
  /set verbose           Show statistics after each answer
  /set quiet             Disable statistics
  /set think [level]     Enable thinking
  /set nothink           Disable thinking"""
_SHOWS = ("info", "license", "modelfile", "parameters", "system", "template")


def converse(talk: Talk) -> int:
    """Read and answer until the end of input or `/bye`; Ctrl-C stops an answer, not the talk."""
    try:
        for text in _messages():
            if text.startswith("/"):
                if not _command(talk, text):
                    return 0
                continue
            try:
                talk.ask(text)
            except KeyboardInterrupt:
                pass
            except VllamaError as error:
                print(f"Error: {error.message}", file=sys.stderr)
            print("\n")
    except KeyboardInterrupt:
        print("\nUse Ctrl + d or /bye to exit.", file=sys.stderr)
    return 0


def _messages() -> Iterator[str]:
    """What was typed; three quotes open and close a message of several lines."""
    try:
        import readline  # noqa: F401 (it gives input() its history and its keys)
    except ImportError:
        pass
    while True:
        try:
            line = input(">>> ")
            if line.startswith('"""'):
                line = line[3:]
                while not line.endswith('"""'):
                    line += "\n" + input("... ")
                line = line[:-3]
        except EOFError:
            print()
            return
        if line.strip():
            yield line.strip()


def _command(talk: Talk, text: str) -> bool:
    """Do what a line that begins with `/` says; whether the talk goes on."""
    word, _, rest = text.partition(" ")
    if word in ("/bye", "/exit"):
        return False
    action = _COMMANDS.get(word)
    if action is None:
        print(f"Unknown command '{word}'. Type /? for help")
        return True
    try:
        action(talk, rest.strip())
    except (VllamaError, ValueError) as error:
        print(f"Error: {error}")
    return True


def _set(talk: Talk, rest: str) -> None:
    word, _, value = rest.partition(" ")
    value = value.strip()
    if word == "parameter" and value:
        _set_parameter(talk, value)
    elif word == "system" and value:
        talk.system = value.strip('"')
        print("Set system message.")
    elif word in ("history", "nohistory"):
        talk.keeps_history = word == "history"
    elif word in ("verbose", "quiet"):
        talk.is_verbose = word == "verbose"
        print(f"Set '{word}' mode.")
    elif word == "format" and value == "json":
        talk.format = "json"
        print("Set format to 'json' mode.")
    elif word == "noformat":
        talk.format = None
        print("Disabled format.")
    elif word in ("think", "nothink"):
        talk.think = (value or True) if word == "think" else False
        print(f"Set '{word}' mode.")
    elif word in ("wordwrap", "nowordwrap"):
        print(f"Set '{word}' mode.")
    else:
        print(_SETS)


def _set_parameter(talk: Talk, text: str) -> None:
    name, *values = text.split()
    try:
        parsed = [parameter(name, value) for value in values]
    except ModelfileError as error:
        print(f"Couldn't set parameter: {error.message}")
        return
    if parsed:
        talk.options[name] = parsed if name == "stop" else parsed[0]
        print(f"Set parameter '{name}' to '{', '.join(values)}'")


def _show(talk: Talk, rest: str) -> None:
    if rest not in _SHOWS:
        print("Available Commands:\n" + "\n".join(f"  /show {part}" for part in _SHOWS))
        return
    told = talk.client.post("/api/show", {"model": talk.model})
    if rest == "info":
        from vllama.cli.show import sections

        print("\n\n".join(sections(told, verbose=False)))
    elif rest == "system" and talk.system:
        print(talk.system)
    else:
        missing = f"No {rest} was specified for this model."
        print(told.get(rest) or missing)


def _load(talk: Talk, rest: str) -> None:
    told = talk.client.post("/api/show", {"model": rest})
    talk.model, talk.messages = rest, list(told.get("messages") or ())
    print(f"Loading model '{rest}'")
    talk.load()


def _save(talk: Talk, rest: str) -> None:
    body = {"model": rest, "from": talk.model, "stream": False, "messages": talk.messages,
            "parameters": talk.options, "system": talk.system}  # fmt: skip
    talk.client.post("/api/create", {k: v for k, v in body.items() if v or k == "stream"})
    print(f"Created new model '{rest}'")


def _clear(talk: Talk, _: str) -> None:
    talk.messages = []
    print("Cleared session context")


def _list(talk: Talk, _: str) -> None:
    for model in talk.client.get("/api/tags").get("models") or ():
        print(model["name"])


def _help(_: Talk, rest: str) -> None:
    print({"set": _SETS, "/set": _SETS}.get(rest, _HELP))


_COMMANDS: dict[str, Callable[[Talk, str], None]] = {
    "/set": _set,
    "/show": _show,
    "/load": _load,
    "/save": _save,
    "/clear": _clear,
    "/list": _list,
    "/help": _help,
    "/?": _help,
}
