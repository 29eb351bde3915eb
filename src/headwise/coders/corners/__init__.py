"""Boxes as pairs of corners: targets of CornerNet, CornerNet-Saccade and CenterNet, and boxes from their outputs."""
