"""Readers of the field's formats, the embedded samples, and what stands between a picture and a batch.

Coordinates in this room are those of pixel centres: the middle of the top left pixel is (0, 0), that of the
bottom right one (W - 1, H - 1); a mirrored picture therefore sends x to W - 1 - x.
"""

from importlib.util import find_spec

_MISSING = [name for name in ("numpy", "PIL", "cv2", "torchvision") if find_spec(name) is None]
if _MISSING:
    raise ImportError(f"headwise.data needs {', '.join(_MISSING)}. Install with: pip install headwise[data]")

from headwise.data.annotation import Picture, PictureDataset, TextAnnotation  # noqa: E402  the check comes first
from headwise.data.augmentation import TextAugmentation, normalise  # noqa: E402
from headwise.data.embedded import embedded_text  # noqa: E402
from headwise.data.loading import BatchSampler, SampleKey, seeded_loader  # noqa: E402
from headwise.data.pictures import load_picture  # noqa: E402
from headwise.data.total_text import read_total_text  # noqa: E402

__all__ = [
    "Picture",
    "PictureDataset",
    "TextAnnotation",
    "load_picture",
    "read_total_text",
    "embedded_text",
    "TextAugmentation",
    "normalise",
    "BatchSampler",
    "SampleKey",
    "seeded_loader",
]
