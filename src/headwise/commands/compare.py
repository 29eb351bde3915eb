"""``headwise compare``: what differs between runs, and since when."""

from __future__ import annotations

import argparse
from pathlib import Path

from headwise.commands.remarks import tell_remarks


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments.

    Args:
        parser: of the verb.
    """
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of two or more runs")
    parser.add_argument("--out", type=Path, metavar="PAGE", help="the page (default: report/compare.html, first run)")
    parser.add_argument("--tolerance", type=float, default=1e-4, metavar="X",
                        help="numbers differ that are more than X times the larger apart (default: 1e-4)")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Tell what differs, and write the page.

    Args:
        arguments: as declared.

    Returns:
        The exit code.
    """
    from headwise.report.compare import told, write_comparison
    from headwise.report.page.page import refuse_other_page
    from headwise.runs.comparing import compare
    from headwise.runs.reading import read_run

    runs = [read_run(folder) for folder in arguments.runs]
    tell_remarks(*runs)
    comparison = compare(runs, arguments.tolerance)
    path = arguments.out or runs[0].folder / "report" / "compare.html"
    refuse_other_page(path)
    print(told(comparison))
    print(f"\nThe page is at {write_comparison(runs, comparison, path)}")
    return 0
