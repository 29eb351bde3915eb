"""What a rule that sets weights is asked, and the table of the step that it is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from headwise.attribution.gram import Gram, Where

OUTPUTS = "outputs"


class Rule(Protocol):
    """What sets weights; those of `headwise.balance`, or one of yours."""

    at: str
    """Where gradients are taken: "outputs", or the name of a `Junction`."""

    def check(self, terms: Sequence[str]) -> None:
        """Raises a ValueError if the rule does not fit these terms."""

    def weights(self, step: int, gram: StepGram) -> Tensor:
        """What the declared weights are multiplied by from the next step on.

        Args:
            step: How many steps came before.
            gram: Of the step that has just ended, at the declared weights, of one place; on the device. Its ``norms``,
                ``values`` and ``weights`` are (T,) tensors; inner products between terms are not known (NaN).
                ``since`` is how many steps it stands for, if not every one is looked at.

        Returns:
            (T,); where it is no finite number, the declared weight stays.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the rule must know after a restart."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""


def check_rule(rule: object) -> None:
    """Raises a ValueError where a rule is none."""
    methods = ("check", "weights")
    if isinstance(rule, type):
        raise ValueError(f"balance: the class {rule.__name__} is no rule. Give one of it: {rule.__name__}()")
    lacking = [name for name in methods if not callable(getattr(rule, name, None))]
    if lacking or not isinstance(getattr(rule, "at", None), str):
        raise ValueError(
            f"balance: a rule, such as hw.balance.Shares(), has check, weights and at; found "
            f"{type(rule).__name__} {str(rule)[:40]!r} without {', '.join(lacking) or 'at'}"
        )


def finite(number: object, what: str, *, positive: bool = False) -> float:
    """A rule's option as a number.

    Args:
        number: As it was given.
        what: Its name, for the error.
        positive: Whether it must be above 0.

    Returns:
        The number.

    Raises:
        ValueError: It is no finite number, or not positive.
    """
    found = number if isinstance(number, int | float) and not isinstance(number, bool) else math.nan
    if not math.isfinite(found) or (positive and found <= 0):
        raise ValueError(f"{what} is a {'positive' if positive else 'finite'} number; found {number!r}")
    return found


class StepGram(Gram):
    """The table of one step for a rule: what costs launches is made when it is asked for.

    Args:
        terms: T names.
        site: The place.
        norms: (T,), on the device.
        values: Makes (T,).
        weights: (T,), as declared.
        step: Number of the step.
        since: How many steps it stands for: those since the one that was looked at before.
    """

    since: int

    def __init__(
        self,
        terms: tuple[str, ...],
        site: str,
        norms: Tensor,
        values: Callable[[], Tensor],
        weights: Tensor,
        step: int,
        since: int,
    ) -> None:
        where = Where("output" if site == OUTPUTS else "feature", step=step)
        told = {"terms": terms, "sites": (site,), "weights": weights, "where": where, "since": since}
        self.__dict__.update(told, _norms=norms, _values=values)

    @property
    def norms(self) -> Tensor:
        """(T,): the norm of each term's gradient."""
        found: Tensor = self.__dict__["_norms"]
        return found

    @property
    def values(self) -> Tensor:
        """(T,)."""
        found: Tensor = self.__dict__["_values"]()
        return found

    @property
    def finite(self) -> Tensor:
        """(1, T)."""
        return self.norms.isfinite().unsqueeze(0)

    @property
    def products(self) -> Tensor:
        """(1, T + 1, T + 1): squared norms; NaN elsewhere."""
        num = len(self.terms)
        found = torch.full((1, num + 1, num + 1), torch.nan, dtype=self.norms.dtype, device=self.norms.device)
        found[0].diagonal()[:num] = self.norms.square()
        return found
