"""Which loss trains what, told from the autograd graph without any arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, get_args

from torch import Tensor, nn

from headwise.attribution.apart.returned.entries import LossEntry
from headwise.attribution.tracing.channels import Channels, channel_dim_of, static_channels
from headwise.attribution.tracing.named import Losses, named_losses
from headwise.attribution.tracing.probe import Probe, probed_channels, support_gradients
from headwise.attribution.tracing.trace_table import (
    LossRow,
    ModuleRow,
    OpaqueRow,
    OutputRow,
    ParameterRow,
    Trace,
    module_rows,
)
from headwise.graph import Edge, gradient_edge, opaque_reason
from headwise.reach import KEPT, Walk, walk
from headwise.refusals import refuse_no_model, refuse_sharded
from headwise.structure import by_path
from headwise.whole import is_whole

Reached: TypeAlias = tuple[str, tuple[int, ...], bool, int]
"""Of a parameter: its name, shape, whether it asks for a gradient, and the bits of the losses that reach it."""


def trace(
    losses: Losses,
    model: nn.Module,
    outputs: Any = None,
    *,
    names: Sequence[str] | None = None,
    probe: bool | Probe = False,
    channel_dim: int = 1,
) -> Trace:
    """Tell which parameters, modules, outputs and channels each loss reaches.

    Walks the graph of all losses at once, in one pass with a bit per loss. A cell says "reached" exactly where
    `torch.autograd.grad(loss, ..., allow_unused=True)` would not be None; where a part is opaque (compiled, scripted,
    a reentrant checkpoint) the table says so.

    Args:
        losses: A dict, a tuple or list, a `Breakdown`, or one loss, before `backward` freed the graph. A loss that is a
            number or has no graph is reported as such.
        model: The network, wrapped or not.
        outputs: What the network returned: a tensor, or a nested structure of them. None: outputs are left out.
        names: Names of the losses of a tuple or list.
        probe: False: from the graph alone. True or "value": also by the support of the gradient, where the graph does
            not tell which channels (one backward pass through each loss, none through the network). "nan": the same
            from a gradient of NaN, for every output and, behind a compiled part, for every parameter (that takes a full
            backward pass per loss): also counts what a mask of zeros silences at the moment.
        channel_dim: The dimension of an output that holds its channels; -1 for the last, as of tokens and boxes.

    Returns:
        The table.

    Raises:
        ValueError: If `losses` holds something that is no loss, `probe` is none of these, the model is none, or its
            parameters are sharded (FSDP2).
    """
    refuse_no_model("trace", model)
    if not isinstance(probe, bool) and probe not in get_args(Probe):
        raise ValueError(f"trace: probe is False, True, 'value' or 'nan'; found {probe!r}")
    if not is_whole(channel_dim):
        raise ValueError(f"trace: channel_dim is the number of a dimension, found {channel_dim!r}.")
    named = named_losses(losses, names)
    known, kinds = _parts_of(model)
    refuse_sharded("trace", known)
    tensors = by_path(outputs)
    edges = {path: gradient_edge(tensor) for path, tensor in tensors.items()}
    traced = walk(_roots(named), len(named), [edge for edge in edges.values() if edge is not None])
    masks = traced.leaf_masks()
    if probe == "nan" and traced.opaque:
        _probe_parameters(named, known, masks)
    parameters, modules = _rows(
        tuple(loss.name for loss in named),
        tuple((name, each.shape, each.requires_grad, masks.get(id(each), 0)) for name, each in known.items()),
        kinds,
    )
    kind: Probe | None = "nan" if probe == "nan" else "value" if probe else None
    channels = _all_channels(named, tensors, traced, kind, channel_dim)
    return Trace(
        losses=tuple(_loss_row(loss) for loss in named),
        parameters=parameters,
        modules=modules,
        outputs=tuple(
            _output_row(path, tensor, edges[path], traced, named, channels, channel_dim)
            for path, tensor in tensors.items()
        ),
        opaque=_opaque_rows(traced, named),
        channel_dim=channel_dim,
    )


def _parts_of(model: nn.Module) -> tuple[dict[str, Tensor], tuple[tuple[str, str], ...]]:
    """The parameters of a model, by name, and name and kind of its modules, in one walk over them."""
    modules = dict(model.named_modules())
    kinds = tuple((name, type(module).__name__) for name, module in modules.items())
    if getattr(model.named_parameters, "__func__", None) is not nn.Module.named_parameters:
        return dict(model.named_parameters()), kinds  # names of its own, as FSDP's wrapper has them
    owned: dict[int, tuple[str, Tensor]] = {}
    for prefix, module in modules.items():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owned.setdefault(id(parameter), (f"{prefix}.{name}" if prefix else name, parameter))
    return dict(owned.values()), kinds


def _roots(named: Sequence[LossEntry]) -> list[tuple[Edge, int]]:
    roots = []
    for k, loss in enumerate(named):
        if loss.edge is not None:
            live = 0 if loss.weight == 0 else 1 << (len(named) + k)
            roots.append((loss.edge, 1 << k | live))
    return roots


def _bits(mask: int, losses: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for k, name in enumerate(losses) if mask >> k & 1)


def _loss_row(loss: LossEntry) -> LossRow:
    if loss.tensor is None:
        reason = "a number, not a tensor"
    elif loss.scalar is None:
        reason = "a tensor without grad_fn: detached, or computed without gradients"
    else:
        reason = ""
    why = getattr(loss.declared, "split_variant", None)
    return LossRow(loss.name, not reason, loss.weight, reason, why)


@lru_cache(maxsize=KEPT)
def _rows(
    losses: tuple[str, ...], parameters: tuple[Reached, ...], modules: tuple[tuple[str, str], ...]
) -> tuple[tuple[ParameterRow, ...], tuple[ModuleRow, ...]]:
    """The rows of a model that was reached like this; kept, since they are the same in every step."""
    rows = tuple(
        ParameterRow(name, tuple(shape), *_split(mask, losses), requires_grad)
        for name, shape, requires_grad, mask in parameters
    )
    return rows, module_rows(modules, rows)


def _split(mask: int, losses: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The losses in a mask: those that reach, and of them those that do so through zero weight only."""
    reached = mask & ((1 << len(losses)) - 1)
    zero = reached & ~(mask >> len(losses))
    return _bits(reached, losses), _bits(zero, losses)


