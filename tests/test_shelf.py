"""Profiles keep what they were given, and a fault leaves the old one whole."""

import errno
import json
import os
from pathlib import Path

import pytest

from vllama.errors import ProfileBroken, ProfileNotFound, StorageError
from vllama.profile import Profile
from vllama.shelf import Shelf, load

BEST = Profile("best", "vllm", "org/model", {"max_num_seqs": 8}, {"A": "1"}, "0.32", "cpu-2c")


def test_a_saved_profile_is_read_back_equal(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put(BEST)
    assert shelf.get("org/model", "best") == BEST
    assert shelf.names("org/model") == ["best"]


def test_the_digest_is_over_what_changes_the_launch_and_nothing_else() -> None:
    renamed = Profile("other", "vllm", "org/model", {"max_num_seqs": 8}, {"A": "1"})
    assert renamed.digest == BEST.digest
    assert BEST.with_options(max_num_seqs=9).digest != BEST.digest


def test_models_whose_names_differ_only_in_signs_have_shelves_of_their_own(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    paths = {shelf.path(m, "best") for m in ("a/b", "a:b", "a_b", "a%2fb", "../b", "A/b")}
    assert len(paths) == 6
    assert all(p.parent.parent == tmp_path for p in paths)


def test_a_missing_profile_names_those_there_are(tmp_path: Path) -> None:
    Shelf(tmp_path).put(BEST)
    with pytest.raises(ProfileNotFound, match="best"):
        Shelf(tmp_path).get("org/model", "bets")
    with pytest.raises(ProfileNotFound, match="vllama tune org/other"):
        Shelf(tmp_path).get("org/other", "best")


@pytest.mark.parametrize("name", ["../best", "", "a/b", ".hidden", "x" * 81])
def test_a_name_that_is_no_plain_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProfileBroken, match="no name for a profile"):
        Shelf(tmp_path).path("m", name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "JSON object"),
        ('{"format": 2}', "format 2"),
        ('{"format": 1, "name": "a", "engine": "b"}', "'model'"),
        ('{"format": 1, "name": "a", "engine": "b", "model": "c", "options": []}', "'options'"),
        ('{"format":1,"name":"a","engine":"b","model":"c","options":{"x":[]}}', "'x'"),
    ],
)
def test_a_broken_file_is_named_with_its_fault(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(ProfileBroken) as caught:
        load(path)
    assert str(path) in caught.value.message
    assert reason in caught.value.message


def test_a_full_disk_leaves_the_old_profile_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path)
    path = shelf.put(BEST)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        shelf.put(BEST.with_options(max_num_seqs=9))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["best.json"]


def test_walking_the_shelf_gives_the_broken_ones_too(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put(BEST)
    shelf.path("org/model", "bad").write_text("{")
    kinds = {path.stem: type(found) for path, found in shelf}
    assert kinds == {"best": Profile, "bad": ProfileBroken}


def test_a_profile_file_is_plain_json_that_people_can_read(tmp_path: Path) -> None:
    text = Shelf(tmp_path).put(BEST).read_text()
    assert json.loads(text)["options"] == {"max_num_seqs": 8}
    assert text.count("\n") > 10
