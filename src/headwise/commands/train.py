"""``headwise train``: a network by a recipe, on embedded pictures or a folder of one's own."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from headwise.files import each_once
from headwise.require import require

if TYPE_CHECKING:
    from headwise.recipes import Recipe

OPTIONS = {
    "train": (("train_split",), "SPLIT", "the training split: its name, or its file (default: the usual one there)"),
    "held_out": (("held_out_split",), "SPLIT", "the held-out split: its name, or its file"),
    "seed": (("seed",), "N", "of everything random (default: 0)"),
    "steps": (("steps",), "N", "optimizer steps (default: the recipe's)"),
    "batch_size": (("batch_size",), "N", "pictures a step, over all processes; --lr does not follow it"),
    "lr": (("learning_rate",), "RATE", "the highest learning rate"),
    "image_size": (("image_size", "crop_size"), "PIXELS", "height and width of the training pictures"),
    "workers": (("num_workers",), "N", "processes that load pictures"),
    "device": (("device",), "DEVICE", "auto, cpu, cuda, cuda:1, mps"),
    "weights": (
        ("weights",),
        "RUN",
        "start from this run or checkpoint, with other classes too; DEFAULT: pre-trained weights; none: random ones",
    ),
    "freeze": (("freeze",), "NAMES", "what the names of parameters begin with that keep their values, with commas"),
    "balance": (
        ("balance_terms",),
        "SHARES",
        "let weights follow the gradients: equal, shares such as box=2,classification=1, grad_norm or uncertainty",
    ),
    "micro_batches": (("micro_batches",), "N", "parts into which each process splits a step, to save memory"),
    "precision": (("precision",), "KIND", "32-true, or bf16-mixed or 16-mixed for half precision (with a GradScaler)"),
    "strategy": (("strategy",), "KIND", "between the processes that torchrun started: ddp or fsdp2 (default: ddp)"),
}
"""Options of their own -> the fields that they set, the first that the recipe has; every field has ``--set``."""

FROM_DATA = frozenset({"class_names", "category_ids", "num_images"})
"""Fields that a run fills in when it starts, for its own data."""

EXAMPLE = """\
example:
  headwise train {name} --data FOLDER --out runs/mine --batch-size 4 --set log_every=10
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments.

    Args:
        parser: of the verb.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "recipe", help="its name; `headwise recipes` lists them, `headwise train NAME --help` its fields"
    )
    parser.add_argument("--data", metavar="DIR", help="folder of the recipe's format; without it, embedded pictures")
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder of the run (default: runs/<recipe>)")
    parser.add_argument(
        "--size", choices=["tiny", "full"], help="minutes on two CPU cores, or the authors' (default: full with --data)"
    )
    parser.add_argument("--demo", action="store_const", dest="size", const="tiny", help="the same as --size tiny")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, with its own arguments")
    for name, (_, metavar, text) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a field of the recipe's configuration"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="fields from a file: YAML, JSON, or the config.json of a run"
    )
    parser.add_argument("--help", "-h", action=_Help, nargs=0, help="show this and, after a recipe's name, its fields")


