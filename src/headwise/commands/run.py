"""``headwise run``: any training script, unchanged, with its books."""

from __future__ import annotations

import argparse
import itertools
import json
import linecache
import math
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from headwise.attribution.run.script import Booked, ScriptBooks

EXAMPLE = """\
examples:
  headwise run --every 50 train.py --epochs 3
  headwise run --out runs/mine -m package.train
  torchrun --nproc-per-node 2 -m headwise run train.py
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments.

    Args:
        parser: of the verb.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLE
    parser.add_argument("--out", metavar="RUN", help="folder of the run (default: a new one, runs/<script>)")
    every = "book the first backward pass of each place in the code, and every N-th after it (default: 20)"
    parser.add_argument("--every", type=int, default=20, metavar="N", help=every)
    parser.add_argument("--steps", type=int, metavar="N", help="end the script after N steps of its optimizers")
    parser.add_argument(
        "-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module, as python -m"
    )
    parser.add_argument("script", nargs="?", help="the script, as for python")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS", help="the script's own arguments")


def run(arguments: argparse.Namespace) -> int:
    """Run the script, and tell its books.

    Args:
        arguments: as declared.

    Returns:
        The script's exit code.

    Raises:
        ValueError: there is no script, or a number is below 1.
    """
    for name in ("every", "steps"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            raise ValueError(f"--{name} is at least 1; found {number}")
    target, *rest = arguments.module or [arguments.script, *arguments.arguments]
    if target is None:
        raise ValueError("run: no script is given. Give its path, or -m and a module: headwise run train.py")
    from headwise.attribution.run.execute import execute, interrupted
    from headwise.attribution.run.script import ScriptBooks

    warnings.formatwarning = _plain_warning
    writer = _Writer(_folder(arguments.out, target)) if _is_first() else None
    books = ScriptBooks(arguments.every, arguments.steps, writer.write if writer is not None else lambda booked: None)
    stopped = False
    code = 1
    with books:
        try:
            code = execute(target, rest, is_module=arguments.module is not None)
        except KeyboardInterrupt:
            stopped = True
    if writer is not None:
        writer.close()
        sys.stdout.flush()
        print(_told(books, writer.folder))
    if stopped:
        interrupted()
    return code


class _Writer:
    """Writes the books of every pass that was booked into the folder of the run, a line of JSON each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: TextIO | None = None

    def write(self, booked: Booked) -> None:
        """Write one line."""
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = (self.folder / "log.jsonl").open("a", encoding="utf-8")
        terms = {name: asdict(term) for name, term in booked.books.items()}
        entry = {"step": booked.step, "site": booked.site.name, "total": booked.books.total, "terms": terms}
        self._file.write(json.dumps(_strict(entry), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _strict(value: Any) -> Any:
    """JSON has no word for what is not finite: it is written as text."""
    if isinstance(value, Mapping):
        return {str(key): _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _plain_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of the script as Python shows it, not in the form of this command."""
    code = (linecache.getline(filename, lineno) if line is None else line).strip()
    return f"{filename}:{lineno}: {category.__name__}: {message}\n" + (f"  {code}\n" if code else "")


def _folder(given: str | None, target: str) -> Path:
    """The folder that was asked for, or a fresh one of the script's name."""
    if given is not None:
        return Path(given)
    name = Path(target).stem if target.endswith(".py") else target
    numbered = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(folder for folder in numbered if not folder.exists())


def _is_first() -> bool:
    """Whether this is the process that writes, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _told(books: ScriptBooks, folder: Path) -> str:
    """What is printed at the end: a table a place, and what the first passes showed."""
    lines = [""]
    for site in books.sites.values():
        lines.append(
            f"headwise: backward in {site.name}: {site.passes} passes, {site.booked} booked; the last of these:"
        )
        lines.append(str(site.books) if site.books is not None else "(no pass could be booked)")
    if not books.sites:
        lines.append("headwise: the script called backward nowhere")
    lines += [f"note: {line}" for line in books.told()]
    if any(site.booked for site in books.sites.values()):
        lines.append(f"headwise: the books are in {folder / 'log.jsonl'}")
    return "\n".join(lines)
