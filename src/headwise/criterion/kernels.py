"""The arithmetic of a criterion as compiled kernels, or in eager mode where it cannot be compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch._functorch.config as functorch_config
from torch import Tensor

from headwise.criterion.evaluate import Job, LevelWeights, Row, Weights, run
from headwise.ratio import Ratio


class Kernels:
    """Runs jobs, each compiled once.

    Args:
        enabled: Whether to compile; turned off by what cannot be compiled.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._compiled: dict[Job, Callable[..., Any]] = {}

    def run(
        self,
        job: Job,
        roots: list[Tensor],
        targets: Any,
        denominators: Mapping[str, Tensor | Ratio] | None,
        weights: Weights,
        scales: LevelWeights,
        slots: Sequence[Tensor] | None,
    ) -> tuple[list[Row], Tensor]:
        """As `evaluate.run`, compiled; what cannot be compiled runs, or is refused, in eager mode."""
        if not self.enabled:
            return run(job, roots, targets, denominators, weights, scales, slots)
        if job not in self._compiled:
            self._compiled[job] = torch.compile(partial(run, job), fullgraph=True)
        as_tensors = [torch.as_tensor(weight, dtype=torch.float64) for weight in weights]
        level_tensors = [torch.as_tensor(scale, dtype=torch.float64) for scale in scales]
        compiled = self._compiled[job]
        try:
            # What the backward pass can compute from the inputs costs less time than memory to keep.
            with functorch_config.patch(aggressive_recomputation=True):
                results: tuple[list[Row], Tensor] = compiled(
                    roots, targets, denominators, as_tensors, level_tensors, slots
                )
            return results
        except Exception as error:
            # Dynamo wraps what a loss raises in errors of its own; eager mode says it in plain words.
            results = run(job, roots, targets, denominators, weights, scales, slots)
            reason = " ".join(str(error).split())[:200]
            warnings.warn(
                f"Criterion(compile=True) goes on in eager mode, for these shapes cannot be compiled: "
                f"{type(error).__name__}: {reason}. Values are the same; pad to fewer shapes, or set compile=False",
                stacklevel=5,
            )
            self.enabled = False
            return results
