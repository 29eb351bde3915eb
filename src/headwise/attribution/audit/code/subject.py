"""What is audited: somebody's model, batches and criterion, as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any

from torch import Tensor, nn

from headwise.whole import is_whole

Forward = Callable[[Any, Any], Any]
CriterionLike = Callable[[Any, Any], Any]
TotalLike = Callable[[Any], Any]


@dataclass(frozen=True)
class Subject:
    """Training code to audit.

    Args:
        model: The network, in the mode (train or eval) in which it is trained.
        batches: Any iterable; the first few are used.
        criterion: ``criterion(outputs, batch)`` returns a loss, or a tuple, list or (nested) dict of losses, also
            ``(total, losses)``.
        forward: ``forward(model, batch)`` returns the outputs: a tensor, or a structure of tuples, lists, dicts and
            dataclasses. Default: ``model(batch["input"])``.
        total: ``total(losses)`` returns the scalar that backward is called on. Default: what the criterion returns as
            its total, or the sum.
        reads: Per loss, the path (or paths) of the output that it should read, such as ``maps[:, 4]``. For a criterion
            that returns a tuple, the keys name its losses in order.
        masks: Per path of an output, the key in the batch of the mask outside of which no gradient may be.
        frozen: Patterns of parameters that are meant to stay as they are (``backbone.*``).
        weights: Per loss, the weight with which it is meant to enter the total, where it is declared.
        num_batches: How many batches are used.
    """

    model: nn.Module
    batches: Iterable[Any]
    criterion: CriterionLike
    forward: Forward | None = None
    total: TotalLike | None = None
    reads: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    masks: Mapping[str, str] = field(default_factory=dict)
    frozen: Sequence[str] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    num_batches: int = 4

    def __post_init__(self) -> None:
        """Check what can be checked before anything runs.

        Raises:
            ValueError: A field is not what it should be.
        """
        for name, wanted, found in (
            ("model", "an nn.Module", isinstance(self.model, nn.Module)),
            ("batches", "an iterable of batches", isinstance(self.batches, Iterable)),
            ("criterion", "callable as criterion(outputs, batch)", callable(self.criterion)),
            ("forward", "callable as forward(model, batch)", self.forward is None or callable(self.forward)),
            ("total", "callable as total(losses)", self.total is None or callable(self.total)),
            ("reads", "a mapping from losses to paths", isinstance(self.reads, Mapping)),
            ("masks", "a mapping from paths to keys of the batch", isinstance(self.masks, Mapping)),
            ("num_batches", "at least 1", is_whole(self.num_batches, 1)),
        ):
            if not found:
                raise ValueError(f"audit: {name} must be {wanted}, found {type(getattr(self, name)).__name__}.")

    @property
    def names_of_one(self) -> tuple[str, ...]:
        """What an output that is a single tensor is called: "output", and as the criterion calls its first argument."""
        called = self.criterion.forward if isinstance(self.criterion, nn.Module) else self.criterion
        try:
            first = next(iter(inspect.signature(called).parameters), "output")
        except (TypeError, ValueError):
            return ("output",)
        return tuple(dict.fromkeys(("output", first)))

    @property
    def frozen_patterns(self) -> tuple[str, ...]:
        """The patterns of parameters that are meant to stay as they are."""
        return (self.frozen,) if isinstance(self.frozen, str) else tuple(self.frozen)

    def first_batches(self) -> list[Any]:
        """The batches that are used.

        Raises:
            ValueError: There is none.
        """
        batches = self.batches.values() if isinstance(self.batches, Mapping) else self.batches
        found = list(islice(batches, self.num_batches))
        if not found:
            raise ValueError("audit: batches is empty. Give at least one batch.")
        return found


@dataclass(frozen=True)
class GraphSubject:
    """One step whose losses were computed already: only what one graph shows can be audited.

    Args:
        model: The network.
        outputs: What it returned, or None.
        losses: What the criterion returned, with its graph.
    """

    model: nn.Module
    outputs: Any
    losses: Any


def as_subject(given: Any) -> Subject | GraphSubject:
    """Accept the forms that `audit` takes.

    Args:
        given: A `Subject`, a mapping with its fields, ``(model, losses)`` or ``(model, outputs, losses)``.

    Returns:
        The subject.

    Raises:
        ValueError: It is none of these, or a field is unknown or missing.
    """
    if isinstance(given, Subject | GraphSubject):
        return given
    if isinstance(given, Mapping):
        return _from_mapping(given)
    if isinstance(given, tuple) and len(given) in (2, 3) and isinstance(given[0], nn.Module):
        return GraphSubject(given[0], given[1] if len(given) == 3 else None, given[-1])
    raise ValueError(
        "audit: expected a Subject, a dict with model, batches and criterion, (model, losses) or "
        f"(model, outputs, losses), found {_describe(given)}."
    )


def _from_mapping(given: Mapping[str, Any]) -> Subject:
    known = {each.name for each in fields(Subject)}
    unknown = [str(key) for key in given if key not in known]
    missing = [name for name in ("model", "batches", "criterion") if given.get(name) is None]
    if missing or unknown:
        told = [f"it lacks {', '.join(missing)}"] if missing else []
        told += [f"it does not know {', '.join(unknown)}"] if unknown else []
        raise ValueError(f"audit: the subject has the keys {', '.join(sorted(known))}; {' and '.join(told)}.")
    return Subject(**{key: value for key, value in given.items() if value is not None})


def _describe(given: Any) -> str:
    if isinstance(given, tuple):
        return f"a tuple of {', '.join('a tensor' if isinstance(x, Tensor) else type(x).__name__ for x in given)}"
    return type(given).__name__
