"""What `trace` returns: a frozen table of which loss reaches which parameter, module, output and channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwise.attribution.text import columns, names, wrapped
from headwise.attribution.tracing.channels import Channels, channel_dim_of, ranges
from headwise.tabular import Tabular


@dataclass(frozen=True)
class LossRow:
    """One loss: its weight where known, whether a gradient can leave it, and why it depends on a batch's split."""

    name: str
    has_graph: bool
    weight: float | None = None
    reason: str = ""
    split_variant: str | None = None


@dataclass(frozen=True)
class ParameterRow:
    """One parameter: the losses that reach it, and those that do so through zero weight only."""

    name: str
    shape: tuple[int, ...]
    losses: tuple[str, ...]
    zero_weight: tuple[str, ...] = ()
    requires_grad: bool = True


@dataclass(frozen=True)
class ModuleRow:
    """One module: the losses that reach any parameter of it or below it."""

    name: str
    kind: str
    num_parameters: int
    losses: tuple[str, ...]
    zero_weight: tuple[str, ...] = ()


@dataclass(frozen=True)
class OutputRow:
    """One output: the losses that reach it and, for each, which channels."""

    name: str
    shape: tuple[int, ...]
    losses: tuple[str, ...]
    channels: Mapping[str, Channels]
    zero_weight: tuple[str, ...] = ()
    has_graph: bool = True

    @property
    def untrained(self) -> tuple[int, ...]:
        """The channels that no loss reaches, not even possibly."""
        size = next((channels.size for channels in self.channels.values()), 0)
        read = {index for channels in self.channels.values() for index in channels.indices}
        return tuple(index for index in range(size) if index not in read)


