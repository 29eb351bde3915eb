"""Checks for your own tests: the gradient does not depend on how a batch is split, and the books are what they were.

::

    import torch
    import headwise as hw
    from headwise.testing import assert_books, assert_split_invariant

    def test_my_criterion():
        outputs = {"logits": torch.randn(4, 2, 8, 8, dtype=torch.float64)}
        targets = {"label": torch.randint(0, 2, (4, 8, 8))}
        report = assert_split_invariant(my_criterion, outputs, targets)
        print(report)       # beside it: the error of the usual mean of means
        assert_books(my_criterion, outputs, targets, "books.lock.json")

Give them a batch as uneven as yours: images without an object, masks of different sizes.
"""

from headwise.testing.books_lock import assert_books
from headwise.testing.split_invariance import SplitReport, SplitRow, assert_split_invariant

__all__ = ["SplitReport", "SplitRow", "assert_books", "assert_split_invariant"]
