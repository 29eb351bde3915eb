"""What a run left in its folder, read without judging it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headwise.files import parse_json
from headwise.runs.columns import first, last
from headwise.runs.entries import split_pair
from headwise.runs.log_reading import Column, Log, read_log
from headwise.tabular import Tabular

LOOP = "own"
"""What ``config.json`` says of a run that is not a recipe's."""


@dataclass(frozen=True)
class Recording(Tabular):
    """What a run left in its folder.

    Attributes:
        folder: where it is.
        config: config.json.
        log: log.jsonl.
        evaluation: evaluation.jsonl.
        samples: the files of the held-out pictures.
        remarks: what is missing or broken, in words.
    """

    folder: Path
    config: Mapping[str, Any]
    log: Log
    evaluation: Log
    samples: tuple[Path, ...]
    remarks: tuple[str, ...]

    @property
    def terms(self) -> list[str]:
        """The names of the terms: the configuration's, then any other that was logged."""
        told = self.config.get("terms")
        names = [name for name in told if isinstance(name, str)] if isinstance(told, list) else []
        return list(dict.fromkeys([*names, *self.log.names("terms")]))

    def table_rows(self) -> list[dict[str, Any]]:
        """A row per term: first and last value, its course, last share, gradient norm and its course."""
        rows = []
        for name in self.terms:
            value, norm, share = (self.term(name, each) for each in ("value", "grad_norm", "share"))
            rows.append({
                "term": name,
                "value, first": first(value),
                "value, last": last(value),
                "value": value,
                "share": last(share),
                "grad_norm": last(norm),
                "gradient norm": norm,
            })  # fmt: skip
        return rows

    def table_title(self) -> str:
        """The run's name, and how far it came."""
        return f"{self.name}, step {self.log.steps[-1]:,}" if self.log.steps else f"{self.name}, no step logged yet"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def term(self, name: str, quantity: str) -> Column:
        """A quantity of a term (value, weight, weighted, share, grad_norm, finite) at each logged step."""
        return self.log.column("terms", name, quantity)

    def pairs(self) -> dict[tuple[str, str], Column]:
        """Cosines between terms at each logged step, `None` where the two read no output in common."""
        found, terms = {}, set(self.terms)
        for key in self.log.names("cosine"):
            pair = split_pair(key, terms)
            if pair is not None:
                found[pair] = self.log.column("cosine", key)
        return found


class Holder(Protocol):
    """What knows what it has recorded: a `Run`."""

    def recorded(self) -> Recording:
        """What has been logged so far."""
        ...


Recorded = Recording | Holder | str | Path
"""What stands for a run wherever one is read."""


def as_recorded(who: str, run: Recorded) -> Recording:
    """What a run left, from whatever stands for it.

    Args:
        who: Who asks, for the message.
        run: A `Recording`, a `Run`, or a folder.

    Returns:
        What it left so far.

    Raises:
        ValueError: It is none of these, or the folder holds no run.
    """
    own = None if isinstance(run, type) else getattr(run, "recorded", None)
    found = own() if callable(own) else run
    if isinstance(found, str | Path):
        return read_run(Path(found))
    if isinstance(found, Recording):
        return found
    told = f"the class {run.__name__}" if isinstance(run, type) else type(run).__name__
    raise ValueError(f"{who}: takes a run (hw.Run), what it recorded, or its folder, found {told}. Give the run.")


def read_run(folder: Path, logs: tuple[Log, Log] | None = None) -> Recording:
    """Read a run folder.

    Args:
        folder: of a run, whoever trained.
        logs: of its steps and its evaluations, where a `LogReader` follows them.

    Returns:
        What is in it; parts that are missing or broken are named in its remarks.

    Raises:
        ValueError: there is no such folder, or no readable config.json in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no run folder {folder}. Give a run, as `headwise train` or hw.Run write it.")
    config = _read_config(folder / "config.json")
    log, evaluation = logs or (read_log(folder / "log.jsonl"), read_log(folder / "evaluation.jsonl"))
    samples = tuple(sorted((folder / "samples").glob("*.npz")))
    remarks = list(log.remarks)
    if config.get("loop") != LOOP or evaluation.steps:  # a loop of one's own need not evaluate
        remarks += evaluation.remarks
    if config.get("loop") != LOOP and not samples:
        remarks.append("No held-out pictures: samples/ holds no .npz file.")
    return Recording(folder, config, log, evaluation, samples, tuple(remarks))


def distinct_names(folders: Sequence[Path]) -> tuple[str, ...]:
    """What to call runs beside each other: their folders' names, with as much of the paths as makes them differ.

    Args:
        folders: of the runs; they need not exist.

    Returns:
        A name for each, no two the same.
    """
    paths = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(path[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(f"{path[-1]} ({number})" for number, path in enumerate(paths, start=1))


def _read_config(path: Path) -> Mapping[str, Any]:
    remedy = "Give the folder of a run, as `headwise train` or hw.Run write it; it holds config.json."
    if not path.is_file():
        raise ValueError(f"{path.parent} is not a run folder, it has no config.json. {remedy}")
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({_one_line(error)}). {remedy}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, not an object. {remedy}")
    return config


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
