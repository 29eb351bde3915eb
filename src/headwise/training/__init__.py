"""Training: one step, the loop on Lightning Fabric, checkpoints."""

from headwise.training.checkpoints import load_checkpoint, save_checkpoint
from headwise.training.loop import train
from headwise.training.step import training_step
from headwise.training.task import Batch, Outcome, Settings, Task

__all__ = [
    "Batch",
    "Outcome",
    "Settings",
    "Task",
    "load_checkpoint",
    "save_checkpoint",
    "train",
    "training_step",
]
