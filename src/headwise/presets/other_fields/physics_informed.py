"""A physics-informed network: the residual of its equation, and the conditions that single out one solution.

Outputs ``{"residual": (N, ...) of the equation at collocation points, "boundary": (N, ...), "initial": (N, ...)}``,
what the network says at the points of each set; targets of the same names and shapes: the right-hand side of the
equation (zeros where all of it stands on the left), and the conditions' values. Each set has its own number of points.
A periodic boundary is the difference of both sides with the target 0; observations are one more condition.

=========  ==============  ==========  ======  =================================================
term       loss            normalizer  weight  source
=========  ==============  ==========  ======  =================================================
residual   squared_error   elements    1       Raissi et al., section 3.1, MSE_f
boundary   squared_error   elements    1       MSE_b
initial    squared_error   elements    1       MSE_0
=========  ==============  ==========  ======  =================================================

A solution of several components, (N, D), is averaged over them; the authors add their means (Schroedinger.py: the real
and the imaginary part): D times the weight.

Source: Raissi, Perdikaris and Karniadakis, Physics-informed neural networks, Journal of Computational Physics, 2019;
maziarraissi/PINNs at 13ce0517.

No ``as_published``: values and gradients are the authors'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headwise import losses
from headwise.criterion import Criterion, Term
from headwise.criterion.terms.weights import Weight


def physics_informed(
    conditions: Sequence[str] = ("boundary", "initial"),
    *,
    weights: Mapping[str, Weight] | None = None,
    compile: bool = False,
) -> Criterion:
    """The criterion of a physics-informed network; the card is at the top of this module.

    Args:
        conditions: The sets of points beside the residual's; each is an output, a target and a term.
        weights: Weights by term; 1 where nothing is said.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms residual, boundary, initial, or the conditions that are named.

    Raises:
        ValueError: A weight is of no term, or two conditions have one name.
    """
    names = ("residual", *conditions)
    terms = [Term(name, losses.squared_error, output=name, target=name) for name in names]
    return Criterion(terms, weights=weights, compile=compile)
