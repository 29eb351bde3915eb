"""Actor and critic: the policy, the value of states, and the policy's entropy.

Outputs ``{"log_probability": (N,) of the actions that were taken, "value": (N,), "entropy": (N,) of the policy}``,
targets ``{"advantage": (N,), "return": (N,)}``, with `clip` also ``"log_probability": (N,)`` under the policy that
acted. Steps of several actors may be (N, T), with a mask of the steps that there are.

============  ==================================  ===========  ======  ===========================================
term          loss                                normalizer   weight  source
============  ==================================  ===========  ======  ===========================================
policy        policy_gradient, or with `clip`     elements     1       Mnih et al., section 4;
              clipped_policy_gradient                                  Schulman et al., equation 7
value         squared_error                       elements     0.5     stable-baselines3, vf_coef
entropy       entropy_bonus, which is negative    elements     0.01    Mnih et al., section 5.1
============  ==================================  ===========  ======  ===========================================

The weight of the entropy is 0 in stable-baselines3's A2C and PPO (ent_coef), 0.01 in the paper of A3C and in OpenAI's
baselines; the share of a term that is negative is negative in the books.

Advantages are targets: whoever normalizes them does so over the whole batch, before it is split (PPO of
stable-baselines3 does it in each mini-batch, A2C not at all).

Sources: Mnih et al., Asynchronous methods for deep reinforcement learning, ICML 2016; Schulman et al., Proximal policy
optimization algorithms, 2017; stable-baselines3, a2c/a2c.py and ppo/ppo.py (without clip_range_vf, its default).

No ``as_published``: values and gradients are those of stable-baselines3.
"""

from __future__ import annotations

from functools import partial

from headwise import losses
from headwise.criterion import Criterion, Term
from headwise.criterion.terms.weights import Weight


def actor_critic(
    *,
    clip: float | None = None,
    value_weight: Weight = 0.5,
    entropy_weight: Weight = 0.01,
    mask: str | None = None,
    compile: bool = False,
) -> Criterion:
    """The criterion of actor and critic; the card is at the top of this module.

    Args:
        clip: How far the ratio of probabilities may go from 1, as in PPO (0.2); None: the plain policy gradient.
        value_weight: Weight of the value's squared error.
        entropy_weight: Weight of the entropy.
        mask: Expression over targets: the steps that there are; None: all.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms policy, value, entropy.

    Raises:
        ValueError: `clip` is not positive.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"presets.actor_critic: clip is positive or None; found {clip}. PPO has 0.2.")
    surrogate = losses.policy_gradient if clip is None else partial(losses.clipped_policy_gradient, clip=clip)
    terms = [
        Term(
            "policy",
            surrogate,
            output="log_probability",
            target="advantage" if clip is None else ("advantage", "log_probability"),
            mask=mask,
        ),
        Term("value", losses.squared_error, output="value", target="return", mask=mask, weight=value_weight),
        Term("entropy", losses.entropy_bonus, output="entropy", target="advantage", mask=mask, weight=entropy_weight),
    ]
    return Criterion(terms, compile=compile)
