"""Readers of the field's formats, the embedded samples, and what stands between a picture and a batch.

Points of polygons are in pixel centers: the middle of the top left pixel is (0, 0), that of the bottom right
one (W - 1, H - 1); a mirrored picture therefore sends x to W - 1 - x. Boxes are in pixel edges, as COCO and
torchvision have them: the picture spans 0 to W, and a mirrored one sends x to W - x.
"""

from headwise.require import require

require("headwise.data", "data", "numpy", "PIL", "cv2", "torchvision")

from headwise.data.annotation import (  # noqa: E402  the check comes first
    BoxAnnotation,
    BoxDataset,
    Picture,
    PictureDataset,
    TextAnnotation,
)
from headwise.data.augmentation.boxes import BoxAugmentation, CornerAugmentation  # noqa: E402
from headwise.data.augmentation.colors import CORNER_MEAN, CORNER_STD  # noqa: E402
from headwise.data.augmentation.instances import InstanceAugmentation  # noqa: E402
from headwise.data.augmentation.saccade import SaccadeAugmentation  # noqa: E402
from headwise.data.augmentation.text import TextAugmentation, normalize  # noqa: E402
from headwise.data.coco import Coco, read_coco, write_coco, write_detections  # noqa: E402
from headwise.data.embedded.digits import embedded_digits  # noqa: E402
from headwise.data.embedded.instances import embedded_instances  # noqa: E402
from headwise.data.embedded.text import embedded_text  # noqa: E402
from headwise.data.instances import InstanceAnnotation, read_instances  # noqa: E402
from headwise.data.loading import BatchSampler, SampleKey, seeded_loader  # noqa: E402
from headwise.data.pictures import load_picture  # noqa: E402
from headwise.data.total_text import read_total_text  # noqa: E402

__all__ = [
    "Picture",
    "PictureDataset",
    "TextAnnotation",
    "BoxAnnotation",
    "BoxDataset",
    "InstanceAnnotation",
    "load_picture",
    "read_total_text",
    "read_instances",
    "Coco",
    "read_coco",
    "write_coco",
    "write_detections",
    "embedded_text",
    "embedded_digits",
    "embedded_instances",
    "TextAugmentation",
    "BoxAugmentation",
    "CornerAugmentation",
    "SaccadeAugmentation",
    "CORNER_MEAN",
    "CORNER_STD",
    "InstanceAugmentation",
    "normalize",
    "BatchSampler",
    "SampleKey",
    "seeded_loader",
]
