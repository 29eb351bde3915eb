"""The one place where picture files are opened: as a viewer shows them, with errors that name the file."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]
Pixels = NDArray[Any]

_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = 1
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda raw: raw[:, ::-1],
    3: lambda raw: raw[::-1, ::-1],
    4: lambda raw: raw[::-1],
    5: lambda raw: raw.swapaxes(0, 1),
    6: lambda raw: np.rot90(raw, -1),
    7: lambda raw: raw.swapaxes(0, 1)[::-1, ::-1],
    8: np.rot90,
}
_LARGE = 256  # pixels; an eighth of what is smaller may look like that of another picture
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # formats that may keep a number's neighborhood, not the number
_LOSSY_IN_TIFF = ("jpeg", "webp")
_OF_SEVERAL = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")  # formats of stacks and animations; a camera's MPO is one picture
_BACK = {6: 8, 8: 6}  # every other turn is its own inverse
_SIDEWAYS = (5, 6, 7, 8)  # height and width change places

ENDINGS = tuple(
    f".{ending}"
    for ending in "avif bmp gif jfif jp2 jpeg jpg pbm pgm png ppm tif tiff webp".split()  # noqa: SIM905
)
"""Of the files that are taken from a folder as pictures, in lower case."""

MIXED_UP = (
    "pictures are stored turned or mirrored, with an EXIF orientation, and nothing tells whether they were annotated "
    "as stored or as displayed; they are read as displayed, as viewers show them. If boxes lie beside their objects, "
    "save the pictures upright without EXIF"
)
"""What is said of pictures whose EXIF orientation no annotated size decides."""


class Numbers(NamedTuple):
    """The objects of an instance map: how many, how many separate parts they have, the largest number and the next.

    And whether they fill it, so that there is no background.
    """

    objects: int
    parts: int
    largest: int
    second: int
    full: bool


class Look(NamedTuple):
    """What a decoded file shows of itself.

    Args:
        size: (height, width) in pixels, as the picture is read.
        doubtful: whether an EXIF orientation turns it, and no annotated size says that this was meant.
        digest: of its pixels, of a large JPEG those of its eighth; the same picture has the same, whatever its file is
            called and tells beside.
        numbers: of an instance map that goes with it; None where there is none.
    """

    size: Size
    doubtful: bool
    digest: str
    numbers: Numbers | None = None


def load_picture(path: str | Path, size: Size | None = None) -> NDArray[np.uint8]:
    """Decode a picture file, turned as its EXIF orientation says: as it is displayed.

    Args:
        path: a file of any format that Pillow reads.
        size: (height, width) that its annotation was made on. Where this is the size of the picture as stored and not
            as displayed, it is left as stored.

    Returns:
        (H, W, 3) uint8 RGB; of another size than `size` if neither fits.

    Raises:
        OSError: the file is missing, truncated, too large for Pillow or no picture; the message names it.
        ValueError: its values have more than 8 bits, or it holds several pictures.
    """
    with opened(path) as picture:
        _refuse_deep(path, picture.mode)
        turn = _orientation(picture)
        shown = _displayed(picture.convert("RGB"), picture)
    return np.ascontiguousarray(_as_annotated(shown, turn, size))


def load_numbers(path: str | Path) -> tuple[Pixels, str]:
    """Decode a file whose pixels are numbers, not colors, turned as its EXIF orientation says.

    Args:
        path: a PNG, for instance.

    Returns:
        (H, W, ...) as stored, and Pillow's mode.

    Raises:
        OSError: the file is missing, truncated, too large for Pillow or no picture; the message names it.
        ValueError: it is stored in a way that changes numbers, such as a JPEG, whatever it is called; or it
            holds several pictures.
    """
    with opened(path) as picture:
        picture.load()
        if picture.format in _LOSSY or picture.info.get("compression") in _LOSSY_IN_TIFF:
            raise _UnfitError(
                f"{path}: its content is a {picture.format} whose compression changes numbers, so that objects are "
                "not told apart. Save the numbers anew as PNG, from where they came."
            )
        return _displayed(picture, picture), picture.mode


def check_picture(path: str | Path, size: Size | None = None) -> Look:
    """Decode a picture file to its last byte, for what is wrong with it.

    A large JPEG is decoded at an eighth of its size, which reads all of its bytes in a fraction of the time.

    Args:
        path: the file.
        size: (height, width) that its annotation was made on; None if unknown.

    Returns:
        What `load_picture` would return is of this size.

    Raises:
        OSError: the file is missing, truncated, too large for Pillow or no picture; the message names it.
        ValueError: its values have more than 8 bits, or it holds several pictures.
    """
    with opened(path) as picture:
        _refuse_deep(path, picture.mode)
        turn, stored = _orientation(picture), (picture.height, picture.width)
        if min(stored) >= _LARGE:
            picture.draft("L", (picture.width // 8, picture.height // 8))
        picture.load()
        left = _orientation(picture)
        digest = hashlib.blake2b(repr((picture.size, stored)).encode() + picture.tobytes(), digest_size=16).hexdigest()
    displayed = stored[::-1] if left in _SIDEWAYS else stored
    oblong = turn in _SIDEWAYS and displayed[0] != displayed[1]
    if oblong and size is not None and size in (displayed, displayed[::-1]):
        return Look(size, False, digest)
    return Look(displayed, turn != _UPRIGHT, digest)


class _UnfitError(ValueError):
    """What a file holds is no picture of the kind that is wanted; `opened` lets it pass as it is."""


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """Open a file of one picture. Whatever goes wrong inside, of whatever class, is one error that names the file.

    Args:
        path: the file.

    Yields:
        Pillow's picture, not yet decoded.

    Raises:
        OSError: the file is missing, too large for Pillow, or cannot be decoded.
        ValueError: it holds several pictures.
    """
    try:
        with Image.open(path) as picture:
            _refuse_several(path, _number(picture))
            yield picture
    except _UnfitError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such picture. Check the path.") from None
    except Image.DecompressionBombError as error:
        raise OSError(
            f"{path}: the picture is too large to be opened ({_reason(error)}). Save it in parts or smaller, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from None
    except Exception as error:  # Pillow's plugins raise any class: struct.error, RuntimeError, IndexError
        raise OSError(
            f"{path}: the picture cannot be decoded ({_reason(error)}). Replace or remove the file."
        ) from None


def _reason(error: Exception) -> str:
    """The first line of what a library says, which may name the file again."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    return re.sub(r" (file )?'.*'$", "", lines[0]) if lines else type(error).__name__


