"""Maps read at the places of objects alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.dense.elementwise import check_beta
from headwise.losses.parts.checks import are_indices_seen, check_output, select, working_dtype
from headwise.masks import as_mask


@declared(count=normalizers.objects)
def gathered_smooth_l1(
    output: Tensor, index: Tensor, target: Tensor, mask: Tensor | None = None, *, beta: float = 1.0
) -> Tensor:
    """Sum of smooth L1 losses of a map's vectors at the objects, over all channels.

    ``sum over objects i and channels c of s(output_c[index_i] - target_ic)``, s as in `smooth_l1`. Divide by
    `normalizers.count` of the mask for a mean over objects.

    Args:
        output: (N, C, H, W), any floating dtype; C = 2 for offsets (x, y), in cells of the grid.
        index: Where the objects are, (N, K), integer, ``y * W + x``; anything where there is no object.
        target: (N, K, C).
        mask: Which of the K slots hold an object, (N, K), any dtype (positive holds); None: all.
        beta: Where the square passes into the line, > 0, in units of the output.

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype, a shape or ``beta`` does not fit.

    Reference:
        Law and Deng, CornerNet, ECCV 2018, equation 3.
    """
    check_output("gathered_smooth_l1", output, target, mask)
    check_index("gathered_smooth_l1", output, index, mask)
    check_beta("gathered_smooth_l1", beta)
    if target.shape != (*index.shape, output.shape[1]):
        raise ValueError(
            f"gathered_smooth_l1: an index of shape {tuple(index.shape)} and an output of {output.shape[1]} channels "
            f"need a target of shape {(*index.shape, output.shape[1])}, found {tuple(target.shape)}. Put the "
            "channels last."
        )
    keep = None if mask is None else as_mask(mask)
    found = at_objects(output, index, keep)
    wanted = select(None if keep is None else keep.unsqueeze(2), target.to(found.dtype), 0.0)
    return F.smooth_l1_loss(found, wanted, reduction="sum", beta=beta)


def check_index(loss: str, output: Tensor, index: Tensor, mask: Tensor | None) -> None:
    """Asks for a map (N, C, H, W), an integer index (N, K) and a mask of the index's shape.

    Whether an index lies on the map is left to `at_objects`: to ask would wait for the device.

    Args:
        loss: Name of the loss, for the message.
        output: The map.
        index: Where the objects are.
        mask: Which slots hold an object, or None.

    Raises:
        ValueError: If a dtype or a shape does not fit.
    """
    if output.ndim != 4 or index.ndim != 2 or len(output) != len(index):
        raise ValueError(
            f"{loss}: a map (N, C, H, W) is read at an index (N, K), found map {tuple(output.shape)} and index "
            f"{tuple(index.shape)}. Pass whole maps, one row of indices an image."
        )
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise ValueError(
            f"{loss}: the index must be integer, found {index.dtype}. Pass y * W + x as int64, and which slots hold "
            "an object as mask."
        )
    if mask is not None and mask.shape != index.shape:
        raise ValueError(
            f"{loss}: the objects must have the index's shape {tuple(index.shape)}, found {tuple(mask.shape)}. Give "
            "every slot one element."
        )


def _read(cells: Tensor, places: Tensor) -> Tensor:
    """(N, C, H * W) at (N, C, K)."""
    if not are_indices_seen(places):
        return cells.gather(2, places)
    try:
        return cells.gather(2, places)
    except RuntimeError:
        beyond = places[(places < 0) | (places >= cells.shape[2])]
        if not beyond.numel():
            raise
        raise ValueError(
            f"an index is y * W + x of a map of {cells.shape[2]} cells, found {int(beyond[0])}. Encode the objects for "
            "this size of the map, or leave them out with a mask."
        ) from None


def at_objects(output: Tensor, index: Tensor, keep: Tensor | None) -> Tensor:
    """A map's vectors at the objects, in the working dtype.

    Args:
        output: (N, C, H, W).
        index: (N, K).
        keep: Which slots hold an object, (N, K), bool; None: all.

    Returns:
        (N, K, C); 0 where there is no object, whatever the index and the map hold there.

    Raises:
        ValueError: If an index lies beyond the map, on the host.
    """
    places = select(keep, index.long(), 0).unsqueeze(1).expand(-1, output.shape[1], -1)
    values = _read(output.flatten(2), places).transpose(1, 2).to(working_dtype(output))
    return select(None if keep is None else keep.unsqueeze(2), values, 0.0)
