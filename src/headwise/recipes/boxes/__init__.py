"""Boxes: the corner detectors, RetinaNet and SSD."""
