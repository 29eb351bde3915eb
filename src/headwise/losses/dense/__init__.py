"""Losses of any output that has a target at every element: classes, labels of 0 and 1, values."""
