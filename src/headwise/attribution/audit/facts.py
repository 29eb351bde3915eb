"""What was measured on one batch: numbers only, ready to be judged over all batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headwise.attribution.audit.losses import is_metric_name

TOTAL = "total"


@dataclass(frozen=True)
class MaskFact:
    """One loss's gradient outside of one mask."""

    loss: str
    output: str
    mask: str
    outside: int
    positions: int
    outside_norm: float
    norm: float


@dataclass(frozen=True)
class NonFinite:
    """One loss's gradient that is not finite at an output or a parameter."""

    loss: str
    where: str
    count: int
    numel: int
    value: float


@dataclass
class BatchFacts:
    """One batch.

    Attributes:
        names: The losses; rows of `gram` and `channels` follow them, then the total.
        values: Per loss its value.
        live: The losses with a graph.
        silenced: The losses with a declared weight of zero, as seen in the graph.
        logs: What was only reported.
        total: Value of what backward is called on; None where it has no graph.
        default_total: Whether the audit itself summed the losses.
        weights: Weights that entries declare and hold already.
        gram: Per site (output or parameter group) the inner products of the gradients.
        channels: Per output the squared norm per loss and channel.
        unwired: Per output the channels that no graph reads, as far as graphs tell.
        numbers: The losses that are plain Python numbers.
        uneven: The outputs whose images differ in which of their channels have a gradient.
        derived: The outputs that are computed from other outputs alone.
        wired: Per loss the outputs that are in its graph.
        sizes: Per site the number of elements with any gradient.
        reached: Per loss the parameters that it reaches.
        elasticity: Per loss how many percent it changes per percent of the outputs, at most.
        reports: Findings that need one batch only.
        paths: How many times the graph of the total adds each loss.
        repeats: Summands without a name that the total adds more than once: where they read, and how often.
        twins: Losses that the total holds once more, computed a second time.
    """

    names: tuple[str, ...]
    values: dict[str, float]
    live: frozenset[str]
    silenced: frozenset[str]
    logs: dict[str, float]
    total: float | None
    default_total: bool
    weights: dict[str, float]
    outputs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    gram: dict[str, Tensor] = field(default_factory=dict)
    channels: dict[str, Tensor] = field(default_factory=dict)
    unwired: dict[str, frozenset[int]] = field(default_factory=dict)
    uneven: set[str] = field(default_factory=set)
    numbers: frozenset[str] = frozenset()
    derived: frozenset[str] = frozenset()
    wired: dict[str, set[str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    reached: dict[str, frozenset[str]] = field(default_factory=dict)
    elasticity: dict[str, float] = field(default_factory=dict)
    masks: list[MaskFact] = field(default_factory=list)
    nonfinite: list[NonFinite] = field(default_factory=list)
    paths: dict[str, int] = field(default_factory=dict)
    repeats: list[tuple[str, int]] = field(default_factory=list)
    twins: dict[str, int] = field(default_factory=dict)
    factors: dict[str, tuple[float, ...]] = field(default_factory=dict)
    mutated: dict[str, str] = field(default_factory=dict)
    grad_mode: dict[str, str] = field(default_factory=dict)
    random: dict[str, tuple[float, float]] = field(default_factory=dict)
    unrepeatable: dict[str, tuple[float, float]] = field(default_factory=dict)
    syncs: dict[str, int] = field(default_factory=dict)
    split: dict[str, float] = field(default_factory=dict)
    unaudited: dict[str, str] = field(default_factory=dict)

    def norm(self, name: str, sites: Iterable[str] | None = None) -> float:
        """Norm of a loss's gradient over sites (default: all)."""
        row = self.row(name)
        chosen = self.gram if sites is None else [site for site in sites if site in self.gram]
        return math.sqrt(max(math.fsum(float(self.gram[site][row, row]) for site in chosen), 0.0))

    def row(self, name: str) -> int:
        """The row of a loss, or of the total."""
        return len(self.names) if name == TOTAL else self.names.index(name)


@dataclass(frozen=True)
class Facts:
    """All batches.

    Attributes:
        batches: The batches' facts.
        parameters: The trainable parameters that are not frozen.
        frozen: Those that are.
        regions: Per loss the outputs and channels that it was declared to read.
        criterion_parameters: Learnable parameters of the criterion.
        weight_faults: Per loss what was found about its declared weight.
    """

    batches: tuple[BatchFacts, ...]
    parameters: Mapping[str, int]
    frozen: tuple[str, ...] = ()
    regions: Mapping[str, Sequence[tuple[str, tuple[int, ...] | None]]] = field(default_factory=dict)
    criterion_parameters: Mapping[str, int] = field(default_factory=dict)
    declared: Mapping[str, float] = field(default_factory=dict)
    weight_faults: Sequence[tuple[str, str, float, float]] = ()
    unaudited: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The losses of any batch, in order."""
        return tuple(dict.fromkeys(name for batch in self.batches for name in batch.names))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of any batch that can be trained."""
        return tuple(dict.fromkeys(path for batch in self.batches for path in batch.outputs))

    def holding(self, name: str) -> list[BatchFacts]:
        """The batches that have a loss."""
        return [batch for batch in self.batches if name in batch.names]

    def declared_zero(self, name: str) -> bool:
        """Whether the loss is meant to have no weight."""
        said = self.declared.get(name, 1.0) == 0 or any(batch.weights.get(name) == 0 for batch in self.batches)
        return said or all(name in batch.silenced for batch in self.holding(name))

    def only_reported(self, name: str) -> bool:
        """Whether a loss is named like a metric and not in the total."""
        added = any(batch.default_total or batch.paths.get(name, 0) for batch in self.holding(name))
        return is_metric_name(name) and not added

    def channel_energy(self, path: str) -> tuple[Tensor, bool] | None:
        """Squared norm per channel of all losses over all batches, and whether the support is that of every batch."""
        rows = [batch.channels[path][:-1].sum(0) for batch in self.batches if path in batch.channels]
        rows = [row for row in rows if row.numel()]
        if not rows or len({row.numel() for row in rows}) != 1:
            return None
        supports = [row > 0 for row in rows if bool((row > 0).any())]
        same = all(torch.equal(support, supports[0]) for support in supports)
        same = same and not any(path in batch.uneven for batch in self.batches)
        return torch.stack(rows).sum(0), same
