"""From a checkpoint and pictures to files of what was found, for every recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headwise.files import write_atomically
from headwise.recipes import RECIPES
from headwise.recipes.coco_results import ImageIds, write_results
from headwise.recipes.configuration import Configuration
from headwise.recipes.places import INDEX, RESULTS, PlannedPicture, plan_places
from headwise.recipes.run import PictureFile, Prediction, Recipe
from headwise.recipes.start import find_checkpoint
from headwise.training.folder.checkpoints import load_checkpoint
from headwise.whole import check_whole

Done = Callable[[Path | None, int], None]
Failed = dict[Path, str]

_TOLD = 50
"""Pictures that an error lists; the index of the results lists all."""


def load_network(checkpoint: str | Path) -> tuple[nn.Module, Recipe[Any], Configuration]:
    """Build the network of a checkpoint.

    Args:
        checkpoint: a checkpoint of any recipe, or the folder of a run, whose newest is taken.

    Returns:
        The network in evaluation mode, its recipe, and the configuration that it was trained with.

    Raises:
        ValueError: the file is truncated, no checkpoint, incomplete, or of an unknown recipe.
        FileNotFoundError: there is no such file.
    """
    path = find_checkpoint(checkpoint)
    state = load_checkpoint(path)
    recipe = RECIPES.get(str(state.get("recipe")))
    if recipe is None:
        known = ", ".join(RECIPES)
        raise ValueError(f"{path}: recipe {state.get('recipe')!r} is not known. Use a checkpoint of: {known}.")
    for key in ("arguments", "network"):
        if not isinstance(state.get(key), Mapping):
            raise ValueError(f"{path}: no {key!r} in this checkpoint. Use one that `headwise train` wrote.")
    configuration = recipe.read_configuration(state["arguments"], str(path))
    network = recipe.make_network(configuration, False)
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:120]
        raise ValueError(
            f"{path}: the weights do not fit the network of its arguments ({reason}). Use another checkpoint."
        ) from None
    return network.eval(), recipe, configuration


def predict(
    checkpoint: str | Path,
    images: Iterable[str | Path],
    out: str | Path,
    *,
    annotations: str | Path | None = None,
    batch_size: int = 1,
    threshold: float | None = None,
    device: str = "auto",
    done: Done = lambda path, total: None,
) -> list[Path]:
    """Write what a network finds on pictures: ``<picture>.json``, and an overlay ``<picture>.png``, for each.

    A picture that cannot be read stops nothing: it is named at the end. Each is decoded once, by threads, while the
    network reads others.
    Detectors also write ``coco_results.json``, the list that COCO's evaluations take; ``index.json`` says which
    picture has which number in it, and why others could not be read.

    Args:
        checkpoint: as in `load_network`.
        images: files, folders and patterns such as ``"shots/*.jpg"``.
        out: folder; created if missing.
        annotations: a COCO file whose ``images`` give the pictures their numbers, by file name, and whose
            ``categories`` give the classes theirs, by name; without it, pictures are numbered from 1. Other pictures of
            the same names are told by their sizes, and by what they show where the file's own are found.
        batch_size: pictures that are decoded together; and read together, where they come to one size for the
            network. CornerNet-Saccade reads each alone: what it looks at next depends on what it found.
        threshold: least score of what is written and drawn; None for the recipe's own.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        done: called with the JSON file of each picture, or None for one that could not be read, and how many pictures
            there are.

    Returns:
        The JSON files, in the order of the pictures.

    Raises:
        ValueError: the checkpoint or an argument cannot be used, the annotations are of other pictures, or a result
            would replace a picture, another result or a file that no earlier prediction wrote.
        OSError: there is no such picture, or a result cannot be written; or, when all others are done, pictures could
            not be read.
    """
    check_whole("predict", batch_size=batch_size)
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, but a score is from 0 to 1.")
    network, recipe, configuration = load_network(checkpoint)
    folder = Path(out)
    places = plan_places(images, folder, (".json", *recipe.endings))
    ids = ImageIds([place.path for place in places], annotations, configuration)
    network.to(_device(device))
    written: list[Path] = []
    failed: Failed = {}
    lines: list[bytes] = []
    _write_index(folder, checkpoint, places, failed, ids)
    try:
        for pictures in _decoded(places, batch_size, failed, done):
            seen = [PictureFile(place.path, image) for place, image in pictures]
            predictions = recipe.predict(network, configuration, seen, threshold)
            for (place, _), prediction in zip(pictures, predictions, strict=True):
                lines.append(ids.lines(place.path, prediction.boxes))
                written.append(_write_prediction(folder / place.name, prediction))
                done(written[-1], len(places))
    finally:
        if ids.categories:
            write_results(folder / RESULTS, lines)
        _write_index(folder, checkpoint, places, failed, ids)
    if failed:
        told = "; ".join(list(failed.values())[:_TOLD]) + ("; ..." if len(failed) > _TOLD else "")
        raise OSError(f"{len(failed)} of {len(places)} pictures could not be read: {told}")
    return written


def _decoded(
    places: Sequence[PlannedPicture], size: int, failed: Failed, done: Done
) -> Iterator[list[tuple[PlannedPicture, Any]]]:
    """Decode pictures by threads, some batches ahead; note those that cannot be."""
    from headwise.data import load_picture

    groups = [places[start : start + size] for start in range(0, len(places), size)]
    with ThreadPoolExecutor() as pool:
        waiting = [[pool.submit(load_picture, place.path) for place in group] for group in groups[:_AHEAD]]
        for number, group in enumerate(groups):
            pictures = []
            for place, task in zip(group, waiting.pop(0), strict=True):
                try:
                    pictures.append((place, task.result()))
                except Exception as error:  # whatever a decoder raises is about this file
                    text = " ".join(str(error).split())
                    failed[place.path] = text if str(place.path) in text else f"{place.path}: {text}"
                    done(None, len(places))
            if number + _AHEAD < len(groups):
                waiting.append([pool.submit(load_picture, place.path) for place in groups[number + _AHEAD]])
            if pictures:
                yield pictures


_AHEAD = 4
"""Batches that are decoded before they are read."""


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used ({reason}). Take auto or cpu.") from None
    return device


def _write_prediction(path: Path, prediction: Prediction) -> Path:
    """Write a picture's files; return the JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for ending, content in prediction.files.items():
        write_atomically(path.with_name(f"{path.name}{ending}"), content)
    record = path.with_name(f"{path.name}.json")
    write_atomically(record, json.dumps(prediction.record, indent=1).encode() + b"\n")
    return record


def _write_index(
    folder: Path, checkpoint: str | Path, places: Sequence[PlannedPicture], failed: Failed, ids: ImageIds
) -> None:
    """Write which picture has which files; at the start too, so that files of an ended prediction are known as ours."""
    content = {
        "checkpoint": str(checkpoint),
        "files": sorted({INDEX, RESULTS, *(name for place in places for name in place.files)}),
        "images": [{"id": ids.of(place.path), "file": str(place.path), "name": place.name} for place in places],
        "failed": {str(path): reason for path, reason in failed.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / INDEX, json.dumps(content, indent=1).encode() + b"\n")
