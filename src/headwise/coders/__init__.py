"""Coders: annotation -> targets (``encode_*``) beside its inverse, outputs -> annotation (``decode_*``).

One file per family: ``snakes`` (text as a string of discs, TextSnake), ``borders`` (weight maps of
instances, U-Net), ``instances`` (instance maps as two classes with gaps, and back). Coders run on the CPU,
outside the autograd graph, and need the extra ``headwise[coders]``;
``borders`` and ``instances`` need ``headwise[data]``, ``anchors`` (boxes of RetinaNet and SSD) ``headwise[vision]``.
``corners`` (boxes as pairs of corners, CornerNet and its kin, on ``heatmaps`` and ``soft_nms``) needs torch alone, and
runs where its tensors are.
"""

from headwise.coders import anchors, borders, corners, instances, snakes

__all__ = ["anchors", "borders", "corners", "instances", "snakes"]
