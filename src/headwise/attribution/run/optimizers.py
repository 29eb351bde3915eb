"""Which parameters the optimizers of a script step, and which of them, and of the others, the first passes trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

_FIRST_STEPS = 5


class Stepped:
    """Watches the optimizers before they step."""

    def __init__(self) -> None:
        self.steps = 0
        self._untrained: dict[int, Tensor] | None = None
        self._held: dict[int, Tensor] = {}
        self._groups: dict[int, int] = {}
        self._reached: set[int] = set()

    @property
    def is_early(self) -> bool:
        """Whether this is one of the first steps."""
        return self.steps < _FIRST_STEPS

    def before_step(self, optimizer: torch.optim.Optimizer, models: Mapping[str, nn.Module]) -> None:
        """Notes what an optimizer holds, and which parameters have a gradient.

        Args:
            optimizer: About to step.
            models: The networks of the script.
        """
        self.steps += 1
        if self._groups.get(id(optimizer)) != len(optimizer.param_groups):
            self._groups[id(optimizer)] = len(optimizer.param_groups)
            self._held |= {id(each): each for group in optimizer.param_groups for each in group["params"]}
        if self.steps > _FIRST_STEPS:
            return
        held = [each for group in optimizer.param_groups for each in group["params"] if each.requires_grad]
        without = {id(each): each for each in held if each.grad is None}
        before = self._untrained if self._untrained is not None else {}
        others = {key: each for key, each in before.items() if all(each is not own for own in held)}
        same = without if self.steps == 1 or not before else {k: v for k, v in without.items() if k in before}
        self._untrained = others | same
        self._reached |= {id(each) for model in models.values() for each in model.parameters() if each.grad is not None}

    def lines(self, models: Mapping[str, nn.Module]) -> Iterator[str]:
        """What there is to say.

        Args:
            models: The networks of the script.

        Yields:
            Sentences.
        """
        names = {
            id(parameter): f"{prefix}.{name}" if len(models) > 1 else name
            for prefix, model in models.items()
            for name, parameter in model.named_parameters()
        }
        untrained = [names.get(key, "a parameter without a name") for key in self._untrained or {}]
        if untrained:
            yield f"in an optimizer, without a gradient in the first steps: {_some(untrained)}"
        # Of a network that no optimizer holds a part of (a teacher, features to compare by) that is meant.
        partly = [each for each in models.values() if any(id(p) in self._held for p in each.parameters())]
        left = {id(each) for model in partly for each in model.parameters()} & self._reached - self._held.keys()
        if left:
            yield f"with a gradient, in no optimizer that stepped: {_some([names[k] for k in names if k in left])}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
