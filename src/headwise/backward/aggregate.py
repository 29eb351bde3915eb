"""The Jacobian of the terms, handed to an aggregator (TorchJD's, or any function of it) in place of a plain sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.graph import GradientEdge

from headwise.backward.ranks import any_over_ranks, sum_over_ranks
from headwise.criterion import Breakdown
from headwise.criterion.junctions.recording import Record
from headwise.criterion.pooling import is_distributed
from headwise.graph import topological
from headwise.refusals import refuse_reentrant, refuse_sharded, refuse_static_graph

Rows = Sequence[list[Tensor | None]]


_SAME = 1e-4
"""How far a combination of rows may be from what was made of them, by its norm: rounding of float32."""


def aggregate(
    breakdown: Breakdown | Iterable[Breakdown],
    network: nn.Module | Iterable[Tensor],
    aggregator: Callable[[Tensor], Tensor],
    *,
    average: bool = False,
    drop_empty: bool = False,
    group: Any = None,
) -> None:
    """Fills ``.grad`` in place of ``breakdown.total.backward()``: shared parameters by an aggregator of all terms.

    Row k of the Jacobian is the gradient of term k's ``weight * value`` in the parameters that more than one term
    reaches. The aggregator (such as ``torchjd.aggregation.UPGrad()``) makes one vector of it. A parameter that one term
    alone reaches has its plain gradient. Results are added to what ``.grad`` holds, as `backward` does.

    Rows are added up over the ranks *before* they are aggregated, and the result of the first rank is sent to all, so
    that ranks stay equal to the bit, with any aggregator, drawn ones included. (An aggregator that runs under DDP on
    each rank by itself sees other gradients there, and ranks drift apart.) The passes go past DDP's hooks: a wrapped
    network is called as always, and its all-reduce does not take place.

    Several micro-batches need one Jacobian: hand over a generator, whose graphs live one after another::

        pooled = hw.pool_denominators(criterion, [targets for _, targets in micro_batches])
        steps = (criterion(network(images), targets, pooled) for images, targets in micro_batches)
        hw.backward.aggregate(steps, network, UPGrad())

    A loss that was booked inside of the network (`headwise.book`) is a row of its own, after the terms.

    The price is a backward pass per term and one gradient of the shared parameters per term in memory. An open ledger
    books what these passes send to the outputs, and in `Books.aggregated` the rows' norms and cosines in the shared
    parameters, those with what the aggregator made of them, and the weight that it gave to each row.

    Args:
        breakdown: What the criterion returned, or those of all micro-batches. Nothing has to be undone: sums stay sums.
        network: The network (wrapped by DDP or not), or the parameters to fill.
        aggregator: Function of a matrix (T, P), a row per term in their order, that returns (P,). The books
            have the weights of its ``weighting``, or those of the rows that add up to what it returns.
        average: Divide by the number of ranks, where denominators are each rank's own.
        drop_empty: Leave out rows of zeros (a term without anything to learn from in this step, or of weight 0).
            MGDA would answer them by zero; an aggregator with one preference a term needs all rows.
        group: The process group; None means the default one.

    Raises:
        ValueError: There is no breakdown, or none whose terms reach a parameter; parameters are sharded, DDP has a
            static graph, or a reentrant checkpoint hides parameters; or the aggregator is no function, or did not
            return one number a column.
    """
    if not callable(aggregator):
        raise ValueError(
            "aggregate: an aggregator is a function of the Jacobian, such as torchjd.aggregation.UPGrad(); found "
            f"{type(aggregator).__name__}"
        )
    parameters = _trainable(network)
    jacobian = _jacobian(_breakdowns(breakdown), parameters)
    rows = list(jacobian.rows.values())
    with torch.no_grad():
        reach = torch.tensor([[each is not None for each in row] for row in rows], device=parameters[0].device)
        reach = any_over_ranks(reach, group)
        num_readers = reach.sum(0).tolist()
        shared = [number for number, num in enumerate(num_readers) if num > 1]
        alone = [number for number, num in enumerate(num_readers) if num == 1]
        if not shared and not alone:
            raise ValueError(
                "aggregate: no term reaches any of the parameters. Hand over the network that made the outputs, called "
                "with gradients"
            )
        matrix, plain = _summed(rows, parameters, shared, alone, reach, group)
        if average and is_distributed():
            size = dist.get_world_size(group)
            matrix, plain = matrix / size, plain / size
        if shared:
            answer, weights = _aggregated(matrix, aggregator, drop_empty, group)
            if jacobian.record is not None:
                jacobian.record.aggregated(list(jacobian.rows), matrix, answer, _weights(matrix, answer, weights))
            _add(parameters, shared, answer)
        _add(parameters, alone, plain)


def _breakdowns(given: Any) -> Iterator[Breakdown]:
    is_one = isinstance(given, Breakdown | Tensor | Mapping) or not isinstance(given, Iterable)
    for each in [given] if is_one else given:
        if not isinstance(each, Breakdown):
            raise ValueError(
                f"aggregate: found a {type(each).__name__}. Give what the criterion returned, the breakdown, and not "
                "its total"
            )
        yield each


def _trainable(network: nn.Module | Iterable[Tensor]) -> list[Tensor]:
    model = network if isinstance(network, nn.Module) else None
    named = enumerate(network) if not isinstance(network, nn.Module) else network.named_parameters()
    given = {str(name): each for name, each in named}
    wrong = next((each for each in given.values() if not isinstance(each, Tensor)), None)
    if wrong is not None:
        raise ValueError(f"aggregate: a network, or its parameters, is filled; found {type(wrong).__name__} among them")
    parameters = [each for each in dict.fromkeys(given.values()) if each.requires_grad]
    if not parameters:
        raise ValueError("aggregate: no parameter requires a gradient. Hand over the network that made the outputs")
    instead = "Use DDP, or the plain breakdown.total.backward()."
    refuse_sharded("aggregate", given, model, instead=instead)
    return parameters


@dataclass
class _Jacobian:
    """Per row and parameter the gradient, added up over micro-batches; None where it does not reach.

    Args:
        rows: By the names of terms, then of losses that were booked inside of the network.
        record: The books of the last micro-batch, if they are kept.
    """

    rows: dict[str, list[Tensor | None]]
    record: Record | None = None

    def add(self, name: str, found: Sequence[Tensor | None]) -> None:
        """Adds to a row."""
        row = self.rows.setdefault(name, [None] * len(found))
        row[:] = [b if a is None else a if b is None else a + b for a, b in zip(row, found, strict=True)]


def _jacobian(breakdowns: Iterable[Breakdown], parameters: Sequence[Tensor]) -> _Jacobian:
    jacobian = _Jacobian({})
    for breakdown in breakdowns:
        roots = [entry.weighted.grad_fn for entry in breakdown.values()]
        nodes = topological(node for node in roots if node is not None)
        refuse_reentrant("aggregate", nodes)
        refuse_static_graph("aggregate", nodes)
        jacobian.record = breakdown.record
        inside = [node for node in nodes if hasattr(node, "headwise_booked")]
        for name, entry in breakdown.items():
            jacobian.add(name, _row(entry.weighted, parameters))
        for node in inside:
            edge = _edge_inside(node, breakdown)
            jacobian.add(node.headwise_booked.name, _row(edge, parameters) if edge else [None] * len(parameters))
    if not jacobian.rows:
        raise ValueError("aggregate: no breakdown to take gradients of. Hand over what the criterion returned")
    return jacobian


def _row(root: Tensor | GradientEdge, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if isinstance(root, Tensor) and not root.requires_grad:
        return [None] * len(parameters)
    return torch.autograd.grad([root], parameters, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]


def _edge_inside(node: Any, breakdown: Breakdown) -> GradientEdge | None:
    """Where the gradient of a loss enters that was booked inside of the network; it is booked as looked at."""
    injected = node.headwise_booked
    if injected.name in breakdown:
        raise ValueError(f"aggregate: {injected.name!r} is a term, and a loss of hw.book. Name them differently")
    if breakdown.record is not None:
        injected.look(breakdown.record, node.next_functions)
    loss, number = node.next_functions[1] if len(node.next_functions) > 1 else (None, 0)
    return None if loss is None else GradientEdge(loss, number)


def _summed(
    rows: Rows, parameters: Sequence[Tensor], shared: Sequence[int], alone: Sequence[int], reach: Tensor, group: Any
) -> tuple[Tensor, Tensor]:
    """The Jacobian of the shared parameters and the gradient of the others, over all ranks, in one all-reduce."""
    reader = reach.int().argmax(0).tolist()
    wanted = [(row, number) for row in range(len(rows)) for number in shared]
    wanted += [(reader[number], number) for number in alone]
    parts = []
    for row, number in wanted:
        part, rows[row][number] = rows[row][number], None  # freed as it is packed
        parts.append((torch.zeros_like(parameters[number]) if part is None else part).reshape(-1))
    packed = torch.cat(parts)
    del parts
    packed = sum_over_ranks(packed.float() if packed.dtype.itemsize < 4 else packed, group)
    width = sum(parameters[number].numel() for number in shared)
    return packed[: len(rows) * width].view(len(rows), width), packed[len(rows) * width :]


def _aggregated(
    matrix: Tensor, aggregator: Callable[[Tensor], Tensor], drop_empty: bool, group: Any
) -> tuple[Tensor, Tensor]:
    """What the first rank's aggregator makes of the Jacobian, and its weights; an error there is one on all ranks."""
    rows, columns = matrix.shape
    kept = (matrix != 0).any(1) if drop_empty else torch.ones(rows, dtype=torch.bool, device=matrix.device)
    num = int(kept.sum()) if drop_empty else rows
    if not num:
        return matrix.new_zeros(columns), matrix.new_zeros(rows)
    answer = matrix.new_zeros(columns + rows + 1)  # the last number tells whether it worked
    error: Exception | None = None
    if not is_distributed() or dist.get_rank(group) == 0:
        try:
            with _WeightsSeen(aggregator) as weights:
                answer[:columns] = _checked(aggregator(matrix[kept] if drop_empty else matrix), matrix)
            answer[columns:-1][kept] = weights.found(num, matrix)
            answer[-1] = 1.0
        except Exception as raised:  # the other ranks must be told before it goes on
            error = raised
    if is_distributed():
        dist.broadcast(answer, 0 if group is None else dist.get_global_rank(group, 0), group=group)
    if error is not None:
        raise error
    if not answer[-1]:
        raise RuntimeError("aggregate: the aggregator failed on the first rank; its error is shown there")
    return answer[:columns], answer[columns:-1]


