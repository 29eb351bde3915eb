"""Where the authors' parameters, by their names, belong in these networks."""

from __future__ import annotations

import re

POINTS = {"tl": "top_left", "br": "bottom_right", "ct": "center"}
KINDS = {"heats": "heatmap", "tags": "embedding", "offs": "offset", "regrs": "offset"}
TRUNK = {
    "pre": "stem",
    "hgs": "hourglasses",  # CornerNet-Lite
    "kps": "hourglasses",  # CenterNet
    "cnvs": "smooth",
    "inters": "between",
    "inters_": "from_input",
    "cnvs_": "from_features",
}
HEAD = {"0.conv": "conv", "1": "out"}
MERGER = {"0": "conv", "1": "norm"}
BLOCK = {
    "up1": "up",
    "low1": "down",
    "low2": "inner",
    "low3": "back",
    "up2": "upsample",
    "bn": "norm",
    "conv1": "first.conv",
    "bn1": "first.norm",
    "conv2": "second.conv",
    "bn2": "second.norm",
    "conv_1x1": "second.pointwise",
    "conv_3x3": "second.depthwise",
    "skip.0": "project.conv",
    "skip.1": "project.norm",
}
# The authors' first branch is pooled along the columns, their second along the rows; each looks along the other.
POOL = {
    "p1_conv1": "vertical",
    "p2_conv1": "horizontal",
    "look_conv1": "look_horizontally",
    "look_conv2": "look_vertically",
    "P1_look_conv": "mix_vertical",
    "P2_look_conv": "mix_horizontal",
    "p_conv1": "merge.pooled.conv",
    "p_bn1": "merge.pooled.norm",
    "conv1": "merge.direct.conv",
    "bn1": "merge.direct.norm",
    "conv2": "merge.out",
    "bn": "norm",
}


def own_name(name: str) -> str:
    """Translate a name of the authors' state dicts into the name of the same tensor in ``CornerDetector``.

    Args:
        name: as the authors saved it, without the prefix ``module.``.

    Returns:
        The name here; a name that is none of theirs, as it is.

    Reference:
        princeton-vl/CornerNet-Lite at 6a54505d, core/models/py_utils/modules.py and utils.py;
        Duankaiwen/CenterNet at 3ad3a106, models/py_utils/kp.py and models/CenterNet-104.py.
    """
    if found := re.match(r"(tl|br|ct)_(?:modules|cnvs)\.(\d+)\.", name):
        point, stack = found.groups()
        return f"stacks.{stack}.pools.{POINTS[point]}." + _translate(name[found.end() :], POOL)
    if found := re.match(r"(tl|br|ct)_(heats|tags|offs|regrs)\.(\d+)\.", name):
        point, kind, stack = found.groups()
        return f"stacks.{stack}.heads.{POINTS[point]}_{KINDS[kind]}." + _translate(name[found.end() :], HEAD)
    if found := re.match(r"att_modules\.(\d+)\.(\d+)\.", name):
        stack, scale = found.groups()
        return f"stacks.{stack}.attention.{scale}." + _translate(name[found.end() :], HEAD)
    if found := re.match(r"(?:hg\.)?(pre|hgs|kps|cnvs_?|inters_?)\.(\d+)\.", name):
        part, place = found.groups()
        layers = MERGER if part.endswith("_") else BLOCK
        return f"trunk.{TRUNK[part]}.{place}." + _translate(name[found.end() :], layers)
    return name


def _translate(name: str, words: dict[str, str]) -> str:
    """Replace the words between the dots, each where it stands."""
    listed = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.sub(rf"(?<![^.])(?:{listed})(?=\.)", lambda found: words[found[0]], name)
