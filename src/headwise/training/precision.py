"""Half precision with a loss scale, on CPUs as on GPUs."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision import MixedPrecision


def half_precision() -> MixedPrecision:
    """Return fp16 autocast with a GradScaler, for an engine.

    Lightning Fabric's own takes bf16 on CPUs, and refuses to clip the gradients of fused optimizers.

    Returns:
        The plugin; its state is that of the scaler.
    """
    # The schedule moves on although the scaler may skip the first step, which is what torch warns of.
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step\\(\\)` before")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = "cpu" if accelerator is None else accelerator.type
    plugin: MixedPrecision = _plugin()("16-mixed", device, torch.amp.GradScaler(device))
    return plugin


@lru_cache(maxsize=1)
def _plugin() -> Any:
    from lightning_fabric.plugins.precision import MixedPrecision

    class HalfPrecision(MixedPrecision):
        def unscale_gradients(self, optimizer: Optimizer) -> None:
            assert self.scaler is not None
            # Fused optimizers too: the scaler remembers it, and does not let them divide a second time.
            self.scaler.unscale_(optimizer)

    return HalfPrecision


def scaler_state(fabric: Fabric) -> dict[str, Any]:
    """Return the state of the loss scale, empty without one.

    Args:
        fabric: the engine.
    """
    state: dict[str, Any] = fabric.strategy.precision.state_dict()
    return state


def load_scaler(fabric: Fabric, state: dict[str, Any]) -> None:
    """Continue with the loss scale of an earlier run.

    Args:
        fabric: the engine.
        state: of `scaler_state`.
    """
    fabric.strategy.precision.load_state_dict(state)
