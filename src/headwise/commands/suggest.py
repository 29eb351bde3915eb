"""``headwise suggest``: the weights that would have given each term of a run its share of the gradient."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from headwise.commands.remarks import tell_remarks
from headwise.runs.columns import or_nan


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments.

    Args:
        parser: of the verb.
    """
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument(
        "--target",
        default="equal",
        metavar="SHARES",
        help="equal, or shares such as box=2,classification=1; of terms that are not named the weight stays",
    )
    parser.add_argument("--last", type=int, metavar="N", help="of the last N logged steps (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the suggestion.

    Args:
        arguments: as declared.

    Returns:
        The exit code.
    """
    from headwise.attribution.ledger.weighing.suggestion import Target, suggest
    from headwise.balance.said import read_shares
    from headwise.runs.reading import read_run

    if arguments.last is not None and arguments.last < 1:
        raise ValueError(f"--last is at least 1, found {arguments.last}.")
    recording = read_run(arguments.run)
    tell_remarks(recording)
    columns = {name: (recording.term(name, "weight"), recording.term(name, "grad_norm")) for name in recording.terms}
    steps = [
        {name: (or_nan(weights[row]), or_nan(norms[row])) for name, (weights, norms) in columns.items()}
        for row in range(len(recording.log.steps))
    ][-(arguments.last or 0) :]
    target: Target = "equal" if arguments.target == "equal" else read_shares(arguments.target)
    found = suggest(steps, target)
    print(json.dumps(found.as_dict(), indent=2) if arguments.json else found)
    return 0
