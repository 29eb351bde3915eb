"""TextSnake: seven channels, five losses.

Outputs ``{"maps": (N, 7, H, W)}``, targets and names as in the table; all weights are 1. The total is the plain sum.

==============  ==================================  =================  ===================  =========================
term            loss                                normalizer         reads                source
==============  ==================================  =================  ===================  =========================
text_region     hard_negative_cross_entropy, 3:1    mined(ratio=3)     maps[:, 0:2]         paper eq. 10, loss.py ohem
center_line     mask_cross_entropy                  count              maps[:, 2:4]         paper eq. 10, loss.py tcl
radius          relative_smooth_l1                  positive           maps[:, 6]           paper eq. 11, loss.py
sin             direction_smooth_l1, component 0    count              maps[:, 4:6]         paper eq. 11, loss.py
cos             direction_smooth_l1, component 1    count              maps[:, 4:6]         paper eq. 11, loss.py
==============  ==================================  =================  ===================  =========================

Masks: ``valid`` for text_region, ``valid & text_region`` for center_line, ``valid & center_line`` for the geometry.

Sources: Long et al., TextSnake: a flexible representation for detecting text of arbitrary shapes, ECCV 2018;
princewang1994/TextSnake.pytorch at b4ee996d, network/loss.py.

Differs from the authors' code (``as_published=True`` brings each back, except where they crash):

* Geometry counts valid pixels alone; theirs counts the center lines of ignored words too, as soon as one valid
  center line pixel exists (T5).
* sin and cos are selected by the mask before they are divided by their norm; theirs divides everywhere, so that one
  pixel with sin = cos = 0 makes the gradient NaN (T2).
* Pixels whose target radius is 0 are left out; theirs makes the loss infinite (T6).
* Too few negatives, no text, masks of any dtype: right numbers, where theirs crashes or indexes (T3, T4, T7, T8).
* Terms have names, where theirs returns a tuple that the training script unpacks in another order (T1).

Not invariant to how a batch is split: the hardest negatives are chosen over the micro-batch, as published;
``selection="image"`` chooses within each image and is invariant (T15). As published, the geometry is not either: one
valid center line pixel in a micro-batch lets all its others count (T5).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from headwise import losses
from headwise.criterion import Criterion, Term


def textsnake(
    *,
    as_published: bool = False,
    ratio: float = 3.0,
    selection: Literal["batch", "image"] = "batch",
    compile: bool = False,
) -> Criterion:
    """The criterion of TextSnake; the card is at the top of this module.

    Args:
        as_published: Reproduce the authors' values and gradients, defects included.
        ratio: Negatives per positive in the text region.
        selection: Whether the hardest negatives are chosen over the batch or within each image.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms text_region, center_line, radius, sin, cos.

    Raises:
        ValueError: `selection` is neither "batch" nor "image", or "image" is asked for as published.
    """
    if selection not in ("batch", "image") or (as_published and selection == "image"):
        raise ValueError(
            f"presets.textsnake: selection is 'batch', or 'image' where not as published; found {selection!r}"
        )
    per_image = selection == "image"
    region = Term(
        "text_region",
        partial(losses.hard_negative_cross_entropy, ratio=ratio, per_image=per_image),
        output="maps[:, 0:2]",
        target="text_region",
        mask="valid",
    )
    line = Term(
        "center_line",
        losses.mask_cross_entropy,
        output="maps[:, 2:4]",
        target="center_line",
        mask="valid & text_region",
    )
    geometry = _published_geometry() if as_published else _geometry()
    return Criterion([region, line, *geometry], compile=compile)


def _geometry() -> list[Term]:
    mask = "valid & center_line"
    direction = losses.direction_smooth_l1
    return [
        Term("radius", losses.relative_smooth_l1, output="maps[:, 6]", target="radius", mask=mask),
        Term("sin", partial(direction, component=0), output="maps[:, 4:6]", target="sin", mask=mask),
        Term("cos", partial(direction, component=1), output="maps[:, 4:6]", target="cos", mask=mask),
    ]


def _published_geometry() -> list[Term]:
    radius, direction = losses.published_relative_smooth_l1, losses.published_direction_smooth_l1
    sin, cos = partial(direction, component=0), partial(direction, component=1)
    return [
        Term("radius", radius, output="maps[:, 6]", target=("radius", "valid"), mask="center_line"),
        Term("sin", sin, output="maps[:, 4:6]", target=("sin", "valid"), mask="center_line"),
        Term("cos", cos, output="maps[:, 4:6]", target=("cos", "valid"), mask="center_line"),
    ]
