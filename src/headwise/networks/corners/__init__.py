"""The corner detectors: stacked hourglasses, corner, cascade corner and center pooling, and their heads."""

from headwise.networks.corners.detector import CornerDetector
from headwise.networks.corners.pooling import pool_bottom, pool_column, pool_left, pool_right, pool_row, pool_top
from headwise.networks.corners.systems import centernet, cornernet, cornernet_saccade, cornernet_squeeze

__all__ = [
    "CornerDetector",
    "centernet",
    "cornernet",
    "cornernet_saccade",
    "cornernet_squeeze",
    "pool_bottom",
    "pool_column",
    "pool_left",
    "pool_right",
    "pool_row",
    "pool_top",
]