def _opaque_rows(traced: Walk, named: Sequence[LossEntry]) -> tuple[OpaqueRow, ...]:
    losses = [loss.name for loss in named]
    kinds = [(node, node.name()) for node in traced.opaque]
    return tuple(
        OpaqueRow(kind, _split(traced.mask(node), losses)[0], opaque_reason(kind) or "") for node, kind in kinds
    )


def _all_channels(
    named: Sequence[LossEntry],
    tensors: Mapping[str, Tensor],
    traced: Walk,
    probe: Probe | None,
    channel_dim: int,
) -> dict[str, dict[str, Channels]]:
    """Per loss and output. A value probe is asked only where the graph left something open."""
    found: dict[str, dict[str, Channels]] = {}
    for loss in named:
        if loss.scalar is None or not tensors:
            continue
        told = static_channels(loss.scalar, tensors, traced.nodes, channel_dim)
        open_paths = {path: t for path, t in tensors.items() if path not in told or not told[path].exact}
        if probe == "nan":
            told |= probed_channels(loss.scalar, tensors, probe, channel_dim)
        elif probe is not None and open_paths:
            told |= probed_channels(loss.scalar, open_paths, probe, channel_dim)
        found[loss.name] = told
    return found


def _output_row(
    path: str,
    tensor: Tensor,
    edge: Edge | None,
    traced: Walk,
    named: Sequence[LossEntry],
    channels: Mapping[str, Mapping[str, Channels]],
    channel_dim: int,
) -> OutputRow:
    losses, zero = _split(traced.edge_mask(edge), [loss.name for loss in named])
    size = tensor.shape[channel_dim_of(tensor.shape, channel_dim)] if tensor.ndim else 1
    unknown = Channels(tuple(range(size)), size, exact=False)
    cells = {loss: channels.get(loss, {}).get(path, unknown) for loss in losses}
    return OutputRow(path, tuple(tensor.shape), losses, cells, zero, edge is not None)


def _probe_parameters(named: Sequence[LossEntry], known: Mapping[str, Tensor], masks: dict[int, int]) -> None:
    """Take back the bits of parameters that a compiled node only seemed to pass a gradient to."""
    parameters = [p for p in known.values() if p.requires_grad and id(p) in masks]
    for k, loss in enumerate(named):
        if loss.scalar is None:
            continue
        bits = 1 << k | 1 << (len(named) + k)
        for parameter, grad in zip(parameters, support_gradients(loss.scalar, parameters, "nan"), strict=True):
            if grad is None or not bool(grad.isnan().any()):
                masks[id(parameter)] &= ~bits
