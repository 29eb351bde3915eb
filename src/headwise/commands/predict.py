"""``headwise predict``: what a trained network finds on pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from headwise.require import require


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments.

    Args:
        parser: of the verb.
    """
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or a run: its newest")
    parser.add_argument("images", nargs="+", type=Path, metavar="image", help="pictures")
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), metavar="DIR", help="where results go (default: predictions)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Predict.

    Args:
        arguments: as declared.

    Returns:
        The exit code.
    """
    require("headwise predict", "data")
    from headwise.recipes.prediction import predict

    for path in predict(arguments.checkpoint, arguments.images, arguments.out):
        print(f"{path} {path.with_suffix('.png')}")
    return 0
