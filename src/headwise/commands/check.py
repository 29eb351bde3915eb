"""``headwise check``: what is wrong with data of one's own, before any training on them."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any, NamedTuple

MARK = "headwise_check.json"
"""In a folder of drawn pictures: says that it is ours, and what was found."""

_LISTED = 10  # broken pictures, and classes, that are named


class _Inspected(NamedTuple):
    """A split, and what was found of it."""

    name: str
    data: Any
    inspection: Any


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments.

    Args:
        parser: of the verb.
    """
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the recipe's format, or one file of COCO's")
    parser.add_argument("--recipe", required=True, metavar="NAME", help="for which the data are; see headwise recipes")
    parser.add_argument("--train", metavar="SPLIT", help="the training split: its name, or its file")
    parser.add_argument("--held-out", metavar="SPLIT", help="the held-out split: its name, or its file")
    parser.add_argument(
        "--out", type=Path, default=Path("checked"), metavar="DIR", help="where pictures are drawn (default: checked)"
    )
    parser.add_argument(
        "--pictures", type=int, default=6, metavar="N", help="drawn of each split (default: 6; 0: none)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Check.

    Args:
        arguments: as declared.

    Returns:
        The exit code: 0 if all is well, 1 if something is to be looked at, 2 if no training would begin.
    """
    from headwise.commands.train import find_recipe
    from headwise.data.checks.inspection import inspect
    from headwise.data.checks.oddities import Oddity
    from headwise.data.checks.splits import compare, judge
    from headwise.recipes.own_data import show_progress

    given = {"data": str(arguments.data), "train_split": arguments.train, "held_out_split": arguments.held_out}
    recipe = find_recipe(arguments.recipe)
    configuration = recipe.configure("full", {name: value for name, value in given.items() if value is not None})
    if arguments.pictures < 0:
        raise ValueError(f"--pictures is at least 0, found {arguments.pictures}.")
    if arguments.pictures:
        _check_folder(arguments.out)
    splits = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for name in _names(arguments, configuration):
            data = configuration.read_split(name)
            splits.append(_Inspected(name, data, inspect(data, show_progress)))
    told = [Oddity(str(each.message)) for each in warned]
    told += [each for split in splits for each in judge(split.data, split.inspection)]
    if len(splits) > 1:
        told += compare(splits[0].data, splits[1].data, splits[0].inspection, splits[1].inspection)
    for split in splits:
        _print_split(split)
    for oddity in told:
        print(f"{'error' if oddity.hopeless else 'warning'}: {oddity.text}")
    if arguments.pictures:
        _draw(arguments.out, splits, arguments.pictures, [oddity.text for oddity in told])
    broken = any(len(split.inspection.usable) < len(split.data) for split in splits)
    if broken or any(oddity.hopeless for oddity in told):
        return 2
    return 1 if told else 0


def _names(arguments: argparse.Namespace, configuration: Any) -> tuple[str, ...]:
    """Name the splits to look at: both, or the one of a file of COCO's that is given alone."""
    from headwise.recipes.boxes.configuration import BoxConfiguration

    is_alone = arguments.train is None and arguments.held_out is None and arguments.data.is_file()
    if is_alone and isinstance(configuration, BoxConfiguration):
        return (str(arguments.data),)
    splits: tuple[str, str] = configuration.name_splits()
    return splits


def _print_split(split: _Inspected) -> None:
    """Say how many pictures there are, how large, and which cannot be used."""
    sizes = [look.size for look in split.inspection.looks]
    span = f", {min(sizes)[1]} x {min(sizes)[0]} to {max(sizes)[1]} x {max(sizes)[0]} pixels" if sizes else ""
    print(f"{split.name}: {len(split.data)} pictures{span}{_objects(split.data)}")
    broken = [each for each in split.inspection.found if hasattr(each, "message")]
    for failure in broken[:_LISTED]:
        print(f"error: {failure.message}")
    if len(broken) > _LISTED:
        print(f"error: {len(broken) - _LISTED} more pictures of {split.name} cannot be used")


def _objects(data: Any) -> str:
    """Say how many objects there are of which classes, where there are classes."""
    from headwise.attribution.text import names

    counts = data.objects_by_class()
    if not counts:
        return ""
    found = [f"{count} {name}" for (_, name), count in sorted(counts.items(), key=lambda each: -each[1]) if count]
    none = [name for (_, name), count in counts.items() if not count]
    if not found:
        return ", no object"
    unseen = f"; none of: {names(none, _LISTED)}" if none else ""
    without = f"; {data.num_empty} pictures without" if data.num_empty else ""
    return f", {sum(counts.values())} objects: {names(found, _LISTED)}{unseen}{without}"


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds what is not ours."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARK).is_file())):
        raise FileExistsError(
            f"{folder}: there is something else already. Name a new folder for the pictures with --out."
        )


def _draw(folder: Path, splits: list[_Inspected], number: int, told: list[str]) -> None:
    """Draw some pictures of each split, spread over it."""
    import json

    from headwise.data.annotated import draw_annotation

    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(json.dumps({"told": told}, indent=1) + "\n", encoding="utf-8")
    for role, split in zip(("train", "held_out"), splits, strict=False):  # one file has one split
        usable = split.inspection.usable
        for place, index in enumerate(usable[:: max(len(usable) // number, 1)][:number]):
            drawn = draw_annotation(split.data[index], getattr(split.data, "class_names", ()))
            drawn.save(folder / f"{role}_{place:03d}.png")
    print(f"Drawn pictures are in {folder}")
