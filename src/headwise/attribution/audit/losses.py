"""What a foreign criterion returned: its terms, what it calls the total, and what it only reports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.tracing.named import Weighted

TOTAL_NAMES = frozenset({
    "loss", "total", "total_loss", "loss_total", "losses_total", "overall", "overall_loss", "loss_overall", "sum",
    "loss_sum", "sum_loss", "full_loss", "final_loss", "loss_final", "objective", "cost", "loss_all", "all_loss", "all",
    "combined", "combined_loss",
})  # fmt: skip
_METRIC = re.compile(
    r"(^|_)(acc|accuracy|iou|miou|mae|rmse|psnr|ssim|f1|precision|recall|err|error|num|n|count|lr|norm|ap|map|score|top\d|"
    r"scale|temperature|temp|ratio|rate|step|epoch|perplexity|ppl|metric|metrics|class_error|cardinality_error)(_|$)"
)


@dataclass(frozen=True)
class Entry:
    """One thing that the criterion returned.

    Args:
        name: Its key, field or position.
        value: A tensor or a number.
        weight: Its weight, where the entry declares one that is in its value already.
    """

    name: str
    value: Tensor | float
    weight: float | None = None

    @property
    def scalar(self) -> Tensor | None:
        """The value as a scalar with a graph, or None."""
        if not isinstance(self.value, Tensor) or not self.value.requires_grad:
            return None
        return self.value if self.value.numel() == 1 else self.value.mean()

    @property
    def number(self) -> float:
        """The value on the host."""
        return float(self.value.detach().float().mean()) if isinstance(self.value, Tensor) else float(self.value)


@dataclass(frozen=True)
class Returned:
    """A criterion's return value, taken apart.

    Args:
        terms: The losses.
        logs: What is reported and trained on only through the total: numbers and tensors without a graph.
        total: What the criterion itself calls the total, or None.
    """

    terms: tuple[Entry, ...]
    logs: tuple[Entry, ...]
    total: Entry | None


def take_apart(returned: Any, names: Sequence[str] = ()) -> Returned:
    """Find terms, logs and total.

    Args:
        returned: A scalar, tuple, list, (nested) dict, dataclass, `Breakdown`, or ``(total, losses)``.
        names: Names for the elements of a tuple or list, if there are as many.

    Returns:
        The parts.

    Raises:
        ValueError: There is no loss in it.
    """
    declared = getattr(returned, "total", None) if isinstance(returned, Mapping) else None
    head, body = _split_total(returned)
    entries = list(_entries(body, ""))
    if not entries and head is None:
        raise ValueError(
            f"audit: the criterion returned {_told(returned)}, in which there is no loss. "
            "Return a scalar tensor, or a tuple, list or dict of them."
        )
    if any(entry.scalar is not None and _is_scalar(entry) for entry in entries) or head is not None:
        # Beside a scalar, a tensor with a graph is something to look at (logits), not a loss.
        entries = [entry for entry in entries if _is_scalar(entry)]
    total = Entry("total", declared) if isinstance(declared, Tensor) else head or _find_total(entries)
    rest = [entry for entry in entries if entry is not total and not (total and _is_again(entry, total))]
    if isinstance(body, tuple | list) and not hasattr(body, "_fields"):
        rest = _renamed(rest, [name for name in names if name != (total and total.name)])
    return _sorted_out(rest, total)


def _sorted_out(rest: list[Entry], total: Entry | None) -> Returned:
    live = [entry for entry in rest if entry.scalar is not None]
    if total is not None:
        rest = [entry for entry in rest if not _repeats_total(entry, total)]
    if total is not None and not live:
        return Returned((total,), tuple(rest), None)
    logs = {entry.name for entry in rest if entry.scalar is None and is_metric(entry)}
    terms = tuple(entry for entry in rest if entry.name not in logs)
    return Returned(terms, tuple(entry for entry in rest if entry.name in logs), total)


def _is_scalar(entry: Entry) -> bool:
    return not isinstance(entry.value, Tensor) or entry.value.numel() == 1


def _is_again(entry: Entry, total: Entry) -> bool:
    """The total's own tensor under a total's name."""
    return entry.value is total.value and _says_total(entry)


def _says_total(entry: Entry) -> bool:
    return plain_name(entry.name) in TOTAL_NAMES or entry.name.lower() in TOTAL_NAMES


def _repeats_total(entry: Entry, total: Entry) -> bool:
    """A number for the log that is the total itself."""
    return entry.scalar is None and (_says_total(entry) or _adds_up(total, [entry]))


def is_metric(entry: Entry) -> bool:
    """Whether the entry's name or type says that it is reported, not trained on."""
    if "loss" in entry.name.lower():
        return False
    whole = isinstance(entry.value, bool | int) or (
        isinstance(entry.value, Tensor) and not entry.value.is_floating_point()
    )
    return bool(whole and entry.value != 0) or is_metric_name(entry.name)