def _refuse_deep(path: str | Path, mode: str) -> None:
    if mode[0] in "IF":  # Pillow would clip values at 255 instead of scaling them
        raise _UnfitError(
            f"{path}: a picture of mode {mode!r}, whose values have more than 8 bits. Scale it to 0..255 and save it "
            "with 8 bits."
        )


def _number(picture: Image.Image) -> int:
    """How many pictures of one size a file holds; smaller ones beside the first are its thumbnails."""
    number = getattr(picture, "n_frames", 1) if picture.format in _OF_SEVERAL else 1
    if number == 1:
        return 1
    first = picture.size
    picture.seek(1)
    alike = picture.size == first
    picture.seek(0)
    return number if alike else 1


def _refuse_several(path: str | Path, number: int) -> None:
    if number > 1:
        raise _UnfitError(
            f"{path}: a stack or an animation of {number} pictures, and which of them is meant is not known. Save that "
            "one, or each, as a file of its own."
        )


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation; upright where there is none, or none that can be read, as viewers have it."""
    try:
        found = picture.getexif().get(_ORIENTATION)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
        return _UPRIGHT
    return found if found in _TURNS else _UPRIGHT


def _displayed(decoded: Image.Image, picture: Image.Image) -> Pixels:
    """The pixels turned by what is left to turn: Pillow turns a TIFF as it decodes it, and forgets its orientation."""
    pixels = np.array(decoded)
    left = _orientation(picture)
    return _TURNS[left](pixels) if left in _TURNS else pixels


def _as_annotated(shown: Pixels, turn: int, size: Size | None) -> Pixels:
    """Turn a picture back if only as stored it has the size that was annotated."""
    if turn in _SIDEWAYS and size not in (None, shown.shape[:2]) and size == shown.shape[1::-1]:
        return _TURNS[_BACK.get(turn, turn)](shown)
    return shown
