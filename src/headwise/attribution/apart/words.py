"""What the name of a loss says: a total, a loss, or a metric."""

from __future__ import annotations

import re
from functools import lru_cache

TOTAL_NAMES = frozenset({
    "loss", "total", "total_loss", "loss_total", "losses_total", "overall", "overall_loss", "loss_overall", "sum",
    "loss_sum", "sum_loss", "full_loss", "final_loss", "loss_final", "objective", "cost", "loss_all", "all_loss", "all",
    "combined", "combined_loss", "everything",
})  # fmt: skip
"""Names under which training code keeps a sum of losses."""

_METRIC = re.compile(
    r"(^|_)(acc|accuracy|iou|miou|mae|rmse|psnr|ssim|f1|precision|recall|err|error|num|n|count|lr|norm|ap|map|score|top\d|"
    r"scale|temperature|temp|ratio|rate|step|epoch|perplexity|ppl|metric|metrics|class_error|cardinality_error|"
    r"std|stdev|mean|median|min|max|frac|fraction|usage)(_|$)"
)
_NO_LOSSES = re.compile(r"(^|\.)(weights?|lambdas?|coefs?|logs?|metrics?|stats|info|meta|config|hparams)\.")
"""Groups that hold what is told of losses, or done to them."""


def numbered(name: str, number: int) -> str:
    """The name of the first, second, ... thing of one name."""
    return name if number == 1 else f"{name} ({number})"


def without_number(name: str) -> str:
    """What things that differ in a number alone are called: ``losses[2]`` is one of the ``losses``."""
    return re.sub(r"(\[\d+\]| \(\d+\))+$", "", name)


def last_key(name: str) -> str:
    """The last key of a path: of ``found.decoder.0`` that is ``decoder.0``."""
    keys = name.split(".")
    while len(keys) > 1 and keys[-1].isdecimal():
        keys = [*keys[:-2], f"{keys[-2]}_{keys[-1]}"]
    return keys[-1]


def says_loss(name: str) -> bool:
    """Whether the name itself, not that of a group around it, is a loss's."""
    return "loss" in last_key(name).lower()


def says_total(name: str) -> bool:
    """Whether a name is that of a total."""
    return plain_name(name) in TOTAL_NAMES or _lower(name) in {*TOTAL_NAMES, "output"}


def is_metric(name: str) -> bool:
    """Whether a name is that of something measured rather than trained on."""
    said = _METRIC.search(plain_name(last_key(name))) or _NO_LOSSES.search(name.lower())
    return not says_loss(name) and said is not None


def plain_name(name: str) -> str:
    """A name in lower case with underscores, without "loss" at either end: "loss_Sin" and "sin_loss" are "sin"."""
    text = _lower(name)
    short = re.sub(r"^(loss|l)_|_(loss|losses|l)$", "", text)
    return short or text


@lru_cache(maxsize=1024)  # asked of the same names in every step
def _lower(name: str) -> str:
    """A name in lower case with underscores, without the keys above it."""
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.rpartition(".")[2] or name)
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