class _Help(argparse.Action):
    """Shows the fields of the recipe that was named before."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> NoReturn:
        name = getattr(namespace, "recipe", None)
        try:
            if name is not None:
                parser.epilog = f"{_fields(find_recipe(name))}\n{EXAMPLE.format(name=name)}"
        except ValueError as error:
            parser.exit(2, f"headwise: error: {error}\n")
        parser.print_help()
        parser.exit()


def find_recipe(name: str) -> Recipe[Any]:
    """Return a recipe by its name.

    Args:
        name: of the recipe.

    Returns:
        The recipe.

    Raises:
        ValueError: there is none of that name.
    """
    from difflib import get_close_matches

    from headwise.recipes import RECIPES

    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, 1)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(RECIPES)}."
        raise ValueError(f"no recipe {name!r}. {hint} See headwise train --help.")
    return RECIPES[name]


def _fields(recipe: Recipe[Any]) -> str:
    """Return a table of a recipe's fields, with the values of its sizes."""
    import textwrap

    from headwise.recipes.fields import describe, list_fields

    lines = [f"fields of {recipe.name}, for --set NAME=VALUE and --config FILE:"]
    for field in list_fields(type(recipe.sizes["full"])):
        values = [f"{size} {getattr(each, field.name)}" for size, each in recipe.sizes.items()]
        same = len({text.partition(" ")[2] for text in values}) == 1
        default = values[0].partition(" ")[2] if same else ", ".join(values)
        text = f"{field.help.rstrip('.')} ({describe(field.kind)}; {default})"
        lines += [f"  {field.name}", textwrap.fill(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    return "\n".join(lines) + "\n"


def run(arguments: argparse.Namespace) -> int:
    """Train.

    Args:
        arguments: as declared.

    Returns:
        The exit code.
    """
    require("headwise train", "train")
    recipe = find_recipe(arguments.recipe)
    try:
        changes = _changes(recipe, arguments)
    except ValueError as error:
        raise ValueError(f"{error} See headwise train {recipe.name} --help.") from None
    data = changes.pop("data", None)
    outcome = recipe(data, out=arguments.out, size=arguments.size, resume=arguments.resume, **changes)
    if outcome.signal is not None:
        return 128 + int(outcome.signal)
    if _is_first():
        print(f"Trained {outcome.steps} steps into {outcome.folder}")
    return 0


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _changes(recipe: Recipe[Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that the command names: the file's, over them the options' and those of --set."""
    from headwise.recipes.fields import list_fields, read_fields

    kind = type(recipe.sizes["full"])
    known = {field.name for field in list_fields(kind)}
    found = read_fields(kind, _from_file(arguments.config), str(arguments.config)) if arguments.config else {}
    given: dict[str, Any] = {}
    if arguments.data is not None:
        found |= _given_once(given, {"data": arguments.data})
    for name, (targets, _, _) in OPTIONS.items():
        value = getattr(arguments, name)
        if value is None:
            continue
        field = next((target for target in targets if target in known), None)
        if field is None:
            raise ValueError(f"{recipe.name} has no {' or '.join(targets)}, which --{name.replace('_', '-')} sets.")
        found |= _given_once(given, read_fields(kind, {field: value}, f"--{name.replace('_', '-')}"))
    for words in arguments.set:
        name, equals, value = (part.strip() for part in words.partition("="))
        if not equals:
            raise ValueError(f"--set {words}: give NAME=VALUE, such as --set batch_size=4.")
        found |= _given_once(given, read_fields(kind, {name: value}, "--set"))
    for name in FROM_DATA & found.keys():
        raise ValueError(f"{name}: the data tell it, so it cannot be set. Leave it out.")
    _tell_rate(recipe, arguments, found)
    return found


def _given_once(given: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that an option or --set gives, and remember them: another value is refused."""
    for name, value in fields.items():
        if name in given and given[name] != value:
            raise ValueError(f"{name}: given twice, as {given[name]} and {value}. Give it once.")
    given |= fields
    return fields


def _from_file(path: Path) -> Mapping[str, Any]:
    """Return the fields of a YAML or JSON file; of a run's ``config.json``, those that it was started with."""
    text = path.read_bytes()
    if path.suffix == ".json":
        try:
            content = json.loads(text, object_pairs_hook=each_once)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: no JSON ({error}).") from None
    else:
        content = _yaml(path, text)
    if isinstance(content, dict) and isinstance(content.get("arguments"), dict):
        content = {name: value for name, value in content["arguments"].items() if name not in FROM_DATA}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no mapping of fields to values, such as batch_size: 4.")
    return content


def _yaml(path: Path, text: bytes) -> Any:
    require(f"{path}: YAML", "yaml")
    import yaml

    try:
        top = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(top, yaml.MappingNode):
            each_once([(key.value, None) for key, _ in top.value])
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: no YAML ({' '.join(str(error).split())}).") from None


def _tell_rate(recipe: Recipe[Any], arguments: argparse.Namespace, changes: Mapping[str, Any]) -> None:
    """Say that the learning rate stays where the batch size does not."""
    if "batch_size" not in changes or "learning_rate" in changes or arguments.resume or not _is_first():
        return
    start = recipe.sizes[arguments.size or ("full" if changes.get("data") else "tiny")]
    factor = changes["batch_size"] / start.batch_size
    if factor != 1:
        print(
            f"The batch size is {changes['batch_size']}, not the recipe's {start.batch_size}; the learning rate does "
            f"not follow it and stays {start.learning_rate:g}. By the linear rule: --lr "
            f"{start.learning_rate * factor:g}"
        )
