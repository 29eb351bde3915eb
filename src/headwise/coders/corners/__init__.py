"""Boxes as pairs of corners: targets of CornerNet, CornerNet-Saccade and CenterNet, and boxes from their outputs."""

from headwise.coders.corners.crops import Crops, crops_around, initial_locations
from headwise.coders.corners.decoding import decode_corners
from headwise.coders.corners.encoding import encode_corners
from headwise.coders.corners.locations import attention_locations, reference_locations, suppress_locations
from headwise.coders.corners.passes import Pass, merge_passes, suppress_boxes
from headwise.coders.corners.placement import Placement, place_picture
from headwise.coders.corners.saccade_decoding import decode_saccade, saccade_inference
from headwise.coders.corners.saccade_encoding import encode_saccade

__all__ = [
    "encode_corners",
    "encode_saccade",
    "decode_corners",
    "merge_passes",
    "suppress_boxes",
    "Pass",
    "Placement",
    "place_picture",
    "decode_saccade",
    "saccade_inference",
    "Crops",
    "crops_around",
    "initial_locations",
    "attention_locations",
    "reference_locations",
    "suppress_locations",
]
