"""Training: one step, the loop on Lightning Fabric, checkpoints, logs and evaluation."""

from headwise.training.checkpoints import load_checkpoint, save_checkpoint
from headwise.training.loop import train
from headwise.training.step import training_step
from headwise.training.task import Batch, Outcome, Settings, Task
from headwise.training.text_evaluation import evaluate_text

__all__ = [
    "Batch",
    "Outcome",
    "Settings",
    "Task",
    "evaluate_text",
    "load_checkpoint",
    "save_checkpoint",
    "train",
    "training_step",
]
