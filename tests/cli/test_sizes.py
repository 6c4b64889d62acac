"""Sizes on the command line."""

import argparse

import pytest

from vllama.cli.sizes import size


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("500", 500), ("64K", 65_536), ("64 KiB", 65_536), ("1.5g", 1_610_612_736), ("2MB", 2**21)],
)
def test_a_size_may_have_a_unit(text: str, bytes_: int) -> None:
    assert size(text) == bytes_


@pytest.mark.parametrize("text", ["", "0", "-1", "big", "5X", "0.1", "1 2"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no size"):
        size(text)
