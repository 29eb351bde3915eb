"""The published corner detectors, and tiny ones of the same structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from headwise.networks.corners.detector import CornerDetector, Size, Traits
from headwise.whole import check_whole

# Tiny ones take about a quarter of a second of one core for a step of 8 images of 128 x 128, in channels last.
CORNERNET_SIZES: dict[int | str, Size] = {
    "full": Size(),
    "tiny": Size(stem=16, widths=(32, 48, 64), counts=(1, 1, 1), pooled=16, hidden=32),
}
SQUEEZE_SIZES: dict[int | str, Size] = {
    "full": Size(widths=(256, 256, 384, 384, 512), counts=(2, 2, 2, 2, 4), stride=8),
    "tiny": Size(stem=16, widths=(64, 96, 128), counts=(2, 2, 2), pooled=32, hidden=64, stride=8),
}
SACCADE_SIZES: dict[int | str, Size] = {
    "full": Size(widths=(256, 384, 384, 512), counts=(1, 1, 1, 1)),
    "tiny": Size(stem=16, widths=(24, 32, 32, 48), counts=(1, 1, 1, 1), pooled=16, hidden=24),
}
CENTERNET_SIZES: dict[int | str, Size] = {
    104: Size(),
    52: Size(),
    "tiny": Size(stem=16, widths=(24, 32, 48), counts=(1, 1, 1), pooled=16, hidden=24),
}


def cornernet(num_classes: int = 80, *, size: Literal["full", "tiny"] = "full", num_stacks: int = 2) -> CornerDetector:
    """Build CornerNet: hourglasses of residual blocks, corner pooling, outputs at a stride of 4.

    Args:
        num_classes: classes, without background.
        size: ``"full"``: the published widths (Hourglass-104), 201,035,212 parameters with 80 classes and 2
            stacks, for inputs of 511 x 511: heights and widths of 125 to 128 more than a multiple of 128.
            ``"tiny"``: the same structure, narrow, for inputs of about 128 x 128: heights and widths of 13 to
            16 more than a multiple of 16.
        num_stacks: hourglasses.

    Returns:
        The network, in training mode. ``network(images)`` gives ``{"stacks": [...]}``: for every stack, raw
        ``top_left_heatmap``, ``top_left_embedding``, ``top_left_offset`` and the same of ``bottom_right``.

    Raises:
        ValueError: no classes, no stacks, or an unknown size.

    Reference:
        Law and Deng, CornerNet: detecting objects as paired keypoints, ECCV 2018; princeton-vl/CornerNet-Lite
        at 6a54505d, core/models/CornerNet.py.
    """
    return _build("cornernet", num_classes, num_stacks, CORNERNET_SIZES, size, Traits())


def cornernet_squeeze(
    num_classes: int = 80, *, size: Literal["full", "tiny"] = "full", num_stacks: int = 2
) -> CornerDetector:
    """Build CornerNet-Squeeze: CornerNet with fire modules and 1x1 heads, outputs at a stride of 8.

    Args:
        num_classes: classes, without background.
        size: ``"full"``: the published widths, 31,771,852 parameters with 80 classes and 2 stacks, for inputs
            of 511 x 511: heights and widths of 121 to 128 more than a multiple of 128. ``"tiny"``: the same
            structure, narrow, for inputs of about 128 x 128: heights and widths of 25 to 32 more than a
            multiple of 32.
        num_stacks: hourglasses.

    Returns:
        The network, in training mode; outputs as of ``cornernet``.

    Raises:
        ValueError: no classes, no stacks, or an unknown size.

    Reference:
        Law et al., CornerNet-Lite: efficient keypoint based object detection, BMVC 2020, section 4;
        princeton-vl/CornerNet-Lite at 6a54505d, core/models/CornerNet_Squeeze.py.
    """
    return _build("cornernet_squeeze", num_classes, num_stacks, SQUEEZE_SIZES, size, Traits(fire=True))


def cornernet_saccade(
    num_classes: int = 80, *, size: Literal["full", "tiny"] = "full", num_stacks: int = 3
) -> CornerDetector:
    """Build CornerNet-Saccade: CornerNet with smaller hourglasses, and attention at their merged features.

    Args:
        num_classes: classes, without background.
        size: ``"full"``: the published widths, 116,969,339 parameters with 80 classes and 3 stacks, for inputs
            of 255 x 255: heights and widths of 29 to 32 more than a multiple of 32. ``"tiny"``: the same
            structure, narrow.
        num_stacks: hourglasses.

    Returns:
        The network, in training mode; outputs as of ``cornernet``, and in each stack ``"attention"``: logits
        at strides of 16, 8 and 4 pixels.

    Raises:
        ValueError: no classes, no stacks, or an unknown size.

    Reference:
        Law et al., CornerNet-Lite: efficient keypoint based object detection, BMVC 2020, section 3;
        princeton-vl/CornerNet-Lite at 6a54505d, core/models/CornerNet_Saccade.py.
    """
    return _build("cornernet_saccade", num_classes, num_stacks, SACCADE_SIZES, size, Traits(attention=True))


def centernet(
    num_classes: int = 80, *, size: Literal[104, 52, "tiny"] = 104, num_stacks: int | None = None
) -> CornerDetector:
    """Build CenterNet: CornerNet with cascade corner pooling, and center pooling with center heads.

    Args:
        num_classes: classes, without background.
        size: 104: the published network of 2 stacks, 210,062,960 parameters with 80 classes; 52: of 1 stack,
            104,844,152 parameters; inputs as of ``cornernet``. ``"tiny"``: the same structure, narrow.
        num_stacks: hourglasses; None: 2, or 1 of size 52.

    Returns:
        The network, in training mode; outputs as of ``cornernet``, and in each stack ``"center_heatmap"`` and
        ``"center_offset"``.

    Raises:
        ValueError: no classes, no stacks, or an unknown size.

    Reference:
        Duan et al., CenterNet: keypoint triplets for object detection, ICCV 2019; Duankaiwen/CenterNet at
        3ad3a106, models/CenterNet-104.py and models/py_utils/kp.py.

    Differs:
        Embeddings and offsets are maps; the authors' network gathers them at the objects.
    """
    stacks = num_stacks if num_stacks is not None else 1 if size == 52 else 2
    return _build("centernet", num_classes, stacks, CENTERNET_SIZES, size, Traits(center=True))


def _build(
    name: str,
    num_classes: int,
    num_stacks: int,
    sizes: Mapping[int | str, Size],
    size: int | str,
    traits: Traits,
) -> CornerDetector:
    check_whole(f"networks.{name}", num_classes=num_classes, num_stacks=num_stacks)
    if size not in sizes:
        listed = " or ".join(map(repr, sizes))
        raise ValueError(f"networks.{name}: size is {listed}, found {size!r}.")
    return CornerDetector(num_classes, num_stacks, sizes[size], traits)
