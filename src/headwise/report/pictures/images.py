"""Arrays of pixels as files that are part of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from headwise.report.page.markup import Markup

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def fitted(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) whose longer side is at most `side` pixels."""
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((side, side))
    return np.asarray(picture)


def encode(image: NDArray[np.uint8], kind: Literal["JPEG", "PNG"]) -> bytes:
    """The bytes of a picture (H, W, 3); as PNG in at most 128 colors."""
    from PIL import Image

    content = io.BytesIO()
    if kind == "JPEG":
        Image.fromarray(image).save(content, kind, quality=86)
    else:
        Image.fromarray(image).quantize(128).save(content, kind, optimize=True)
    return content.getvalue()


def upright(shape: Sequence[int]) -> str:
    """The class of a frame whose picture (H, W, ...) is far higher than wide: the page bounds its height."""
    return " tall" if shape[0] > 1.6 * shape[1] else ""


def data_uri(content: bytes, kind: str) -> Markup:
    """An image that is part of the page."""
    return Markup(f"data:image/{kind};base64,{base64.b64encode(content).decode()}")
