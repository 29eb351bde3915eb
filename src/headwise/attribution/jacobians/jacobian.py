"""The exact table of terms by parameters, from as few backward passes as it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from headwise.attribution.gram import Gram, Where
from headwise.attribution.jacobians.grouping import Group, Patterns, chosen_parameters, group_names
from headwise.attribution.jacobians.held import kept_buffers, same_draw
from headwise.attribution.jacobians.jacobian_table import JacobianTable
from headwise.attribution.jacobians.passes import RowPasses, deepest_first
from headwise.attribution.jacobians.streaming import on_cpu
from headwise.attribution.tracing.named import Losses, weighted_values
from headwise.graph import gradient_edge
from headwise.reach import Walk, walk
from headwise.refusals import refuse_unsafe, wrapped_by_ddp


def jacobian(
    losses: Losses,
    model: nn.Module,
    *,
    parameters: Patterns | None = None,
    group: Group = "parameter",
    cosine: bool = True,
    gramian: bool = False,
    keep_gradient: bool = False,
    by_difference: bool = True,
    names: Sequence[str] | None = None,
) -> JacobianTable:
    """Norm, share and cosine of every loss's gradient at every group of parameters, exactly.

    One backward pass for the sum, then one per loss, restricted to the parameters that other losses reach too: what
    only one loss reaches has its row in the gradient of the sum. Gradients are measured as they arrive and let go.
    Beside the graph, this holds the gradient of the sum at the shared parameters; with `gramian`, K times that.

    Call it after the forward pass and before `backward`: the graph stays usable. `.grad`, buffers, random state and
    a DistributedDataParallel reducer are not touched. Hooks that you registered on parameters run in these passes too.

    Args:
        losses: A dict, a tuple or list, or a `Breakdown`, with their graphs; losses without one are left out.
        model: The network, wrapped or not.
        parameters: Names or shell patterns of the parameters to look at; None: all that ask for a gradient.
        group: "parameter", "module", a function from the name of a parameter to that of its group, or a mapping from
            groups to names or shell patterns.
        cosine: Also the cosines with the gradient of the sum, for which that gradient must be known before the rows.
            False saves its pass, and `keep_gradient` gets it as the sum of the rows.
        gramian: Also the inner products between losses, for `conflict`. Holds K gradients of the shared parameters.
        keep_gradient: Also keep the gradient of the sum, for `assign_gradient` and `effect`.
        by_difference: Take the row of one loss, at the parameters deepest in the graph, as the gradient of the sum less
            the other rows, where its size shows that this costs no digits. False: with a pass of its own everywhere.
        names: Names of the losses of a tuple or list.

    Returns:
        The table. Under DistributedDataParallel its numbers are of this process's samples (`scope == "local"`).

    Raises:
        ValueError: If no loss has a graph, or backward has freed it, or a pass over the graph would silently be wrong:
            parameters sharded by FSDP2, DistributedDataParallel with static_graph=True, a reentrant checkpoint, a
            compiled part that donates its buffers.
    """
    values = weighted_values(losses, names)
    if not values:
        raise ValueError("jacobian: no loss has a graph. Call it after a forward pass with gradients, before backward.")
    chosen = chosen_parameters("jacobian", model, parameters)
    groups = group_names(list(chosen), group)
    kept = {name: chosen[name] for members in groups.values() for name in members}
    traced = walk_losses(list(values.values()))
    refuse_unsafe("jacobian", model, kept, traced.nodes)
    bits, order = reach_bits(kept, traced), deepest_first(kept, traced)
    passes = RowPasses(list(values.values()), kept, bits, order, keep_gradient, gramian, by_difference)
    try:
        with same_draw(model), kept_buffers(model):
            passes.run() if cosine or gramian else passes.run_rows()
    except RuntimeError as error:
        if "through the graph a second time" not in str(error):
            raise
        raise ValueError(
            "jacobian: a backward pass has freed the graph of the losses. Call it after the forward pass and before "
            "backward, or call backward(retain_graph=True)."
        ) from error
    scope: Literal["local", "global"] = "local" if wrapped_by_ddp(model, traced.nodes) else "global"
    return _table(values, groups, passes, Where("parameter", scope))


def walk_losses(values: Sequence[Tensor]) -> Walk:
    """The masks of the graph below some losses that have one."""
    edges = [gradient_edge(value) for value in values]
    return walk([(edge, 1 << k) for k, edge in enumerate(edges) if edge is not None], len(values))


def reach_bits(parameters: dict[str, Tensor], traced: Walk) -> dict[str, int]:
    """Which losses reach each parameter, as bits."""
    masks = traced.leaf_masks()
    return {name: traced.reached(masks.get(id(parameter), 0)) for name, parameter in parameters.items()}


def _table(
    values: Mapping[str, Tensor], groups: dict[str, tuple[str, ...]], passes: RowPasses, where: Where
) -> JacobianTable:
    column = {name: g for g, members in enumerate(groups.values()) for name in members}
    num = len(values)
    shape = (num, len(groups))
    products = torch.full((len(groups), num + 1, num + 1), math.nan, dtype=torch.float64)
    squares = sum_cells([(k, column[name]) for k, name in passes.square], list(passes.square.values()), shape).mT
    if passes.with_gramian:
        cells = [(column[name], j, k) for j, k, name in passes.pairs]
        upper = sum_cells(cells, list(passes.pairs.values()), (len(groups), num, num))
        products[:, :num, :num] = upper + upper.mT
    products.diagonal(dim1=1, dim2=2)[:, :num] = squares
    if passes.inner or not passes.square:
        inner = sum_cells([(k, column[name]) for k, name in passes.inner], list(passes.inner.values()), shape).mT
        cells_of_total = [(column[name],) for name in passes.total_square]
        products[:, num, num] = sum_cells(cells_of_total, list(passes.total_square.values()), shape[1:])
        products[:, :num, num] = products[:, num, :num] = inner
    reach = torch.zeros(shape, dtype=torch.bool)
    for name, bits in passes.bits.items():
        for k in range(num):
            reach[k, column[name]] |= bool(bits >> k & 1)
    numbers = torch.tensor([float(value.detach()) for value in values.values()], dtype=torch.float64)
    sent = squares.isfinite()
    gram = Gram(tuple(values), tuple(groups), products, sent, numbers, torch.ones_like(numbers), where)
    return JacobianTable(gram, groups, reach, passes.total)


def sum_cells(cells: Sequence[tuple[int, ...]], values: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Add numbers up in the cells of a table on the CPU, with one copy per device."""
    table = torch.zeros(shape, dtype=torch.float64)
    if values:
        table.index_put_(torch.tensor(cells).unbind(1), on_cpu(values), accumulate=True)
    return table
