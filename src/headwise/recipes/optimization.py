"""What a configuration says about the loop, its optimizer and its learning rate."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from headwise.recipes.configuration import Configuration
from headwise.training import Settings

MOMENTUM = 0.9


def make_settings(configuration: Configuration) -> Settings:
    """Return the numbers of the run."""
    return Settings(
        steps=configuration.steps,
        seed=configuration.seed,
        log_every=configuration.log_every,
        checkpoint_every=configuration.checkpoint_every,
        evaluate_every=configuration.evaluate_every,
        micro_batches=configuration.micro_batches,
        precision=configuration.precision,
        strategy=configuration.strategy,
        device=configuration.device,
        on_nonfinite=configuration.on_nonfinite,
        balance=configuration.balance_terms,
        clip_norm=configuration.clip_norm,
        patience=configuration.patience,
    )


def make_optimizer(parameters: Iterable[nn.Parameter], configuration: Configuration) -> Optimizer:
    """Return the optimizer of some parameters.

    Args:
        parameters: to train.
        configuration: of the run.

    Returns:
        AdamW, or SGD with momentum.
    """
    rate, decay = configuration.learning_rate, configuration.weight_decay
    if configuration.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(parameters, rate, momentum=MOMENTUM, weight_decay=decay, fused=True)


def make_scheduler(optimizer: Optimizer, configuration: Configuration) -> LRScheduler:
    """Return the schedule of the learning rate.

    Args:
        optimizer: whose rate moves.
        configuration: of the run.

    Returns:
        The schedule, stepped once per optimizer step.
    """
    if configuration.schedule == "one_cycle":
        return OneCycleLR(optimizer, configuration.learning_rate, configuration.steps, pct_start=0.15)
    return StepLR(optimizer, max(round(configuration.steps * configuration.drop), 1), gamma=0.1)
