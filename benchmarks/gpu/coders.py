"""(e) Encoding and decoding on the device, beside the CPU and the authors' order of operations."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.authors import corner_decoding
from benchmarks.gpu.bench import Bench, Missing, Run, Way
from benchmarks.gpu.report import Table
from benchmarks.gpu.systems import drawn_boxes, moved
from headwise.coders import anchors
from headwise.coders.corners import decode_corners, encode_corners

NOTE = (
    "Encoding on the CPU and then moving is what a `DataLoader`'s worker and a copy do; on the device, boxes are there "
    "and the maps are drawn there. A call waits for the device wherever the number of found boxes is asked for."
)


def run(bench: Bench) -> Iterator[Table]:
    table = Table("boxes to targets", "on the CPU, then moved", NOTE)
    table.add("corners", bench.compare(corner_encoding(bench)))
    table.add("anchors", bench.compare(anchor_encoding(bench)))
    yield table
    table = Table("outputs to boxes", "on the device")
    table.add("corners", bench.compare(corner_decoding_ways(bench)))
    table.add("anchors", bench.compare(anchor_decoding(bench)))
    yield table


def corner_encoding(bench: Bench) -> dict[str, Way]:
    num_images, grid, num_classes = bench.pick((16, 128, 80), (2, 32, 8))
    boxes, labels = drawn_boxes(num_images, 4 * grid, 30, num_classes)
    here = [each.to(bench.device) for each in boxes], [each.to(bench.device) for each in labels]
    size: dict[str, Any] = {"image_size": (4 * grid, 4 * grid), "grid_size": (grid, grid), "num_classes": num_classes}

    def authors() -> Run:
        if find_spec("numpy") is None:
            raise Missing("the authors' encoding needs NumPy: pip install numpy")
        from benchmarks.authors.corner_encoding import encode

        arrays = [each.numpy() for each in boxes], [each.numpy() for each in labels]
        return lambda: moved(encode(*arrays, 4 * grid, grid, num_classes, 0.3), bench.device)

    return {
        "on the CPU, then moved": lambda: lambda: moved(encode_corners(boxes, labels, **size), bench.device),
        "on the device": lambda: lambda: encode_corners(*here, **size),
        "authors, on the CPU, then moved": authors,
    }


def anchor_encoding(bench: Bench) -> dict[str, Way]:
    num_images, side = bench.pick((8, 600), (2, 96))
    boxes, labels = drawn_boxes(num_images, side, 8, 20)
    grid = anchors.centered_anchors((side, side))
    here = ([each.to(bench.device) for each in group] for group in (boxes, labels, grid))
    placed = tuple(here)
    return {
        "on the CPU, then moved": lambda: lambda: moved(anchors.encode_boxes(boxes, labels, grid), bench.device),
        "on the device": lambda: lambda: anchors.encode_boxes(*placed),
    }


def corner_decoding_ways(bench: Bench) -> dict[str, Way]:
    num_images, grid, num_classes = bench.pick((8, 128, 80), (1, 32, 8))
    boxes, labels = drawn_boxes(num_images, 4 * grid, 20, num_classes)
    size: dict[str, Any] = {"image_size": (4 * grid, 4 * grid), "grid_size": (grid, grid), "num_classes": num_classes}
    targets, draw = encode_corners(boxes, labels, **size), torch.Generator().manual_seed(0)
    stack: dict[str, Tensor] = {}
    for corner in ("top_left", "bottom_right"):
        maps = targets[f"{corner}_heatmap"]
        noise = 0.3 * torch.randn(maps.shape, generator=draw)
        stack[f"{corner}_heatmap"] = maps.clamp(3e-4, 0.9).logit() + noise
        stack[f"{corner}_embedding"] = 0.5 * torch.randn(num_images, 1, grid, grid, generator=draw)
        stack[f"{corner}_offset"] = torch.rand(num_images, 2, grid, grid, generator=draw)
    here = moved(stack, bench.device)

    def ours(outputs: dict[str, Tensor]) -> Run:
        return lambda: decode_corners({"stacks": [outputs]}, image_size=(4 * grid, 4 * grid))

    return {
        "on the device": lambda: ours(here),
        "on the CPU": lambda: ours(stack),
        "moved to the CPU first": lambda: lambda: ours(moved(here, torch.device("cpu")))(),
        "authors, on the device": lambda: lambda: corner_decoding.decode(here),
    }


def anchor_decoding(bench: Bench) -> dict[str, Way]:
    num_images, side, num_classes = bench.pick((8, 600, 20), (1, 96, 3))
    grid, draw = anchors.centered_anchors((side, side)), torch.Generator().manual_seed(0)
    levels = [
        {
            "logits": 2 * torch.randn(num_images, len(each), num_classes, generator=draw) - 6,
            "deltas": 0.1 * torch.randn(num_images, len(each), 4, generator=draw),
        }
        for each in grid
    ]
    here, placed = moved(levels, bench.device), [each.to(bench.device) for each in grid]

    def ours(outputs: Any, places: list[Tensor]) -> Run:
        return lambda: anchors.decode_boxes({"levels": outputs}, places, image_size=(side, side))

    return {"on the device": lambda: ours(here, placed), "on the CPU": lambda: ours(levels, grid)}
