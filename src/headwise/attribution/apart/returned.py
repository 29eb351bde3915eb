"""The losses that training code returned, by name, whatever structure they came in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

from headwise.attribution.apart.dissect import LAST, Candidate
from headwise.attribution.returned import Weighted

TOTAL_NAMES = frozenset({
    "loss", "total", "total_loss", "loss_total", "losses_total", "overall", "overall_loss", "loss_overall", "sum",
    "loss_sum", "sum_loss", "full_loss", "final_loss", "loss_final", "objective", "cost", "loss_all", "all_loss", "all",
    "combined", "combined_loss", "output",
})  # fmt: skip
"""Names under which training code keeps a sum of losses."""

_METRIC = re.compile(
    r"(^|_)(acc|accuracy|iou|miou|mae|rmse|psnr|ssim|f1|precision|recall|err|error|num|n|count|lr|norm|ap|map|score|top\d|"
    r"scale|temperature|temp|ratio|rate|step|epoch|perplexity|ppl|metric|metrics|class_error|cardinality_error)(_|$)"
)


@dataclass(frozen=True)
class Entry:
    """One thing that was returned.

    Args:
        name: Its key, field or position; nested ones are joined by dots.
        value: A tensor or a number.
    """

    name: str
    value: Tensor | float

    @property
    def trains(self) -> bool:
        """Whether a gradient can flow from it."""
        return isinstance(self.value, Tensor) and self.value.requires_grad and self.value.is_floating_point()


def entries(returned: Any, names: Sequence[str] = ()) -> tuple[Entry, ...]:
    """Every tensor and number of what training code returned.

    Args:
        returned: A tensor, or a tuple, list, (nested) dict, dataclass or `Breakdown` of them; a number beside a
            collection, ``(total, losses)``, is called "total".
        names: Names for the elements of a tuple or list, if there are as many.

    Returns:
        The entries, each under a name of its own.
    """
    total, body = _split_total(returned)
    found = list(_entries(body, ""))
    if isinstance(body, tuple | list) and not hasattr(body, "_fields") and len(names) == len(found):
        found = [Entry(name, entry.value) for name, entry in zip(names, found, strict=True)]
    declared = getattr(returned, "total", None) if isinstance(returned, Mapping) else None
    for tensor in (total, declared):
        if isinstance(tensor, Tensor):
            found.append(Entry("total", tensor))
    return tuple({entry.name: entry for entry in reversed(found)}.values())[::-1]


def candidates(found: Sequence[Entry]) -> list[Candidate]:
    """The entries that a total can add.

    Args:
        found: The entries.

    Returns:
        Scalars with a graph, then the losses of single samples.
    """
    live = [entry for entry in found if entry.trains]
    return [
        Candidate(entry.name, entry.value, LAST * says_total(entry.name) + int(entry.value.numel() != 1))
        for entry in sorted(live, key=lambda entry: isinstance(entry.value, Tensor) and entry.value.numel() != 1)
        if isinstance(entry.value, Tensor)
    ]


def says_total(name: str) -> bool:
    """Whether a name is one under which code keeps a sum of losses."""
    return _plain(name) in TOTAL_NAMES


def is_metric(name: str) -> bool:
    """Whether a name is that of something measured rather than trained on."""
    return "loss" not in name.lower() and _METRIC.search(_plain(name)) is not None


def _plain(name: str) -> str:
    """A name in lower case with underscores, without the keys above it."""
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.rpartition(".")[2] or name)
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _split_total(returned: Any) -> tuple[Tensor | None, Any]:
    """``(total, losses)`` in either order: one scalar with a graph beside one or more collections."""
    if not isinstance(returned, tuple | list) or hasattr(returned, "_fields"):
        return None, returned
    scalars = [each for each in returned if isinstance(each, Tensor) and each.numel() == 1 and each.requires_grad]
    nested = [each for each in returned if isinstance(each, Mapping | tuple | list) or is_dataclass(each)]
    if len(scalars) == 1 and nested:
        return scalars[0], nested[0] if len(nested) == 1 else nested
    return None, returned


def _entries(node: Any, name: str) -> Iterator[Entry]:
    if isinstance(node, Tensor):
        if node.numel() == 1 or (node.requires_grad and node.is_floating_point()):
            yield Entry(name or "loss", node)
    elif isinstance(node, float | int) and not isinstance(node, bool):
        yield Entry(name or "loss", node)
    elif isinstance(node, Weighted):
        yield Entry(name, node.weighted)
    else:
        for key, value in _parts(node):
            yield from _entries(value, f"{name}.{key}" if name else str(key))


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
