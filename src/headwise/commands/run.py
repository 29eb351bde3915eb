"""``headwise run``: any training script, unchanged, with its books."""

from __future__ import annotations

import argparse
import itertools
import linecache
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwise.attribution.ledger.books import Books
    from headwise.attribution.run.places import CallSite, StepTable
    from headwise.attribution.run.script import ScriptBooks
    from headwise.runs.run import Run

_HERE = str(Path(__file__).parents[1]) + os.sep

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
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder of the run (default: a new one, runs/<script>)")
    every = "book the first step in which a place in the code calls backward, and every N-th after it (default: 20)"
    parser.add_argument("--every", type=int, default=20, metavar="N", help=every)
    parser.add_argument("--steps", type=int, metavar="N", help="end the script after N steps of its optimizers")
    parser.add_argument(
        "-m", dest="module", type=str, nargs=argparse.REMAINDER, metavar="MODULE", help="run a module, as python -m"
    )
    parser.add_argument("script", nargs="?", help="the script, as for python")
    own = "the script's own arguments"
    parser.add_argument("arguments", type=str, nargs=argparse.REMAINDER, metavar="ARGS", help=own)


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
    config = {"script": target, "arguments": rest, "every": arguments.every}
    writer = _Writer(_folder(arguments.out, target), config) if _is_first() else None
    books = ScriptBooks(arguments.every, arguments.steps, writer.write if writer is not None else lambda *_: None)
    stopped = False
    code = 1
    with books:
        try:
            code = execute(target, rest, is_module=arguments.module is not None)
        except KeyboardInterrupt:
            stopped = True
    if writer is not None:
        written = writer.close()
        sys.stdout.flush()
        print(_told(books, writer.folder if written else None))
    if stopped:
        interrupted()
    return code


class _Writer:
    """Writes what was booked into the folder of a run, which is made with the first line."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self._config = config
        self._run: Run | None = None

    def write(self, step: int, books: Books) -> None:
        """Write one line."""
        from headwise.runs.run import Run

        if self._run is None:
            self._run = Run(self.folder, every=1, alerts=None, config=self._config)
        self._run.log(step, books)

    def close(self) -> bool:
        """Close the files; whether there are any."""
        if self._run is not None:
            self._run.close()
        return self._run is not None


def _plain_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of the script as Python shows it, not in the form of this command, and where the script called."""
    if filename.startswith(_HERE):
        from headwise.attribution.apart.naming.frames import callers

        told = [frame for frame in callers() if frame.f_code.co_filename != warnings.__file__]
        filename, lineno = (told[0].f_code.co_filename, told[0].f_lineno) if told else (filename, lineno)
    code = (linecache.getline(filename, lineno) if line is None else line).strip()
    return f"{filename}:{lineno}: {category.__name__}: {message}\n" + (f"  {code}\n" if code else "")


def _folder(given: Path | None, target: str) -> Path:
    """The folder that was asked for, or a fresh one of the script's name.

    Raises:
        ValueError: something is in the folder that was asked for.
    """
    first = Path(given or Path("runs") / (Path(target).stem if target.endswith(".py") else target))
    # Where torchrun starts the processes again, what they wrote before stays.
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if given is not None and not again and first.exists() and (not first.is_dir() or any(first.iterdir())):
        raise ValueError(f"--out {given}: something is there already. Give a new folder")
    numbered = (first if number == 1 else first.with_name(f"{first.name}-{number}") for number in itertools.count(1))
    return next(folder for folder in numbered if not folder.is_dir() or not any(folder.iterdir()))


def _is_first() -> bool:
    """Whether this is the process that writes, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _together(sites: Iterable[CallSite]) -> list[list[CallSite]]:
    """The places, those of one table together."""
    found: dict[int, list[CallSite]] = {}
    for site in sites:
        found.setdefault(id(site if site.table is None else site.table), []).append(site)
    return list(found.values())


def _passes(site: CallSite) -> str:
    passes = "1 pass" if site.passes == 1 else f"{site.passes} passes"
    return f"{site.name}: {passes}, {site.booked} booked"


def _which(table: StepTable | None, sites: Sequence[CallSite]) -> str:
    """Which of the passes a table shows."""
    passes = sum(site.passes for site in sites)
    if table is None or passes == 1:
        return ""
    if len(table.parts) == 1:
        return "; the last of these"
    if table.overtaken:
        return "; those of one step, of each loss the last"
    return f"; the {len(table.parts)} of one step" + ("" if passes == len(table.parts) else ", the last")


def _told(books: ScriptBooks, folder: Path | None) -> str:
    """What is printed at the end: a table a place, and what the first passes showed."""
    lines = [""]
    for sites in _together(books.sites.values()):
        table = sites[0].table
        lines += [
            f"headwise: {'backward' if not number else 'and'} in {_passes(site)}" for number, site in enumerate(sites)
        ]
        lines[-1] += f"{_which(table, sites)}:"
        lines.append(str(table.books) if table is not None else "(no pass could be booked)")
    if not books.sites:
        lines.append(
            "headwise: the script called backward nowhere in this process: gradients by torch.autograd.grad or "
            "torch.func, inside of torch.compile, and those of other processes, have no books"
        )
    lines += [f"note: {line}" for line in books.told()]
    if folder is not None:
        lines.append(f"headwise: the run is in {folder}; its page: headwise report {folder}")
    return "\n".join(lines)
