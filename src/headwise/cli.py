"""The command ``headwise``: one verb per task, and one line for every mistake that a user can make."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

USER_ERROR = 2
RECIPE_NAMES = (
    "textsnake",
    "cornernet",
    "cornernet_squeeze",
    "cornernet_saccade",
    "centernet",
    "retinanet",
    "ssd",
    "weighted_unet",
    "deep_supervision",
)
"""The keys of `headwise.recipes.RECIPES`, which is loaded only to train."""


@dataclass(frozen=True)
class Verb:
    """One verb of the command.

    Args:
        summary: one line for ``--help``.
        declare: adds the verb's arguments to its parser.
        run: does it; returns the exit code.
    """

    summary: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        The exit code: 0; 2 for a user's mistake, told in one line on standard error; 130 or 143 after Ctrl-C
        or SIGTERM.
    """
    parser = _Parser(prog="headwise", description="Every head its own loss, and one set of books.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for name, verb in VERBS.items():
        verb.declare(verbs.add_parser(name, help=verb.summary, description=verb.summary))
    parsed = parser.parse_args(arguments)
    try:
        return VERBS[parsed.verb].run(parsed)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"headwise: error: {_one_line(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("headwise: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Write the mistake and where to look, and leave."""
        self.exit(USER_ERROR, f"headwise: error: {message}; see {self.prog} --help\n")


def _one_line(error: Exception) -> str:
    """Return the message in one line; of an error inside a loading process, the message behind its traceback."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. Check the path and its permissions."
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "in DataLoader worker process" in lines[0]:
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(line.strip() for line in lines)


def _declare_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", choices=RECIPE_NAMES)
    parser.add_argument("--data", metavar="DIR", help="folder of the recipe's format; without it, embedded pictures")
    parser.add_argument("--out", metavar="RUN", help="folder of the run (default: runs/<recipe>)")
    parser.add_argument(
        "--size", choices=["tiny", "full"], help="minutes on two CPU cores, or the authors' (default: full with --data)"
    )
    parser.add_argument("--demo", action="store_const", dest="size", const="tiny", help="the same as --size tiny")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--seed", type=int, metavar="N", help="of everything random (default: 0)")
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps (default: the recipe's)")
    parser.add_argument(
        "--micro-batches", type=int, metavar="N", help="parts into which each process splits a step, to save memory"
    )
    parser.add_argument(
        "--precision",
        choices=["32-true", "bf16-mixed", "16-mixed"],
        help="autocast to half precision, fp16 with a GradScaler (default: 32-true)",
    )
    parser.add_argument(
        "--strategy", choices=["ddp", "fsdp2"], help="between the processes that torchrun started (default: ddp)"
    )


def _train(arguments: argparse.Namespace) -> int:
    from headwise.recipes import RECIPES

    outcome = RECIPES[arguments.recipe](
        arguments.data,
        out=arguments.out,
        size=arguments.size,
        seed=arguments.seed,
        steps=arguments.steps,
        resume=arguments.resume,
        micro_batches=arguments.micro_batches,
        strategy=arguments.strategy,
        precision=arguments.precision,
    )
    if outcome.signal is not None:
        return 128 + int(outcome.signal)
    if os.environ.get("RANK", "0") == "0":
        print(f"Trained {outcome.steps} steps into {outcome.folder}")
    return 0


def _declare_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or a run: its newest")
    parser.add_argument("images", nargs="+", type=Path, metavar="image")
    parser.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR")


def _predict(arguments: argparse.Namespace) -> int:
    from headwise.recipes.prediction import predict

    for path in predict(arguments.checkpoint, arguments.images, arguments.out):
        print(f"{path} {path.with_suffix('.png')}")
    return 0


def _declare_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="folder of a run")


def _report(arguments: argparse.Namespace) -> int:
    from headwise.report import write_report

    print(f"The report is at {write_report(arguments.run)}")
    return 0


def _declare_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="module:function or file.py:function that returns a subject")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the findings as one HTML page")
    parser.add_argument("--strict", action="store_true", help="notes set the exit code too")


def _audit(arguments: argparse.Namespace) -> int:
    from headwise.attribution.audit import audit_target
    from headwise.report.audit import write_audit
    from headwise.report.files import write_atomically

    report = audit_target(arguments.target, strict=arguments.strict)
    if arguments.json is not None:
        write_atomically(arguments.json, (report.to_json() + "\n").encode())
    if arguments.html is not None:
        write_audit(report, arguments.html, arguments.target)
    print(report)
    return report.exit_code


VERBS: dict[str, Verb] = {
    "train": Verb("train a network by a recipe", _declare_train, _train),
    "predict": Verb("find objects on pictures: JSON, and overlays as PNG", _declare_predict, _predict),
    "audit": Verb(
        "find what trains wrongly in any training code (exit code 0: nothing, 1: findings)", _declare_audit, _audit
    ),
    "report": Verb("write the report of a run: one HTML page, and PNG files", _declare_report, _report),
}
"""The verbs, in the order of ``--help``."""
