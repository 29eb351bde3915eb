"""Training: one step, the loop on Lightning Fabric, checkpoints.

`loop` goes from step to step with what is `trained`, which Fabric's `engine` sets up, by the `ranks` that share the run
and the `processes` that serve each, in a `folder`; a `task` says what and how. `callbacks` keep the books in loops of
others.
"""

from headwise.training.folder.checkpoints import load_checkpoint, save_checkpoint
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
