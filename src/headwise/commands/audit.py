"""``headwise audit``: what trains wrongly in any training code."""

from __future__ import annotations

import argparse
from pathlib import Path


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments.

    Args:
        parser: of the verb.
    """
    parser.add_argument("target", metavar="TARGET", help="module:function or file.py:function that returns a subject")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the findings as one HTML page")
    parser.add_argument("--strict", action="store_true", help="notes set the exit code too")


def run(arguments: argparse.Namespace) -> int:
    """Audit, and show what was found.

    Args:
        arguments: as declared.

    Returns:
        The exit code: 0 for nothing, 1 for findings.
    """
    from headwise.attribution.audit import audit_target
    from headwise.files import refuse_to_replace, write_atomically
    from headwise.report.audit import write_audit
    from headwise.report.page.page import refuse_other_page

    if arguments.json is not None:
        refuse_to_replace(arguments.json, "{", "audit in JSON")
    if arguments.html is not None:
        refuse_other_page(arguments.html)
    report = audit_target(arguments.target, strict=arguments.strict)
    if arguments.json is not None:
        write_atomically(arguments.json, (report.to_json() + "\n").encode())
    if arguments.html is not None:
        write_audit(report, arguments.html, arguments.target)
    print(report)
    return report.exit_code
