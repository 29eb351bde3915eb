"""Held-out pictures, read and scored once for every system: what is found differs, how it is gone about does not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from headwise.structure import mapped

F = TypeVar("F")
T = TypeVar("T")


class Sharing(Protocol):
    """The processes of a run, as `training.ranks.Ranks`."""

    def share(self, length: int) -> Iterable[int]:
        """Return this process's part of so many numbers."""
        ...

    def gather(self, items: list[T]) -> list[T]:
        """Return the items of all processes, on each of them."""
        ...


@dataclass(frozen=True)
class HeldOut(Generic[F]):
    """What `Task` asks for scores.

    Args:
        pictures: held out, each with ``image`` and ``annotation``.
        read: (network in evaluation mode, picture (H, W, 3) uint8) -> what is found.
        pair: (found, annotation) -> what of both is scored, on the CPU: it travels between processes.
        score: (found of all pictures, what is known of them) -> measures by name.
        save: (folder, index, network, picture, found): saves a sample for the page.
        num_samples: how many pictures are saved.
    """

    pictures: Any
    read: Callable[[Any, Any], F]
    pair: Callable[[F, Any], tuple[Any, Any]]
    score: Callable[[Sequence[Any], Sequence[Any]], Mapping[str, Any]]
    save: Callable[[Path, int, Any, Any, F], None]
    num_samples: int = 6

    def __call__(self, network: nn.Module, samples: Path | None, ranks: Sharing) -> Mapping[str, Any]:
        """Score a network.

        Args:
            network: left in the mode, training or evaluation, in which it was.
            samples: folder for the first pictures, in the form of `runs.samples.save_sample`; None for none.
            ranks: the processes that share the pictures.

        Returns:
            The measures, and ``num_images``.
        """
        pairs = []
        with evaluating(network):
            for index in ranks.share(len(self.pictures)):
                picture = self.pictures[index]
                found = self.read(network, picture.image)
                pairs.append(self.pair(found, picture.annotation))
                if samples is not None and index < self.num_samples:
                    self.save(samples, index, network, picture, found)
        everything = ranks.gather(pairs)
        scores = self.score([found for found, _ in everything], [known for _, known in everything])
        return {**scores, "num_images": len(self.pictures)}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients, and back.

    Args:
        network: left in the mode in which it was.

    Yields:
        Nothing.
    """
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


def run_together(network: nn.Module, inputs: Sequence[Tensor]) -> list[Any]:
    """Run a network on pictures, those of one size together.

    Args:
        network: evaluates without gradients, and is left in the mode in which it was.
        inputs: each (rows, 3, H, W), on any device.

    Returns:
        For each its outputs, as if it had been alone: nested, tensors with its rows first.
    """
    alike: dict[torch.Size, list[int]] = defaultdict(list)
    for number, rows in enumerate(inputs):
        alike[rows.shape].append(number)
    device = next(network.parameters()).device
    outputs: list[Any] = [None] * len(inputs)
    for shape, numbers in alike.items():
        rows = torch.cat([inputs[number] for number in numbers])
        with evaluating(network):
            found = network(rows.to(device, memory_format=torch.channels_last))
        for place, number in enumerate(numbers):
            outputs[number] = mapped(found, itemgetter(slice(place * shape[0], (place + 1) * shape[0])))
    return outputs
