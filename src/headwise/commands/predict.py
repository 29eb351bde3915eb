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
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="image", help="pictures, folders of pictures, or patterns in quotes"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), metavar="DIR", help="where results go (default: predictions)"
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO file that gives pictures and classes their numbers in coco_results.json",
    )
    parser.add_argument("--threshold", type=float, metavar="SCORE", help="least score of what is written and drawn")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="pictures read together (default: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")


def run(arguments: argparse.Namespace) -> int:
    """Predict.

    Args:
        arguments: as declared.

    Returns:
        The exit code.
    """
    require("headwise predict", "data")
    from headwise.commands.meter import Meter
    from headwise.recipes.prediction import predict

    with Meter("pictures") as meter:

        def done(path: Path | None, total: int) -> None:
            meter.advance(total)
            if path is not None:
                print(f"{path} {path.with_suffix('.png')}")

        predict(
            arguments.checkpoint,
            arguments.images,
            arguments.out,
            annotations=arguments.annotations,
            batch_size=arguments.batch_size,
            threshold=arguments.threshold,
            device=arguments.device,
            done=done,
        )
    return 0
