"""Held-out pictures as files: what a run saves for its report, and reads back, the same for every system.

A sample is ``<index>.npz``, with the picture beside it as ``<index>.png``. The npz is the contract with reports; it
needs no pickle. Its keys, of which only ``image`` is always there:

=============================  ====================================================================================
``image``                      (H, W, 3) uint8
``annotated_points``           (V, 2) float32: all outlines' points (x, y), one outline after the other
``annotated_lengths``          (n,) int64: how many points each outline has
``annotated_labels``           (n,) str: what each is; "" for nothing
``annotated_ignored``          (n,) bool: neither finding nor missing it counts
``annotated_scores``           (n,) float32: NaN for none
``found_...``                  the same five of what the network found
``map_titles``                 (m,) str
``map_spans``                  (m, 2) float32: lowest and highest value of each color scale
``map_colors``                (m,) str: one of `Colors`
``map_<k>_values``             (h, w) float16 or float32, k from 0: an output map on its own grid; NaN for no value
``map_<k>_target``             (h, w): what it should be, if there is a target
``pairs_titles``               (p,) str
``pairs_names``                (p, 2) str: what the first and the second point of a pair is
``pairs_<k>_first``            (n,) float32: the first points, one per object, on a line
``pairs_<k>_second``           (n,) float32: the second points
``pairs_<k>_labels``           (n,) str
``instances_annotated``        (H', W') int32, 0 the background: a label map over the whole picture
``instances_found``            (H', W') int32
``outline``                    (h, w) bool: a region whose border is drawn on all maps
``name``                       str: what the picture is called, its file for instance
``note``                       str: a sentence or two on how to read the maps
=============================  ====================================================================================

Points are in pixels of the picture, which spans 0..W and 0..H (pixel edges).
"""

from headwise.runs.samples.parts import Instances, PointPairs, SampleMap, Shape, Shapes, box_polygon, box_shapes
from headwise.runs.samples.reading import SavedSample, read_sample
from headwise.runs.samples.writing import encode_png, save_sample

__all__ = [
    "Instances",
    "PointPairs",
    "SavedSample",
    "SampleMap",
    "Shape",
    "Shapes",
    "box_polygon",
    "box_shapes",
    "encode_png",
    "read_sample",
    "save_sample",
]