@dataclass(frozen=True)
class OpaqueRow:
    """A node that the walk cannot see into, and why."""

    node: str
    losses: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Trace(Tabular):
    """Which loss reaches what; see `trace`."""

    losses: tuple[LossRow, ...]
    parameters: tuple[ParameterRow, ...]
    modules: tuple[ModuleRow, ...]
    outputs: tuple[OutputRow, ...]
    opaque: tuple[OpaqueRow, ...]
    channel_dim: int = 1

    def table_rows(self) -> list[dict[str, Any]]:
        """A row per module with parameters, and per loss whether it reaches them: yes, weight 0, or nothing."""
        return [
            {
                "module": row.name or "(model)",
                "kind": row.kind,
                "parameters": row.num_parameters,
                **{
                    loss.name: None
                    if loss.name not in row.losses
                    else "weight 0"
                    if loss.name in row.zero_weight
                    else "yes"
                    for loss in self.losses
                },
            }
            for row in self.modules
            if row.num_parameters
        ]

    def table_title(self) -> str:
        """What the rows say."""
        return "Which loss reaches which module"

    def reaches(self, loss: str, parameter: str) -> bool:
        """Whether a loss reaches a parameter, module or output.

        Args:
            loss: The name of the loss.
            parameter: The name of a parameter or module of the model, or the path of an output.

        Returns:
            True if there is a path in the graph, even one of zero weight.

        Raises:
            ValueError: If there is no such loss, or nothing of that name.
        """
        self._check_loss(loss)
        rows: tuple[ParameterRow | ModuleRow | OutputRow, ...] = (*self.parameters, *self.outputs, *self.modules)
        for row in rows:
            if row.name == parameter:
                return loss in row.losses
        raise ValueError(f"trace: no parameter, output or module {parameter!r}. The names are those of the model.")

    def channels(self, loss: str, output: str) -> Channels:
        """The channels of an output that a loss reads.

        Args:
            loss: The name of the loss.
            output: The path of the output.

        Returns:
            The channels; none of them where the loss does not reach the output.

        Raises:
            ValueError: If there is no such loss or output.
        """
        self._check_loss(loss)
        for row in self.outputs:
            if row.name == output:
                size = row.shape[channel_dim_of(row.shape, self.channel_dim)] if row.shape else 1
                return row.channels.get(loss, Channels((), size))
        raise ValueError(f"trace: no output {output!r}. There are: {names(row.name for row in self.outputs)}.")

    def _check_loss(self, loss: str) -> None:
        if loss not in {row.name for row in self.losses}:
            raise ValueError(f"trace: no loss {loss!r}. There are: {names(row.name for row in self.losses)}.")

    @property
    def no_graph(self) -> tuple[str, ...]:
        """The losses from which no gradient can flow."""
        return tuple(row.name for row in self.losses if not row.has_graph)

    @property
    def unreached_parameters(self) -> tuple[str, ...]:
        """Parameters that ask for a gradient and that no loss reaches."""
        return tuple(row.name for row in self.parameters if row.requires_grad and not row.losses)

    @property
    def zero_weight_parameters(self) -> tuple[str, ...]:
        """Parameters that losses reach, but only through zero weight."""
        return tuple(row.name for row in self.parameters if row.losses and row.zero_weight == row.losses)

    @property
    def zero_weight_outputs(self) -> tuple[str, ...]:
        """Outputs that losses reach, but only through zero weight."""
        return tuple(row.name for row in self.outputs if row.losses and row.zero_weight == row.losses)

    @property
    def untrained_outputs(self) -> tuple[str, ...]:
        """Outputs that no loss reaches, and channels of the others: "depth", "maps[:, 3:5]"."""
        found = []
        for row in self.outputs:
            if not row.losses:
                found.append(row.name)
            elif row.untrained:
                dim = channel_dim_of(row.shape, self.channel_dim)
                found.append(f"{row.name}[{':, ' * dim}{ranges(row.untrained, -1)}]")
        return tuple(found)

    def __str__(self) -> str:
        return "\n\n".join(part for part in (self._loss_text(), self._module_text(), self._notes_text()) if part)

    def _loss_text(self) -> str:
        losses = [row.name for row in self.losses]
        if not self.outputs:
            return ""
        rows = [
            [row.name, "x".join(map(str, row.shape)), *(self._cell(row, loss) for loss in losses)]
            for row in self.outputs
        ]
        return columns(["output", "shape", *losses], rows)

    @staticmethod
    def _cell(row: OutputRow, loss: str) -> str:
        if loss not in row.losses:
            return "-"
        text = str(row.channels.get(loss, "unknown"))
        return f"{text} x0" if loss in row.zero_weight else text

    def _module_text(self) -> str:
        """Modules as deep as they differ in what reaches them."""
        losses = [row.name for row in self.losses]
        rows = [
            [row.name or "(model)", row.kind, str(row.num_parameters), *(_mark(row, loss) for loss in losses)]
            for row in self._telling_modules()
        ]
        return columns(["module", "kind", "parameters", *losses], rows)

    def _telling_modules(self) -> list[ModuleRow]:
        uneven: set[str] = set()
        reach = {row.name: (row.losses, row.zero_weight) for row in self.parameters if row.requires_grad}
        for module in self.modules:
            below = {reach[name] for name in reach if not module.name or name.startswith(f"{module.name}.")}
            if len(below) > 1:
                uneven.add(module.name)
        return [
            row
            for row in self.modules
            if row.num_parameters and (row.name == "" or row.name.rpartition(".")[0] in uneven)
        ]

    def _notes_text(self) -> str:
        notes = [f"loss {row.name!r}: no graph ({row.reason})" for row in self.losses if not row.has_graph]
        notes += [
            f"loss {row.name!r} depends on how a batch is split: {row.split_variant}"
            for row in self.losses
            if row.split_variant
        ]
        notes += [f"opaque: {row.node} behind {names(row.losses)}: {row.reason}" for row in self.opaque]
        for label, found in (
            ("parameters that no loss reaches", self.unreached_parameters),
            ("parameters reached through zero weight only", self.zero_weight_parameters),
            ("outputs that no loss trains", self.untrained_outputs),
            ("outputs reached through zero weight only", self.zero_weight_outputs),
        ):
            if found:
                notes.append(f"{label}: {names(found)}")
        return "\n".join(wrapped(note) for note in notes)


def _mark(row: ModuleRow, loss: str) -> str:
    if loss not in row.losses:
        return "-"
    return "x0" if loss in row.zero_weight else "x"


def module_rows(modules: Iterable[tuple[str, str]], parameters: Sequence[ParameterRow]) -> tuple[ModuleRow, ...]:
    """Sum the parameters' rows up over every module of a model.

    Args:
        modules: The name and the kind of each module.
        parameters: The rows of the model's parameters.

    Returns:
        One row per module, in the model's order.
    """
    below: dict[str, list[ParameterRow]] = {}
    for row in parameters:
        parts = row.name.split(".")[:-1]
        for depth in range(len(parts) + 1):
            below.setdefault(".".join(parts[:depth]), []).append(row)
    return tuple(_module_row(name, kind, below.get(name, [])) for name, kind in modules)


def _module_row(name: str, kind: str, rows: list[ParameterRow]) -> ModuleRow:
    # Many parameters, few different ways to be reached.
    kinds = dict.fromkeys((row.losses, row.zero_weight) for row in rows)
    losses = {loss: None for reached, _ in kinds for loss in reached}
    live = {loss for reached, zero_weight in kinds for loss in reached if loss not in zero_weight}
    zero = tuple(loss for loss in losses if loss not in live)
    return ModuleRow(name, kind, len(rows), tuple(losses), zero)