def is_metric_name(name: str) -> bool:
    """Whether a name is that of something measured rather than trained on."""
    return "loss" not in name.lower() and _METRIC.search(plain_name(name)) is not None


def plain_name(name: str) -> str:
    """A name in lower case with underscores, without "loss" at either end: "loss_Sin" and "sin_loss" are "sin"."""
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.rpartition(".")[2] or name)
    text = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    short = re.sub(r"^(loss|l)_|_(loss|losses|l)$", "", text)
    return short or text


def _split_total(returned: Any) -> tuple[Entry | None, Any]:
    """``(total, losses)`` in either order: one scalar with a graph beside one or more collections."""
    if not isinstance(returned, tuple | list) or hasattr(returned, "_fields"):
        return None, returned
    scalars = [x for x in returned if isinstance(x, Tensor) and x.numel() == 1 and x.requires_grad]
    nested = [x for x in returned if isinstance(x, Mapping | tuple | list) or (is_dataclass(x))]
    if len(scalars) == 1 and nested and isinstance(returned[0], Tensor | Mapping | tuple | list):
        return Entry("total", scalars[0]), nested[0] if len(nested) == 1 else nested
    return None, returned


def _entries(node: Any, name: str) -> Iterator[Entry]:
    if isinstance(node, Weighted) and not isinstance(node, Tensor):
        yield Entry(name, node.weighted, _number(getattr(node, "weight", None)))
    elif isinstance(node, Tensor):
        if node.numel() == 1 or (node.requires_grad and node.is_floating_point()):
            yield Entry(name or "loss", node)
    elif isinstance(node, float | int) and not isinstance(node, bool):
        yield Entry(name or "loss", node)
    else:
        for key, value in _parts(node):
            yield from _entries(value, f"{name}.{key}" if name else str(key))


def _number(weight: Any) -> float | None:
    if isinstance(weight, Tensor):
        return float(weight.detach()) if weight.numel() == 1 else None
    return float(weight) if isinstance(weight, int | float) else None


def _parts(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, tuple) and hasattr(node, "_fields"):
        yield from zip(node._fields, node, strict=True)
    elif isinstance(node, list | tuple):
        yield from enumerate(node)
    elif is_dataclass(node) and not isinstance(node, type):
        yield from ((each.name, getattr(node, each.name)) for each in fields(node))
    elif hasattr(node, "item") and getattr(node, "ndim", None) == 0:  # a NumPy scalar
        yield "value", float(node.item())


def _renamed(entries: list[Entry], names: Sequence[str]) -> list[Entry]:
    """The elements of a tuple under their names, where as many are given and none is a position."""
    if len(names) != len(entries) or {entry.name for entry in entries} & set(names):
        return entries
    return [Entry(name, entry.value, entry.weight) for name, entry in zip(names, entries, strict=True)]


def _find_total(entries: list[Entry]) -> Entry | None:
    """The entry that is computed from others, if its name or place says total, or from at least two."""
    if len(entries) < 2:
        return None
    roots = {entry.name: entry.scalar.grad_fn for entry in entries if entry.scalar is not None}
    for entry in entries:
        if entry.scalar is None:
            continue
        said = _says_total(entry)
        parts = _contained(entry.scalar, {id(node) for name, node in roots.items() if name != entry.name and node})
        placed = entry.name in ("0", str(len(entries) - 1))
        others = [other for other in entries if other is not entry]
        alone = said and all(other.scalar is None for other in others)
        if (
            alone
            or (said and (parts or _adds_up(entry, others)))
            or parts >= (1 if placed and len(entries) == 2 else 2)
        ):
            return entry
    return None


def _contained(root: Tensor, wanted: set[int]) -> int:
    """How many of the wanted nodes are below a tensor."""
    stack, seen = [root.grad_fn], set()
    kept = []  # ids are only unique among objects that live
    while stack:
        node = stack.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        kept.append(node)
        stack.extend(child for child, _ in node.next_functions)
    return len(wanted & seen)


def _adds_up(entry: Entry, others: list[Entry]) -> bool:
    value, total = sum(other.number for other in others), entry.number
    return abs(value - total) <= 1e-5 * max(abs(value), abs(total), torch.finfo(torch.float32).tiny)


def _told(returned: Any) -> str:
    if isinstance(returned, Tensor):
        return f"a tensor of shape {tuple(returned.shape)}"
    return f"a {type(returned).__name__}" if returned is not None else "None"
