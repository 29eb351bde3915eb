"""The command ``headwise``: one verb per task, and one line for every mistake that a user can make.

A verb is a module with ``declare(parser)``, which adds its arguments, and ``run(arguments)``, which does it and
returns the exit code. Only the module of the verb that was said is loaded. argparse stays: Typer, Cyclopts and Tyro
make options of functions or dataclasses, but import what they describe, here torch, before they can show any help.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

USER_ERROR = 2
BROKEN_PIPE = 141
"""128 and the number of SIGPIPE, as for other programs whose reader has gone."""


class Verb(NamedTuple):
    """One verb of the command.

    Args:
        summary: one line for ``--help``.
        module: has ``declare(parser)`` and ``run(arguments) -> exit code``.
    """

    summary: str
    module: str


VERBS = {
    "train": Verb("train a network by a recipe", "headwise.commands.train"),
    "recipes": Verb("list the recipes", "headwise.commands.recipes"),
    "check": Verb("look at data of your own before training: exit code 0, 1 for warnings", "headwise.commands.check"),
    "predict": Verb("find objects on pictures: JSON, and overlays as PNG", "headwise.commands.predict"),
    "audit": Verb(
        "find what trains wrongly in any training code (exit code 0: nothing, 1: findings)", "headwise.commands.audit"
    ),
    "run": Verb("run any training script, unchanged, and keep its books", "headwise.commands.run"),
    "suggest": Verb("tell the weights that would give each term of a run its share", "headwise.commands.suggest"),
    "alerts": Verb(
        "say what goes wrong in a run, and since when: exit code 0, 1 for alerts", "headwise.commands.alerts"
    ),
    "compare": Verb("say which term departs first between runs, and write a page", "headwise.commands.compare"),
    "live": Verb("show runs while they train: a page on this machine alone", "headwise.commands.live"),
    "report": Verb("write the report of a run: one HTML page, and PNG files", "headwise.commands.report"),
}
"""The verbs, in the order of ``--help``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        The exit code: 0; 2 for a mistake, told in one line on standard error; 130 or 143 after Ctrl-C or SIGTERM; 141
        where nobody reads the output any more.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = Parser(prog="headwise", description="Every head its own loss, and one set of books.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    verbs.type = str  # takes all words of a verb, whose own arguments say which may be empty
    said = next((word for word in words if word in VERBS), None)
    if said in ("train", "predict"):
        # Before torch is loaded: threads that wait asleep. Where other processes share the cores, threads that wait
        # awake make a step many times slower (docs/scaling.md).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name, verb in VERBS.items():
        own = verbs.add_parser(name, help=verb.summary, description=f"{verb.summary[0].upper()}{verb.summary[1:]}.")
        if name == said:
            module, chosen = import_module(verb.module), own
            module.declare(own)
    parsed, unknown = parser.parse_known_args(words)
    if unknown:
        chosen.refuse(unknown[0])
    return _told(lambda: module.run(parsed))


def _told(run: Any) -> int:
    """Run a verb; tell whatever it raises in one line."""
    try:
        with _one_line_warnings():
            code: int = run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("headwise: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError as error:
        if error.filename is None:
            _drop_output()
            return BROKEN_PIPE
        return _tell(error)
    except Exception as error:
        return _tell(error)
    return code


class Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, conflict_handler="resolve")
        for store in (None, "store"):
            self.register("action", store, _Once)
        for kind in (None, Path):
            self.register("type", kind, partial(_given, _path if kind is Path else str))

    def error(self, message: str) -> NoReturn:
        """Write the mistake and where to look, and leave."""
        self.exit(USER_ERROR, f"headwise: error: {message}; see {self.prog} --help\n")

    def refuse(self, word: str) -> NoReturn:
        """Say that a word is not known, and which option it is near."""
        known = [option for action in self._actions for option in action.option_strings]
        near = get_close_matches(word.partition("=")[0], known, 1)
        self.error(f"unrecognized argument {word}{f', did you mean {near[0]}' if near else ''}")


class _Once(argparse.Action):
    """Stores a value, and refuses none and another one of the same option: argparse takes the last, in silence."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given = vars(namespace).setdefault("given_options", {})
        if option is not None and self.dest in given and given[self.dest] != values:
            parser.error(f"{option}: given twice, as {given[self.dest]} and {values}, keep one")
        given[self.dest] = values
        setattr(namespace, self.dest, values)


def _given(kind: Callable[[str], Any], word: str) -> Any:
    """Read a word; a shell's variable that is not set leaves none: without --data a recipe trains on what it ships."""
    if not word:
        raise argparse.ArgumentTypeError("nothing is given")
    return kind(word)


def _path(word: str) -> Path:
    """Read a place; of ``--out=~/runs`` no shell knows that it begins with one."""
    return Path(os.path.expanduser(word))


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"headwise {version('headwise')}")
        parser.exit()


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Show a warning as the command's own line, not as a place in a source file."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, category, *rest: (
        f"headwise: warning: {_joined(str(message))}\n"
        if issubclass(category, UserWarning)
        else before(message, category, *rest)
    )
    try:
        yield
    finally:
        warnings.formatwarning = before


def _drop_output() -> None:
    """Write to nowhere from here on, so that Python does not complain at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_OWN_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)
"""What Headwise raises for a user to read; any other is told with its class and place."""


def _tell(error: Exception) -> int:
    """Write an error as one line."""
    text = _one_line(error)
    if not isinstance(error, _OWN_ERRORS):
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"
    if os.environ.get("HEADWISE_TRACEBACK"):
        traceback.print_exception(error)
    print(f"headwise: error: {text}", file=sys.stderr)
    return USER_ERROR


def _one_line(error: Exception) -> str:
    """Return the message in one line; of an error inside a loading process, the message behind its traceback."""
    if isinstance(error, OSError) and error.filename is not None:
        name = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
        return f"{name}: {error.strerror}. Check the path and its permissions."
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "in DataLoader worker process" in lines[0]:
        return lines[-1].partition(": ")[2] or lines[-1]
    return _joined("\n".join(lines))


def _joined(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines())
