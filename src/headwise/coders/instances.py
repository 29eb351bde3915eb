"""Instance maps as two classes whose objects stay apart, and back.

A network that tells object from background alone can keep two touching objects apart only by a line of background
between them. So encoding opens that line, and `encode_border_weights` makes it weigh; decoding counts connected
pieces, and gives the line back to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headwise.coders.borders import as_instances, encode_border_weights
from headwise.masks import as_mask, ordered
from headwise.require import require
from headwise.whole import check_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def encode_instances(
    label: Tensor | npt.NDArray[np.integer[Any]],
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    balance: bool = True,
    gap: int = 1,
) -> dict[str, Tensor]:
    """Targets of instance maps: object or background, and the weight of each pixel.

    Args:
        label: Number of the object at each pixel, 0 for background, (N, H, W) or (H, W), integer, a tensor or an
            array.
        w0: Height of the border term; 0 for class weights alone.
        sigma: Its width in pixels.
        balance: Whether the classes are balanced; see `encode_border_weights`.
        gap: Pixels of background that are opened between objects that touch, 0 for none.

    Returns:
        ``{"label": int64, 0 or 1, "weight_map": float32}``, in the shape of `label`.

    Raises:
        ValueError: A dtype, a shape, a number or an option is out of its range.
        ImportError: scipy is missing.

    Reference:
        Ronneberger et al., U-Net, MICCAI 2015, section 3: small separation borders between touching cells.
    """
    apart = open_gaps(as_instances("encode_instances", label).detach().cpu(), gap)
    weights = encode_border_weights(apart, w0=w0, sigma=sigma, balance=balance)
    return {"label": as_mask(apart).long(), "weight_map": weights}


def open_gaps(label: Tensor | npt.NDArray[np.integer[Any]], gap: int = 1) -> Tensor:
    """Turn the edge of one of two touching objects, the one of the smaller number, into background.

    Args:
        label: Instance maps, (N, H, W) or (H, W), integer, a tensor or an array.
        gap: How broad; a pixel goes where an object of a larger number is at most as many steps along the axes
            away. 0 changes nothing; from 1 on, no two pixels of different objects share a side.

    Returns:
        The maps, a tensor of the same shape and dtype.

    Raises:
        ValueError: `gap` is negative, or the label no map of numbers.
    """
    label = as_instances("open_gaps", label)
    check_whole("open_gaps", 0, gap=gap)
    height, width = label.shape[-2:]
    numbers = ordered(label)
    padded = torch.nn.functional.pad(numbers, (gap,) * 4)
    largest = numbers
    for down in range(2 * gap + 1):
        reach = gap - abs(down - gap)
        for right in range(gap - reach, gap + reach + 1):
            largest = torch.maximum(largest, padded[..., down : down + height, right : right + width])
    return torch.where(largest > numbers, 0, label)


def decode_instances(
    outputs: Mapping[str, Any], *, threshold: float = 0.5, min_area: int = 0, close: int = 1
) -> list[dict[str, Tensor]]:
    """Objects from logits: connected pieces of what is more likely object than background.

    Args:
        outputs: ``{"logits": (N, C, H, W)}`` or ``{"levels": [...]}``, whose first level is read; class 0 is the
            background.
        threshold: An object's pixels are not background with more than this probability, in [0, 1).
        min_area: Least number of pixels of a piece, before its gaps are closed.
        close: How far, in pixels, narrow background is closed: it goes to the nearest object. Objects stay apart.

    Returns:
        Per image ``{"label": (H, W) int64 from 1 on, "scores": (n,) float32}``; the score of an object is the mean
        probability over its piece.

    Raises:
        ValueError: An option is out of its range, the outputs have neither of these forms, or hold a value that is not
            a number.
        ImportError: scipy is missing.
    """
    check_whole("decode_instances", 0, min_area=min_area, close=close)
    if not 0 <= threshold < 1:
        raise ValueError(f"decode_instances: threshold is in [0, 1), found {threshold}.")
    probability = object_probability(outputs).numpy()
    return [_decode(each, threshold, min_area, close) for each in probability]


def object_probability(outputs: Mapping[str, Any]) -> Tensor:
    """Return the probability of not being background, (N, H, W) float32 on the CPU.

    Args:
        outputs: As in `decode_instances`.

    Returns:
        The probabilities.

    Raises:
        ValueError: The outputs have neither of the two forms, less than two classes, or a value that is not a number.
    """
    named = outputs if isinstance(outputs, Mapping) else {}
    levels = named.get("levels")
    logits = levels[0] if isinstance(levels, Sequence) and len(levels) else named.get("logits")
    if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] < 2:
        found = f"{tuple(logits.shape)}" if isinstance(logits, Tensor) else f"the keys {', '.join(named)}"
        found = found if isinstance(outputs, Mapping) else type(outputs).__name__
        raise ValueError(
            "decode_instances: outputs are 'logits' (N, C, H, W) or a list 'levels' of them, with C >= 2; "
            f"found {found}."
        )
    probability = 1 - logits.detach().float().softmax(dim=1)[:, 0].cpu()
    broken = probability.isnan().flatten(1).any(1).tolist()
    if any(broken):
        raise ValueError(
            f"decode_instances: the logits of image {broken.index(True)} hold a value that is not a number. The "
            "network has diverged, or overflowed in half precision."
        )
    return probability


def _decode(probability: npt.NDArray[Any], threshold: float, min_area: int, close: int) -> dict[str, Tensor]:
    require("coders.instances", "data", "numpy", "scipy")
    import numpy as np
    from scipy import ndimage

    pieces, num = ndimage.label(probability > threshold)
    areas = np.bincount(pieces.ravel(), minlength=num + 1)
    kept = [number for number in range(1, num + 1) if areas[number] >= max(min_area, 1)]
    renumbered = np.zeros(num + 1, np.int64)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    label = renumbered[pieces]
    scores = ndimage.mean(probability, label, np.arange(1, len(kept) + 1)) if kept else []
    return {
        "label": torch.from_numpy(_close(label, close)),
        "scores": torch.tensor(np.asarray(scores, np.float32)),
    }


def _close(label: npt.NDArray[Any], close: int) -> npt.NDArray[Any]:
    """Give background that a disk of this radius does not fit into to the nearest object."""
    import numpy as np
    from scipy import ndimage

    if not close or not label.any():
        return label
    # The border must count as background all around, or closing would eat it.
    around = np.pad(label, 2 * close)
    disk = np.hypot(*np.mgrid[-close : close + 1, -close : close + 1]) <= close + 0.5
    narrow = ndimage.binary_closing(around > 0, disk) & (around == 0)
    rows, columns = ndimage.distance_transform_edt(around == 0, return_distances=False, return_indices=True)
    closed: npt.NDArray[Any] = np.where(narrow, around[rows, columns], around)
    return closed[2 * close : -2 * close, 2 * close : -2 * close]
