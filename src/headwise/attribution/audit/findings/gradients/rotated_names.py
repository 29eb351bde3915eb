"""A loss whose gradient arrives at what another loss is named for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from headwise.attribution.apart.words import plain_name
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings.finding import Check, Finding, Seen
from headwise.attribution.audit.measures.channels import per_channel
from headwise.attribution.audit.measures.rows import Measured
from headwise.attribution.text import names as listed
from headwise.attribution.tracing.channels import ranges

Region = tuple[str, tuple[int, ...] | None]
_FAINT = 1e-6


def _measure(measured: Measured, subject: Subject | None) -> dict[str, Tensor]:
    """Per output the squared gradient norm per loss and channel."""
    return {
        path: torch.stack([per_channel(row[index], tensor) for row in measured.at_outputs])
        for index, (path, tensor) in enumerate(measured.outputs.items())
    }


def _judge(seen: Seen) -> Iterator[Finding]:
    regions = dict(seen.declared.regions) or _by_name(seen)
    for name, own in regions.items():
        if name not in seen.names:
            continue
        arrived = _energy(seen, name)
        whole = sum(arrived.values())
        here = _within(arrived, own)
        if whole <= 0 or here > _FAINT**2 * whole:
            continue
        places = _places(arrived, seen)
        others = [other for other, region in regions.items() if other != name and _within(arrived, region) > 0]
        if not others and not seen.declared.regions:
            continue
        theirs = f", which {listed(others)} should read" if others else ""
        yield Finding(
            name,
            f"0 of its gradient (norm {whole**0.5:.4g}) arrives at {_told(own)} over {seen.num}; "
            f"all of it arrives at {places}{theirs}",
            "Return the losses as a dict, or unpack them in the order in which they are returned; log lines and "
            "weights by these names belong to other losses.",
            {"norm_at_declared": here**0.5, "norm": whole**0.5, "batches": len(seen.batches)},
        )


def _energy(seen: Seen, name: str) -> dict[tuple[str, int], float]:
    """Squared gradient norm of a loss per output and channel, over all batches."""
    found: dict[tuple[str, int], float] = defaultdict(float)
    for batch, own in zip(seen.batches, seen.measured, strict=True):
        for path, rows in own.items() if name in batch.names else ():
            for channel, value in enumerate(rows[batch.row(name)].tolist()):
                found[path, channel] += value if value > 1e-290 else 0.0
    return found


def _within(energy: dict[tuple[str, int], float], region: Sequence[Region]) -> float:
    return sum(
        value
        for (path, channel), value in energy.items()
        if any(path == own and (channels is None or channel in channels) for own, channels in region)
    )


def _places(energy: dict[tuple[str, int], float], seen: Seen) -> str:
    found: dict[str, list[int]] = defaultdict(list)
    for (path, channel), value in energy.items():
        if value > 0:
            found[path].append(channel)
    sizes = {path: sum(1 for other, _ in energy if other == path) for path in found}
    return listed(_text(path, None if len(c) == sizes[path] else tuple(c)) for path, c in found.items())


def _told(region: Sequence[Region]) -> str:
    return listed(_text(path, channels) for path, channels in region)


def _text(path: str, channels: tuple[int, ...] | None) -> str:
    return path if channels is None else f"{path}[:, {ranges(channels, -1)}]"


def _by_name(seen: Seen) -> dict[str, list[Region]]:
    """Losses and outputs of the same name, where at least two losses match."""
    exact: dict[str, list[str]] = defaultdict(list)
    folded: dict[str, list[str]] = defaultdict(list)  # the levels of a pyramid are one output
    for path in seen.outputs:
        exact[plain_name(path.replace("]", "").replace("[", "_"))].append(path)
        folded[plain_name(re.sub(r"\[\d+\]", "", path))].append(path)
    regions: dict[str, list[Region]] = {}
    for name in seen.names:
        plain = plain_name(name)
        # The place in a tuple is not a name: losses and outputs may come in different orders.
        if plain.isdecimal():
            continue
        found = exact[plain] if len(exact[plain]) == 1 else folded[plain]
        if found:
            regions[name] = [(path, None) for path in found]
    unique = len({plain_name(name) for name in seen.names}) == len(seen.names)
    return regions if unique and len(regions) > 1 else {}


CHECK = Check("rotated-names", _judge, _measure)
