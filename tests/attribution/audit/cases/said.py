# mypy: ignore-errors
"""What an audit says of a subject, as plain sets; used by the tests of this folder."""

import re

import torch

import headwise as hw

OF_THE_SUM = ("sum-mismatch", "dead-loss", "detached-loss")


def audit(**subject):
    return hw.attribution.audit(subject)


def batches(make, count=3, seed=1):
    torch.manual_seed(seed)
    return [make() for _ in range(count)]


def mentions(text, name):
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text) is not None


def accused(report, losses):
    """Which of the losses a finding (no note) on the sum names as its subject."""
    text = " | ".join(f.subject for f in report.faults if f.kind in OF_THE_SUM)
    return {name for name in losses if mentions(text, name)}


def told(report):
    """All faults, for the message of a failing assertion."""
    return [(f.kind, f.subject, f.evidence) for f in report.faults]


def numbers_of(report, wanted, tolerance=0.02):
    """Whether the report's data hold, for every loss, its wanted number (under whatever key)."""

    def walk(node):
        if isinstance(node, dict):
            yield node
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, (list, tuple)):
            for value in node:
                yield from walk(value)

    def close(value, want):
        return isinstance(value, (int, float)) and abs(value - want) <= tolerance * max(abs(want), 1e-9)

    for node in walk(report.as_dict()):
        if all(name in node for name in wanted):
            cells = {name: node[name] for name in wanted}
            if all(close(cells[name], want) for name, want in wanted.items()):
                return True
            rows = [cell for cell in cells.values() if isinstance(cell, dict)]
            if len(rows) == len(wanted):
                for key in rows[0]:
                    if all(close(cells[name].get(key), want) for name, want in wanted.items()):
                        return True
    return False
