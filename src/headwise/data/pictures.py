"""Decoding picture files, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def load_picture(path: str | Path) -> NDArray[np.uint8]:
    """Decode a picture file.

    Args:
        path: a file of any format that Pillow reads.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        OSError: the file is missing, truncated or no picture; the message names it.
        ValueError: its values have more than 8 bits.
    """
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            if not _is_deep(mode):
                return np.array(picture.convert("RGB"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such picture. Check the path.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise _undecodable(path, error) from None
    raise ValueError(
        f"{path}: a picture of mode {mode!r}, whose values have more than 8 bits. Scale it to 0..255 and save it with "
        "8 bits."
    )


def _is_deep(mode: str) -> bool:
    """Whether Pillow would clip the values of this mode at 255 instead of scaling them."""
    return mode[0] in "IF"


def check_picture(path: str | Path) -> None:
    """Refuse a picture that does not decode to its end.

    A JPEG is decoded at an eighth of its size, which reads all of its bytes in a fraction of the time.

    Args:
        path: the file.

    Raises:
        OSError: the file is truncated or no picture; the message names it.
    """
    try:
        with Image.open(path) as picture:
            picture.draft("L", (max(picture.width // 8, 1), max(picture.height // 8, 1)))
            picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise _undecodable(path, error) from None


def _undecodable(path: str | Path, error: Exception) -> OSError:
    """Name the file in front of Pillow's reason, which may name it again behind a line break."""
    reason = str(error).splitlines()[0].replace(f" {str(path)!r}", "")
    return OSError(f"{path}: the picture cannot be decoded ({reason}). Replace or remove the file.")
