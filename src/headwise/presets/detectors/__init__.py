"""Detectors of boxes: corners and centers on heat maps, and anchors on levels.

CornerNet, CornerNet-Squeeze, CornerNet-Saccade and CenterNet take their terms from `corner_terms`; RetinaNet and SSD
share the term of the boxes, `anchor_terms`.
"""
