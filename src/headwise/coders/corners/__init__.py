"""Boxes as pairs of corners: targets of CornerNet, CornerNet-Saccade and CenterNet, and boxes from their outputs."""

from headwise.coders.corners.encoding import encode_corners
from headwise.coders.corners.saccade_encoding import encode_saccade

__all__ = ["encode_corners", "encode_saccade"]
