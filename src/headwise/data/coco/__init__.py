"""COCO's files: pictures with boxes, read, checked and written."""

from headwise.data.coco.files import find_file, name_splits
from headwise.data.coco.reading import Coco, read_categories, read_coco
from headwise.data.coco.writing import write_coco, write_detections

__all__ = ["Coco", "find_file", "name_splits", "read_categories", "read_coco", "write_coco", "write_detections"]
