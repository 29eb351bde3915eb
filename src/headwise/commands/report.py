"""``headwise report``: the page of a run."""

from __future__ import annotations

import argparse
from pathlib import Path


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments.

    Args:
        parser: of the verb.
    """
    parser.add_argument("run", type=Path, help="folder of a run")


def run(arguments: argparse.Namespace) -> int:
    """Write the page.

    Args:
        arguments: as declared.

    Returns:
        The exit code.
    """
    from headwise.report import write_report

    print(f"The report is at {write_report(arguments.run)}")
    return 0
