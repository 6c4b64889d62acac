"""`vllama toy-model DIR`: a tiny model to try things with."""

import argparse
import sys
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="the folder to make")
    parser.add_argument("--parameters", default="4M", help="how many, such as 4M or 500M (4M)")
    parser.add_argument("--pooling", choices=["mean"], help="make an embedding model")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (0)")


def run(args: argparse.Namespace) -> int:
    """Make the model; print its folder."""
    from vllama import toy

    made = toy.make(
        args.directory,
        parameters=toy.parse_parameters(args.parameters),
        seed=args.seed,
        pooling=args.pooling,
    )
    print(made)
    if not args.quiet:
        print(f"Try it: vllama tune {made}", file=sys.stderr)
    return 0
