"""``headwise live``: runs while they train, in a browser of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments.

    Args:
        parser: of the verb.
    """
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, begun or about to")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="on 127.0.0.1 (default: any that is free)")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C.

    Args:
        arguments: as declared.

    Returns:
        The exit code.

    Raises:
        ValueError: a path is a file, or the port is no port.
    """
    from headwise.report.live import serve

    for folder in arguments.runs:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"live: {folder} is a file. Give the folder of a run")
    if not 0 <= arguments.port < 2**16:
        raise ValueError(f"live: --port is from 0 to 65535, found {arguments.port}")
    serve(arguments.runs, arguments.port, lambda url: print(f"Live at {url} (Ctrl-C ends it)", flush=True))
    print("\nStopped.")
    return 0
