"""What to do with many gradients beside adding them up: aggregate them, or save memory one head at a time."""

from headwise.backward.aggregate import aggregate
from headwise.backward.ranks import sum_gradients
from headwise.backward.staged import staged

__all__ = ["aggregate", "staged", "sum_gradients"]
