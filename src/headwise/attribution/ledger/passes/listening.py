"""What a ledger listens to while it is open: the ends of passes and of steps, and the network's junctions.

None of it keeps the ledger alive: one that nobody closed ends with its criterion.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch.optim import Optimizer

from headwise.attribution.ledger.passes.clock import CLOCK
from headwise.attribution.ledger.passes.loop_factor import Scaler, watch_scaler
from headwise.attribution.passes import weakly
from headwise.criterion.junctions.feature_junction import Junction


def listen(
    owner: object,
    pass_ended: Callable[..., None],
    stepped: Callable[..., None],
    updated: Callable[..., None],
    optimizers: Iterable[Optimizer],
    scaler: Scaler,
    junctions: Sequence[Junction],
) -> Callable[[], object]:
    """Opens the junctions, and lets a ledger know where passes and steps end.

    Args:
        owner: The ledger.
        pass_ended: Its method for a pass that is over.
        stepped: Its method for a step of an optimizer.
        updated: Its method for an update of a GradScaler, which follows a step that it skipped too.
        optimizers: Whose steps end the books' steps.
        scaler: What knows the loop's factor.
        junctions: Those of the network.

    Returns:
        What ends all that, at once or, at the latest, when the ledger is no more; a second call does nothing.
    """
    at_end, at_step, at_update = weakly(pass_ended), weakly(stepped), weakly(updated)
    for junction in junctions:
        junction.open()
    handles = [each.register_step_post_hook(lambda *_: at_step()) for each in optimizers]
    unwatch = watch_scaler(scaler, at_update)
    CLOCK.start(at_end)
    ends: list[Callable[[], object]] = [
        partial(CLOCK.stop, at_end),
        unwatch,
        *(each.remove for each in handles),
        *(each.close for each in junctions),
    ]
    ended = weakref.finalize(owner, _all, ends)
    ended.atexit = False
    return ended


def _all(ends: Sequence[Callable[[], object]]) -> None:
    for each in ends:
        each()
