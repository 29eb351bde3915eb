"""What the corner detectors share: heat maps, embeddings and offsets at every stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from headwise import losses, normalizers
from headwise.criterion import Levels, Term
from headwise.whole import check_whole


class CornerWeights(NamedTuple):
    """The weights of a corner detector's terms, as the papers give them: of the mean over stacks."""

    pull: float
    push: float
    offset: float


def corner_terms(
    points: tuple[str, ...],
    num_stacks: int,
    weights: CornerWeights,
    as_published: bool,
    masks: Mapping[str, str] | None = None,
) -> list[Term]:
    """The terms that read heat maps, embeddings and offsets.

    Args:
        points: What has a heat map and an offset: "top_left", "bottom_right", and perhaps "center".
        num_stacks: How many stacks the outputs have.
        weights: The weights.
        as_published: Take the authors' losses and counts.
        masks: The heat maps' masks by point; none by default.

    Returns:
        The terms: a heat map a point, pull, push, an offset a point.

    Raises:
        ValueError: `num_stacks` is less than 1.
        TypeError: It is True or False, which is an option's, given by position.
    """
    if isinstance(num_stacks, bool):  # an option of other presets' first place
        raise TypeError(
            f"a corner detector: num_stacks is at least 1 and a whole number, found {num_stacks}. Options such as "
            "as_published are given by name"
        )
    check_whole("a corner detector", num_stacks=num_stacks)
    levels = Levels([1.0] * num_stacks)
    heat_map, embedding, offset = (
        (_published_heat_map, _published_embedding, _published_offset)
        if as_published
        else (_heat_map, _embedding, _offset)
    )
    masks = masks or {}
    return [
        *(heat_map(point, mask=masks.get(point), weight=1 / num_stacks, levels=levels) for point in points),
        embedding("pull", weight=weights.pull / num_stacks, levels=levels),
        embedding("push", weight=weights.push / num_stacks, levels=levels),
        *(offset(point, weight=weights.offset / num_stacks, levels=levels) for point in points),
    ]


_EMBEDDINGS: dict[str, Any] = {
    "output": ("stacks[*].top_left_embedding", "stacks[*].bottom_right_embedding"),
    "target": ("top_left_index", "bottom_right_index"),
    "mask": "objects",
}


def _heat_map(point: str, **rest: Any) -> Term:
    name = f"{point}_heatmap"
    target = {"target": name, "index": f"{point}_index", "objects": "objects"}
    return Term(name, losses.gaussian_focal, output=f"stacks[*].{name}", target=target, **rest)


def _published_heat_map(point: str, **rest: Any) -> Term:
    name, loss = f"{point}_heatmap", losses.published_gaussian_focal
    return Term(name, loss, output=f"stacks[*].{name}", target=name, **rest)


def _embedding(name: str, **rest: Any) -> Term:
    loss = {"pull": losses.pull, "push": losses.push}[name]
    return Term(name, loss, **_EMBEDDINGS, **rest)


def _published_embedding(name: str, **rest: Any) -> Term:
    loss = {"pull": losses.published_pull, "push": losses.published_push}[name]
    return Term(name, loss, **_EMBEDDINGS, **rest)


def _offset(point: str, **rest: Any) -> Term:
    return Term(f"{point}_offset", losses.gathered_smooth_l1, normalizers.count, **_offset_paths(point), **rest)


def _published_offset(point: str, **rest: Any) -> Term:
    count = normalizers.published_objects
    return Term(f"{point}_offset", losses.gathered_smooth_l1, count, **_offset_paths(point), **rest)


def _offset_paths(point: str) -> dict[str, Any]:
    name = f"{point}_offset"
    return {"output": f"stacks[*].{name}", "target": (f"{point}_index", name), "mask": "objects"}
