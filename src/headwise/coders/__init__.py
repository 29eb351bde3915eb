"""Coders: annotation -> targets (``encode_*``) beside its inverse, outputs -> annotation (``decode_*``).

One file per family: ``snakes`` (text as a string of discs, TextSnake), ``borders`` (weight maps of
instances, U-Net). Coders run on the CPU, outside the autograd graph, and need the extra ``headwise[coders]``;
``borders`` needs ``headwise[data]``, ``anchors`` (boxes of RetinaNet and SSD) ``headwise[vision]``.
"""

from headwise.coders import anchors, borders, snakes

__all__ = ["anchors", "borders", "snakes"]
