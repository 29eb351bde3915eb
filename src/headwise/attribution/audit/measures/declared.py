"""What the subject declares beside its code: frozen parameters, reads, weights; and what fits nothing."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from headwise.attribution.apart.words import plain_name
from headwise.attribution.audit.code.callables import callables_behind
from headwise.attribution.audit.code.step import Step
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.code.weights import declared_zero
from headwise.attribution.audit.measures.channels import channel_dim
from headwise.attribution.audit.measures.rows import Rows
from headwise.attribution.outputs import resolve

Region = tuple[str, tuple[int, ...] | None]


@dataclass(frozen=True)
class Declared:
    """What is meant, in the names of what was found.

    Attributes:
        parameters: The trainable parameters that are not frozen, with their sizes.
        frozen: Those that are.
        criterion_parameters: Learnable parameters of the criterion.
        regions: Per loss the outputs and channels that it was declared to read.
        weights: Per loss the weight that was declared for it.
        zero: Losses whose declared weight is zero.
        misfits: What was declared for something that there is not: its place, and what there is.
    """

    parameters: Mapping[str, int]
    frozen: tuple[str, ...] = ()
    criterion_parameters: Mapping[str, int] = field(default_factory=dict)
    regions: Mapping[str, Sequence[Region]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    zero: frozenset[str] = frozenset()
    misfits: Mapping[str, str] = field(default_factory=dict)

    @property
    def network(self) -> frozenset[str]:
        """All parameters of the network."""
        return frozenset(self.parameters) | frozenset(self.frozen)


def parameters_of(model: nn.Module, patterns: Sequence[str]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The parameters that are to be trained, and the names of the others.

    Args:
        model: The network.
        patterns: Of parameters that are meant to stay as they are.

    Returns:
        Both.
    """
    trained: dict[str, Tensor] = {}
    still = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or any(_matches(name, pattern) for pattern in patterns):
            still.append(name)
        else:
            trained[name] = parameter
    return trained, tuple(still)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern.rstrip('.*')}.")


def criterion_parameters(subject: Subject) -> dict[str, Tensor]:
    """Learnable parameters of the criterion; of modules behind a function their own (the others may be a teacher's).

    Args:
        subject: The training code.

    Returns:
        By name, all of them beginning with "criterion.".
    """
    taken = {id(parameter) for parameter in subject.model.parameters()}
    found: dict[str, Tensor] = {}
    for item in callables_behind(subject.criterion, subject.total, model=subject.model):
        if not isinstance(item, nn.Module):
            continue
        for name, parameter in item.named_parameters("criterion", recurse=item is subject.criterion):
            frozen = any(fnmatch.fnmatchcase(name, pattern) for pattern in subject.frozen_patterns)
            if parameter.requires_grad and not frozen and id(parameter) not in taken:
                taken.add(id(parameter))
                found[name] = parameter
    return found


def regions_of(subject: Subject, step: Step) -> dict[str, list[Region]]:
    """Where each loss is declared to read, on the outputs of one step.

    Args:
        subject: The training code.
        step: The step.

    Returns:
        Per loss its outputs and channels.
    """
    regions: dict[str, list[Region]] = {}
    for loss, paths in subject.reads.items():
        for text in [paths] if isinstance(paths, str) else paths:
            for path, channels in resolve(text, step.outputs, f"reads[{loss!r}]", subject.names_of_one):
                indices = None
                tensor = step.tensors.get(path)
                if tensor is not None and channels is not None and channels.dim % tensor.ndim == channel_dim(tensor):
                    indices = tuple(range(*channels.bounds(tensor)))
                regions.setdefault(str(loss), []).append((path, indices))
    return regions


def declared_by(
    subject: Subject,
    batches: Sequence[Rows],
    regions: Mapping[str, Sequence[Region]],
    parameters: Mapping[str, Tensor],
    frozen: tuple[str, ...],
    own: Mapping[str, Tensor],
) -> Declared:
    """What the subject declares, by the names of the losses that its code returned.

    Args:
        subject: The training code.
        batches: The batches' numbers.
        regions: What `reads` says.
        parameters: The trainable parameters.
        frozen: The others.
        own: The criterion's parameters.

    Returns:
        What is meant.
    """
    misfits: dict[str, str] = {}
    known = list(dict.fromkeys(name for rows in batches for name in (*rows.names, *rows.logs)))
    reads, weights = (
        _own_names(subject.reads, "reads", known, misfits),
        _own_names(subject.weights, "weights", known, misfits),
    )
    for pattern in subject.frozen_patterns:
        if not any(_matches(name, pattern) for name in (*parameters, *frozen, *own)):
            misfits[f"frozen[{pattern!r}]"] = f"no parameter is called so; there are {_some([*parameters, *frozen])}"
    zero = declared_zero(callables_behind(subject.criterion, subject.total, model=subject.model), known)
    numbers = {weights[str(name)]: float(value) for name, value in subject.weights.items() if str(name) in weights}
    return Declared(
        {name: parameter.numel() for name, parameter in parameters.items()},
        frozen,
        {name: parameter.numel() for name, parameter in own.items()},
        {reads[name]: region for name, region in regions.items() if name in reads},
        numbers,
        frozenset(zero) | {name for name, value in numbers.items() if value == 0},
        misfits,
    )


def _own_names(given: Iterable[str], what: str, known: Sequence[str], misfits: dict[str, str]) -> dict[str, str]:
    """The losses that `reads` or `weights` speak of, by the name that was given."""
    found = {}
    for name in map(str, given):
        close = [name] if name in known else [other for other in known if plain_name(other) == plain_name(name)]
        if len(close) == 1:
            found[name] = close[0]
        else:
            misfits[f"{what}[{name!r}]"] = (
                f"the criterion returned {', '.join(known)}; use its keys, and for a tuple name all its losses in order"
            )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
