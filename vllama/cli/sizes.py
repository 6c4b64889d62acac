"""Sizes in bytes, as people write them on the command line."""

import argparse
import re

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT]?)(?:I?B)?", re.IGNORECASE)


def size(text: str) -> int:
    """`500`, `64K`, `64KiB`, `1.5G`: units of 1024, at least one byte.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    value = int(float(found[1]) * 1024 ** _UNITS[found[2].upper()]) if found else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, such as 64M or 1G")
    return value
