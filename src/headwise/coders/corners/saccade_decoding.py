"""Boxes by looking twice: CornerNet-Saccade, from the whole picture to crops of what it attends to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headwise.coders.corners.crops import Crops, crops_around, initial_locations
from headwise.coders.corners.decoding import Found, decode_corners
from headwise.coders.corners.locations import (
    REFERENCE_SIDES,
    attention_locations,
    reference_locations,
    suppress_locations,
)
from headwise.coders.corners.passes import suppress_boxes
from headwise.coders.soft_nms import Suppression

RunNetwork = Callable[[Tensor], Mapping[str, Any]]


def decode_saccade(
    outputs: Mapping[str, Any],
    crops: Crops,
    *,
    num_peaks: int = 12,
    num_detections: int = 12,
    kernel_size: int = 3,
    embedding_threshold: float = 0.3,
    as_published: bool = False,
) -> list[Found]:
    """Boxes of each crop in pixels of the picture.

    As `decode_corners`, but without corners on the crop's border, where an object may go on outside.

    Args:
        outputs: The network's outputs for all crops, or one stack of them.
        crops: Where the crops lie.
        num_peaks: As of `decode_corners`; so the next four.
        num_detections: See there.
        kernel_size: See there.
        embedding_threshold: See there.
        as_published: See there.

    Returns:
        Per crop what `decode_corners` returns, ``boxes`` in pixels of the picture.

    Raises:
        ValueError: As of `decode_corners`, or if outputs and crops differ in number.

    Reference:
        Law et al., CornerNet-Lite, BMVC 2020, section 3; princeton-vl/CornerNet-Lite at 6a54505d,
        core/test/cornernet_saccade.py.
    """
    decoded = decode_corners(
        outputs,
        image_size=(crops.window, crops.window),
        num_peaks=num_peaks,
        num_detections=num_detections,
        kernel_size=kernel_size,
        embedding_threshold=embedding_threshold,
        no_border=True,
        as_published=as_published,
    )
    if len(decoded) != len(crops):
        raise ValueError(f"decode_saccade: {len(crops)} crops need as many rows of outputs, found {len(decoded)}.")
    return [
        found | {"boxes": crops.to_image(found["boxes"].reshape(-1, 2, 2), crop).flatten(1)}
        for crop, found in enumerate(decoded)
    ]


@torch.no_grad()
def saccade_inference(
    run_network: RunNetwork,
    image: Tensor,
    *,
    window: int = 255,
    sizes: tuple[int, ...] = (192, 255),
    zooms: Sequence[float] = (1.0, 2.0, 4.0),
    attention_threshold: float = 0.3,
    first_threshold: float = 0.3,
    reference_threshold: float = 0.5,
    reference_sides: Sequence[tuple[float, float]] = REFERENCE_SIDES,
    max_crops: int = 30,
    batch_size: int = 32,
    num_peaks: int = 12,
    num_detections: int = 12,
    embedding_threshold: float = 0.3,
    rule: Suppression | None = None,
    max_detections: int = 100,
    as_published: bool = False,
) -> Found:
    """Look at the whole picture, then at crops around what attention and first boxes point to.

    Args:
        run_network: Crops (n, channels, window, window) -> the network's outputs with attention. It normalizes.
        image: (channels, H, W) floating, on the device of the network; zeros surround it.
        window: Side of a crop in pixels.
        sizes: Long sides of the picture in the first look.
        zooms: See `attention_locations`; so the next.
        attention_threshold: See there.
        first_threshold: Score that boxes of the first look must exceed to be reported.
        reference_threshold: Score over which they are looked at again.
        reference_sides: See `reference_locations`; for windows of 255 pixels.
        max_crops: Most crops of the second look, the best locations first.
        batch_size: Most crops that the network gets at once.
        num_peaks: See `decode_saccade`; so the next two.
        num_detections: See there.
        embedding_threshold: See there.
        rule: How boxes suppress one another; None: ``Suppression(sigma=0.7)``.
        max_detections: Most boxes.
        as_published: Plateaus, whole pixels and near locations as the authors have them, sides of x2 - x1 + 1, boxes
            that are not clipped to the picture.

    Returns:
        ``boxes`` (n, 4) in pixels of the picture, ``scores``, ``labels`` (n,) on the CPU, best first; and
        ``locations`` (m, 4) x, y, scale, score of the second look.

    Raises:
        ValueError: As of `decode_saccade` and `attention_locations`, or if the network returns no attention.

    Reference:
        princeton-vl/CornerNet-Lite at 6a54505d, core/test/cornernet_saccade.py.
    """
    size = (image.shape[-2], image.shape[-1])
    decode = partial(
        decode_saccade,
        num_peaks=num_peaks,
        num_detections=num_detections,
        embedding_threshold=embedding_threshold,
        as_published=as_published,
    )
    gaze = _Gaze(run_network, image, window, batch_size, decode, as_published)
    found, attention, crops = gaze.at(initial_locations(size, sizes, as_published=as_published))
    found = {name: values[found["scores"] > first_threshold] for name, values in found.items()}
    attended = attention_locations(
        attention, crops, size, zooms=zooms, threshold=attention_threshold, as_published=as_published
    )
    references = reference_locations(
        found["boxes"], found["scores"], threshold=reference_threshold, reference_sides=reference_sides
    )
    # One location at a time: on a device the host would wait at each.
    locations = torch.cat([attended, references.to(attended)]).cpu()
    locations = suppress_locations(locations, as_published=as_published)[:max_crops]
    if len(locations):
        found = _join([found, gaze.at(locations)[0]])
    rule = rule or Suppression(sigma=0.7, plus_one=as_published)
    kept = suppress_boxes(found, None if as_published else size, rule=rule, max_detections=max_detections)
    return kept | {"locations": locations}


@dataclass(frozen=True)
class _Gaze:
    """A network that looks at crops of one picture, as `saccade_inference` is told to."""

    run_network: RunNetwork
    image: Tensor
    window: int
    batch_size: int
    decode: Callable[[Mapping[str, Any], Crops], list[Found]]
    as_published: bool

    def at(self, locations: Tensor) -> tuple[Found, list[Tensor], Crops]:
        """Boxes, attention and crops of locations."""
        crops = crops_around(locations.to(self.image.device), window=self.window, as_published=self.as_published)
        outputs = _run_in_batches(self.run_network, crops.cut(self.image), self.batch_size)
        return _join(self.decode(outputs, crops)), outputs["attention"], crops


def _join(parts: Sequence[Found]) -> Found:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _run_in_batches(run_network: RunNetwork, crops: Tensor, batch_size: int) -> dict[str, Any]:
    """The last stack of the outputs of all crops."""
    stacks = []
    for batch in torch.split(crops, batch_size):
        outputs = run_network(batch)
        stack = outputs["stacks"][-1] if "stacks" in outputs else outputs
        if "attention" not in stack:
            raise ValueError(f"saccade_inference: the network returned no attention, found {', '.join(stack)}.")
        stacks.append(stack)
    joined: dict[str, Any] = {
        name: torch.cat([stack[name] for stack in stacks]) for name in stacks[0] if name != "attention"
    }
    scales = zip(*(stack["attention"] for stack in stacks), strict=True)
    return joined | {"attention": [torch.cat(maps) for maps in scales]}
