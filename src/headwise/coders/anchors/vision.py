"""torchvision's operations on boxes, imported when they are used."""

from __future__ import annotations

from typing import Any


def box_ops() -> Any:
    """torchvision.ops.

    Returns:
        The module.

    Raises:
        ImportError: torchvision is missing.
    """
    try:
        from torchvision import ops
    except ImportError as error:
        raise ImportError("coders.anchors needs torchvision. Install it with: pip install headwise[vision]") from error
    return ops
