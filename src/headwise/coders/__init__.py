"""Coders: annotation -> targets (``encode_*``) beside its inverse, outputs -> annotation (``decode_*``).

One file per family: ``snakes`` (text as a string of discs, TextSnake). Coders run on the CPU, outside the
autograd graph, and need the extra ``headwise[coders]``.
"""

from headwise.coders import snakes

__all__ = ["snakes"]
