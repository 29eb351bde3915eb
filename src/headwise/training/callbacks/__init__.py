"""The books in other people's loops: Lightning, the Hugging Face Trainer, Accelerate.

Each logs the books of one optimizer step, at the loop's own logging interval, to whatever logger the loop has::

    headwise/<term>/value       the term's sum over its denominator
    headwise/<term>/share       weight * value / total
    headwise/<term>/grad_norm   of d(weight * value) / d(what the term reads), at the outputs
    headwise/<term>/finite      1, or 0 where value or gradient was not finite
    headwise/total              what backward was called on

The loop and its gradients stay as they are. The numbers are those of the first process.
"""

from headwise.training.callbacks.accelerate_hooks import AccelerateHooks, accelerate_hooks
from headwise.training.callbacks.factories import huggingface_callback, lightning_callback
from headwise.training.callbacks.keeper import Keeper
from headwise.training.callbacks.keys import log_entries

__all__ = [
    "AccelerateHooks",
    "Keeper",
    "accelerate_hooks",
    "huggingface_callback",
    "lightning_callback",
    "log_entries",
]
