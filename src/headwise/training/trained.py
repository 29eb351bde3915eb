"""A task's parts as Fabric trains them: on their device, over the processes, and as a checkpoint holds them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from headwise.training.engine import load_network, load_optimizer, seed_step, set_up, share_from_first, whole
from headwise.training.precision import load_scaler, scaler_state
from headwise.training.ranks import Ranks
from headwise.training.step import training_step
from headwise.training.task import Batch, Settings, Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TrainedParts:
    """Network, optimizer, schedule and criterion of a run, set up.

    Args:
        task: the parts.
        settings: the numbers.
        fabric: started.
        ranks: the processes; all begin with the first one's weights.
    """

    def __init__(self, task: Task, settings: Settings, fabric: Fabric, ranks: Ranks) -> None:
        self._task, self._settings, self._fabric, self._ranks = task, settings, fabric, ranks
        share_from_first(task.network.state_dict().values(), ranks)
        self._sharded = ranks.count > 1 and settings.strategy == "fsdp2"
        self._plain = copy.deepcopy(task.network) if self._sharded else task.network
        dense = settings.channels_last and not self._sharded
        self._network, self._optimizer = set_up(fabric, task.network, task.optimizer, channels_last=dense)
        task.criterion.to(fabric.device)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def train(self, batches: list[Batch], step: int) -> None:
        """Does one step.

        Args:
            batches: this process's micro-batches.
            step: how many were done before.
        """
        seed_step(self._settings.seed, step, self._ranks.rank)
        training_step(
            self._fabric,
            self._network,
            self._task.criterion,
            self._optimizer,
            batches,
            clip_norm=self._settings.clip_norm,
            channels_last=self._settings.channels_last,
        )
        self._task.scheduler.step()

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """The network with the same weights and running statistics everywhere, to be used by each process alone."""
        if self._sharded:
            self._plain.load_state_dict(whole(self._task.network.state_dict()))
        self._plain.to(self._fabric.device)
        share_from_first(self._plain.buffers(), self._ranks)
        yield self._plain
        if self._sharded:
            self._plain.to("cpu")

    def state_dict(self, *, keep: bool) -> dict[str, Any]:
        """What a checkpoint holds of the parts; every process asks, those that `keep` have the whole tensors."""
        return {
            "network": whole(self._task.network.state_dict(), keep=keep),
            "criterion": self._task.criterion.state_dict(),
            "optimizer": whole(self._optimizer.state_dict(), keep=keep),
            "scheduler": self._task.scheduler.state_dict(),
            "scaler": scaler_state(self._fabric),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint, on all processes."""
        load_network(self._task.network, saved["network"])
        self._task.criterion.load_state_dict(saved["criterion"])
        load_optimizer(self._optimizer, saved["optimizer"])
        lacking = self._task.scheduler.state_dict().keys() - saved["scheduler"].keys()
        if lacking:  # of which torch says nothing, and goes on at another rate
            raise ValueError(f"the scheduler's state lacks {', '.join(sorted(lacking))}")
        self._task.scheduler.load_state_dict(saved["scheduler"])
        load_scaler(self._fabric, saved.get("scaler", {}))
