"""Boxes as anchors and deltas: targets of RetinaNet and SSD, and boxes from their outputs.

Anchors are a list with one tensor (A_l, 4) a level, x1, y1, x2, y2 in pixels of the network's input, all real numbers.
torchvision's generators make them (``network.anchors(image_size)`` of `networks.retinanet` and `networks.ssd`), or
`centered_anchors`. Needs the extra ``headwise[vision]``.
"""

from headwise.coders.anchors.decode import decode_boxes
from headwise.coders.anchors.deltas import decode_deltas, encode_deltas
from headwise.coders.anchors.encode import encode_boxes
from headwise.coders.anchors.grids import centered_anchors
from headwise.coders.anchors.matching import match

__all__ = ["centered_anchors", "decode_boxes", "decode_deltas", "encode_boxes", "encode_deltas", "match"]
