"""The direction in which an optimizer moves the parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headwise.closing import Closing
from headwise.refusals import refuse_no_model


def next_update(
    optimizer: Optimizer, parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The update that an optimizer would make for a gradient, without making it.

    A copy of the optimizer, with its state, steps on copies of the parameters.

    Args:
        optimizer: The optimizer.
        parameters: Parameters by name; those that the optimizer does not hold have no update.
        gradient: The gradient by name.

    Returns:
        New value minus old, by name.
    """
    named = {id(parameter): name for name, parameter in parameters.items()}
    twin = copy.deepcopy(optimizer)
    pairs = [
        (old, new)
        for group, twin_group in zip(optimizer.param_groups, twin.param_groups, strict=True)
        for old, new in zip(group["params"], twin_group["params"], strict=True)
    ]
    for old, new in pairs:
        new.grad = gradient.get(named.get(id(old), ""))
    twin.step()
    return {named[id(old)]: new.detach() - old.detach() for old, new in pairs if id(old) in named}


class LastUpdate(Closing):
    """Keeps what the optimizer's last step changed, as a direction for `effect`.

    Holds one copy of the parameters. Use it as a context manager, or call `close`.

    Args:
        optimizer: The optimizer; its next steps are kept, each in place of the one before.
        model: The network that has the parameters' names.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module) -> None:
        refuse_no_model("LastUpdate", model)
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._before: dict[str, Tensor] = {}
        self._update: dict[str, Tensor] = {}
        self._handles = [
            optimizer.register_step_pre_hook(self._keep),
            optimizer.register_step_post_hook(self._subtract),
        ]

    @property
    def update(self) -> Mapping[str, Tensor]:
        """New value minus old of every parameter.

        Raises:
            ValueError: If no step has been made since.
        """
        if not self._update:
            raise ValueError("LastUpdate: the optimizer has made no step yet. Call optimizer.step() first.")
        return MappingProxyType(self._update)

    def _keep(self, *_: Any) -> None:
        self._before = {name: p.detach().clone() for name, p in self._parameters.items()}

    def _subtract(self, *_: Any) -> None:
        with torch.no_grad():
            self._update = {name: p - self._before.pop(name) for name, p in self._parameters.items()}

    def close(self) -> None:
        """Stop watching the optimizer."""
        for handle in self._handles:
            handle.remove()
