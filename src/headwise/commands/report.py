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
    parser.add_argument("--no-png", action="store_true", help="the page alone, in a tenth of the time")


def run(arguments: argparse.Namespace) -> int:
    """Write the page.

    Args:
        arguments: as declared.

    Returns:
        The exit code.
    """
    from headwise.report import write_report

    print(f"The report is at {write_report(arguments.run, png=not arguments.no_png)}")
    return 0
