"""torchvision's operations on boxes, imported when they are used."""

from __future__ import annotations

from typing import Any

from headwise.require import require


def box_ops() -> Any:
    """torchvision.ops.

    Returns:
        The module.

    Raises:
        ImportError: torchvision is missing.
    """
    require("coders.anchors", "vision")
    from torchvision import ops

    return ops
