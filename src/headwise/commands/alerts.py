"""``headwise alerts``: what goes wrong in a run, and since when."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from headwise.commands.remarks import tell_remarks


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments.

    Args:
        parser: of the verb.
    """
    parser.add_argument("run", type=Path, help="folder of a run, finished, killed or under way")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, in place of sentences")


def run(arguments: argparse.Namespace) -> int:
    """Judge all logged steps of the run.

    Args:
        arguments: as declared.

    Returns:
        The exit code: 0 for none, 1 for alerts.
    """
    from headwise.runs.alerts import replay
    from headwise.runs.reading import read_run

    recorded = read_run(arguments.run)
    tell_remarks(recorded)
    alerts = replay(recorded)
    for alert in alerts:
        print(json.dumps(asdict(alert)) if arguments.json else alert)
    if not alerts and not arguments.json:
        num = len(recorded.log.steps)
        print(f"No alert in {num:,} logged step{'' if num == 1 else 's'}." if num else "No step is logged yet.")
    return 1 if alerts else 0