class _WeightsSeen:
    """Listens to what an aggregator's ``weighting`` returns."""

    def __init__(self, aggregator: Any) -> None:
        weighting = getattr(aggregator, "weighting", None)
        self._last: Any = None
        self._handle = weighting.register_forward_hook(self._heard) if isinstance(weighting, nn.Module) else None

    def _heard(self, _module: nn.Module, _inputs: Any, returned: Any) -> None:
        self._last = returned

    def found(self, rows: int, like: Tensor) -> Tensor:
        """The weights, (rows,); NaN where there are none."""
        if isinstance(self._last, Tensor) and self._last.shape == (rows,):
            return self._last.detach().to(like)
        return like.new_full((rows,), math.nan)

    def __enter__(self) -> _WeightsSeen:
        return self

    def __exit__(self, *_error: Any) -> None:
        if self._handle is not None:
            self._handle.remove()


def _weights(matrix: Tensor, answer: Tensor, told: Tensor) -> Tensor:
    """The weights of rows that add up to an answer; NaN where it is no combination of rows.

    Args:
        matrix: The rows.
        answer: What was made of them.
        told: The weights that the aggregator named, of which it may have made another use; or NaN.

    Returns:
        Those, if they add up to the answer; else the smallest that do.
    """
    wide = torch.float32 if matrix.device.type == "mps" else torch.float64
    rows, wanted, told = matrix.to(wide), answer.to(wide), told.to(wide)
    solved = torch.linalg.pinv(rows @ rows.T, hermitian=True) @ (rows @ wanted)
    for weights in (told, solved):
        if bool((weights @ rows - wanted).norm() <= _SAME * wanted.norm()):
            return weights
    return torch.full_like(told, math.nan)


def _checked(answer: Any, matrix: Tensor) -> Tensor:
    if not isinstance(answer, Tensor) or answer.shape != matrix.shape[1:]:
        found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(
            f"aggregate: an aggregator makes of a Jacobian {tuple(matrix.shape)} one row of {matrix.shape[1]} numbers; "
            f"found {found}. Use an Aggregator of torchjd.aggregation, not a Weighting"
        )
    return answer


def _add(parameters: Sequence[Tensor], numbers: Sequence[int], flat: Tensor) -> None:
    """Adds consecutive parts of a vector to the gradients of some parameters."""
    begin = 0
    for number in numbers:
        parameter = parameters[number]
        part = flat[begin : begin + parameter.numel()].view_as(parameter).to(parameter.dtype)
        parameter.grad = part.clone() if parameter.grad is None else parameter.grad.add_(part)
        begin += parameter.numel()
