"""What a network starts from: pre-trained weights, another run's, or random ones; and what of it keeps its values."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from headwise.training.folder.checkpoints import list_checkpoints, load_checkpoint

PRETRAINED: Final = "DEFAULT"
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def find_checkpoint(place: str | Path) -> Path:
    """Return a checkpoint, or the newest of a run.

    Args:
        place: a checkpoint, or the folder of a run.

    Returns:
        The file.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(place)
    if not path.is_dir():
        return path
    newest = list_checkpoints(path / "checkpoints")
    if not newest:
        raise FileNotFoundError(
            f"{path}: no checkpoint in this folder. Give a checkpoint, or a run of `headwise train`."
        )
    return newest[0]


def fetching(build: Callable[[], nn.Module], what: str) -> nn.Module:
    """Build a network on pre-trained weights; where they cannot be fetched, say where to put them.

    Args:
        build: makes it.
        what: of whom the weights are.

    Returns:
        The network.

    Raises:
        OSError: the weights could not be fetched, or their file is not what it should be.
    """
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            return build()
    except (OSError, RuntimeError) as error:
        # torch.hub writes where from and where to before it begins: nobody else knows the file's name.
        told = re.search(r'Downloading: "(.+)" to (.+)', said.getvalue())
        if told is None and not isinstance(error, OSError):
            raise
        source, file = told.groups() if told else ("its source", Path(torch.hub.get_dir()) / "checkpoints")
        raise OSError(
            f"the pre-trained weights of {what} could not be fetched ({_joined(error)}). Put the file of {source} at "
            f"{file}, or start from random weights with --weights none."
        ) from None


def _joined(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def start_from(network: nn.Module, place: str) -> None:
    """Give a network another run's weights, as far as names and shapes agree.

    Args:
        network: changed in place.
        place: a run or a checkpoint of it.

    Raises:
        ValueError: no checkpoint, or none of its weights fits.
    """
    path = find_checkpoint(place)
    state = load_checkpoint(path).get("network")
    own = network.state_dict()
    found: Mapping[str, Any] = state if isinstance(state, Mapping) else {}
    fitting = {name: value for name, value in found.items() if _fits(own.get(name), value)}
    weights = [name for name, _ in network.named_parameters()]
    if not any(name in fitting for name in weights):
        raise ValueError(f"{path}: none of its weights fits this network. Give a run of the same recipe and size.")
    network.load_state_dict({**own, **fitting})
    others = sorted({name.rpartition(".")[0] or name for name in weights if name not in fitting})
    if others:
        shown = ", ".join(others[:8]) + (f" and {len(others) - 8} more" if len(others) > 8 else "")
        warnings.warn(f"{path}: does not fit {shown}, which start from random weights.", stacklevel=2)


def _fits(own: Tensor | None, value: Any) -> bool:
    return own is not None and isinstance(value, Tensor) and value.shape == own.shape


def freeze(network: nn.Module, beginnings: tuple[str, ...]) -> list[nn.Parameter]:
    """Let parameters keep their values; batch normalization among them keeps its running statistics too.

    Args:
        network: changed in place.
        beginnings: of the names of parameters and modules, cut at a dot.

    Returns:
        The parameters that train.

    Raises:
        ValueError: a beginning that no name has, or nothing is left to train.
    """
    for beginning in beginnings:
        held = re.compile(re.escape(beginning.rstrip(".")) + r"(\.|$)")
        names = [name for name, _ in network.named_parameters() if held.match(name)]
        if not names:
            known = ", ".join(dict.fromkeys(name.partition(".")[0] for name, _ in network.named_parameters()))
            raise ValueError(f"freeze: no parameter's name begins with {beginning!r}. They begin with: {known}.")
        for name, module in network.named_modules():
            if held.match(name) and isinstance(module, _NORMS):
                module.momentum = 0.0
        for name in names:
            network.get_parameter(name).requires_grad_(False)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"freeze: {', '.join(beginnings)} is all of the network. Leave something to train.")
    return trained
