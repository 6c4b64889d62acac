"""A store on Windows: names that its file system does not take, and files that would get out."""

import shutil
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest

from tests.store.shelves import put_blob
from vllama.errors import ModelBroken
from vllama.settings import Settings
from vllama.store import catalogue, changes, commit, layout, manifest, materialise
from vllama.store.manifest import Layer, Manifest, media_type
from vllama.store.reference import Name

NAMES = (
    "localhost:5000/x/y:z", "CON:latest", "nul.x/aux/com1:lpt9", "prn.tar:v1.", "plain:7b",
    "console:nulls",
)  # fmt: skip


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Windows")


def raw(settings: Settings, toy: Path) -> bytes:
    """A manifest whose blobs are here."""
    root = settings.home / "models"
    model = Layer(media_type("model"), *put_blob(root, (toy / "toy-q8_0.gguf").read_bytes()))
    config = Layer(manifest.CONFIG_TYPE, *put_blob(root, b"{}"))
    return Manifest(config, (model,)).raw()


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("text", NAMES)
def test_every_name_is_a_path_that_windows_takes(text: str, settings: Settings, toy: Path) -> None:
    name = Name.parse(text)
    commit.save(name, raw(settings, toy), settings)
    [(found, path)] = layout.ours(settings).names()
    assert found == name
    inside = path.relative_to(settings.home)
    assert not PureWindowsPath(str(inside)).drive
    for part in inside.parts:
        assert not set(part) & set('<>:"\\|?*')
        assert not part.endswith((".", " "))
        assert part.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("text", NAMES)
def test_such_a_model_is_found_shown_copied_and_removed(
    text: str, settings: Settings, toy: Path
) -> None:
    commit.save(Name.parse(text), raw(settings, toy), settings)
    shown = Name.parse(text).shown
    assert catalogue.card(text.upper(), settings).name == shown
    changes.copy(text, "localhost:5000/me/copy", settings)
    changes.delete(text.swapcase(), settings)
    assert [c.name for c in catalogue.cards(settings)] == ["localhost:5000/me/copy:latest"]


def test_elsewhere_names_are_written_as_ollama_writes_them(settings: Settings) -> None:
    path = layout.ours(settings).manifest(Name.parse("localhost:5000/x/con:z."))
    assert path.parts[-4:] == ("localhost:5000", "x", "con", "z.")


@pytest.mark.parametrize(
    "name", ["C:/x", "c:x", "a:stream", "..\\x", "/x", "../x", "a/../../x", ""]
)
def test_a_file_of_a_model_stays_in_its_folder(name: str) -> None:
    with pytest.raises(ModelBroken, match="would leave its folder"):
        materialise.safe_name(name)


READ = """
import sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module=r"vllama\\.")
from vllama.settings import Settings
from vllama.store import catalogue, details, templates
card = catalogue.card(sys.argv[1], Settings.from_environment({"VLLAMA_HOME": sys.argv[2]}))
details.modelfile(card), details.model_info(card)
text = templates.render(card, [{"role": "user", "content": "Hi"}])
sys.stdout.buffer.write(text.encode())
"""


def test_a_models_files_are_utf_8_whatever_the_system_writes(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy, folder, ignore=shutil.ignore_patterns("*.gguf"))
    template = "{% for m in messages %}<｜User｜>{{ m.content }}{% endfor %}<｜Assistant｜>"
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", READ, str(folder), str(tmp_path)],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == "<｜User｜>Hi<｜Assistant｜>"
