"""Load the checkpoints that the authors released into the networks of this room."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike, fspath
from typing import Any

import torch
from torch import Tensor, nn

from headwise.networks.corners.detector import CornerDetector
from headwise.networks.corners.names import own_name
from headwise.networks.textsnake import VggTextSnake

ENTRIES = ("model", "state_dict")  # where training scripts keep the weights inside a checkpoint
SHOWN = 4  # keys listed in an error

TEXTSNAKE_NAMES = {
    **{f"backbone.stage{number}.": f"stages.{number - 1}." for number in range(1, 6)},
    **{f"merge{number}.": f"merges.{4 - number}." for number in range(1, 5)},
    "deconv5.": "deepest.",
    "conv1x1.": "mix.",
    "conv3x3.": "narrow.",
    "deconv.": "upsample.",
    "predict.": "head.",
}


def _replace(name: str, names: Mapping[str, str]) -> str:
    for published, own in names.items():
        name = name.replace(published, own)
    return name


NAMES: dict[type[nn.Module], Callable[[str], str]] = {
    VggTextSnake: partial(_replace, names=TEXTSNAKE_NAMES),
    CornerDetector: own_name,
}
OPTIONS: dict[type[nn.Module], str] = {
    VggTextSnake: "backbone and number of channels",
    CornerDetector: "system, size, classes and number of stacks",
}


def load_published(network: nn.Module, checkpoint: str | PathLike[str] | Mapping[str, Any]) -> nn.Module:
    """Load the authors' weights, whose keys are named after their own modules.

    Args:
        network: a network of this room, built with the published options: ``textsnake("vgg16")``,
            ``cornernet()``, ``cornernet_squeeze()``, ``cornernet_saccade()``, ``centernet()`` or
            ``centernet(size=52)``. One that was built on the meta device takes the tensors over.
        checkpoint: a file of the authors, or what it holds: a state dict, alone or under ``"model"`` or
            ``"state_dict"``. A prefix ``module.`` (DataParallel) is dropped.

    Returns:
        The same network, its weights replaced.

    Raises:
        ValueError: no published form of this network, an unreadable file, or keys or shapes that do not fit.
            The network is then unchanged.

    Reference:
        princewang1994/TextSnake.pytorch at b4ee996d, train_textsnake.py (``save_model``) and
        network/textnet.py; princeton-vl/CornerNet-Lite at 6a54505d and Duankaiwen/CenterNet at 3ad3a106,
        core/nnet/py_factory.py and nnet/py_factory.py (``save_params``).
    """
    source = "the state dict" if isinstance(checkpoint, Mapping) else f"'{fspath(checkpoint)}'"
    rename = NAMES.get(type(network))
    if rename is None:
        raise ValueError(
            f"load_published: {type(network).__name__} has no published checkpoint. "
            "Build networks.textsnake('vgg16') or a corner detector of full size for the authors' weights."
        )
    content = checkpoint if isinstance(checkpoint, Mapping) else _read(fspath(checkpoint))
    state = {rename(key): value for key, value in _find_weights(content, source).items()}
    _check_fit(network, state, source)
    network.load_state_dict(state, assign=any(tensor.is_meta for tensor in network.parameters()))
    return network


def _read(path: str) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        refused = isinstance(error, pickle.UnpicklingError)
        reason = "no checkpoint of tensors" if refused else (str(error).splitlines() or ["it ends early"])[0]
        remedy = "Check the path, or download it again; a checkpoint holds tensors only"
        raise ValueError(f"load_published: cannot read '{path}': {reason}. {remedy}.") from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"load_published: '{path}' holds a {type(content).__name__}. Give a checkpoint with a state dict."
        )
    return content


def _find_weights(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    entry = next((content[name] for name in ENTRIES if isinstance(content.get(name), Mapping)), content)
    weights = {key.removeprefix("module."): value for key, value in entry.items() if isinstance(value, Tensor)}
    if not weights:
        held = ", ".join(map(str, list(content)[:SHOWN])) or "nothing"
        raise ValueError(
            f"load_published: {source} has no tensors at its top or under {' or '.join(ENTRIES)}; "
            f"it holds {held}. Give the authors' checkpoint."
        )
    return weights


def _check_fit(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    own = network.state_dict()
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    found = "; ".join(f"{len(keys)} {kind} ({_list(keys)})" for kind, keys in problems.items() if keys)
    if found:
        raise ValueError(
            f"load_published: {source} does not fit {type(network).__name__}: {found}. "
            f"Build the network with the checkpoint's {OPTIONS[type(network)]}."
        )


def _list(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
