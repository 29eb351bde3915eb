"""Losses: pure functions of output, target and mask that return one sum.

``loss(output, target, mask=None, *, hyper-parameters)`` returns a 0-d sum; what divides it is a function in
`headwise.normalizers`. `dice`, whose denominator depends on the output, returns a `Ratio`.
"""

from headwise.losses.adversarial import discriminator_hinge, generator_hinge, one_sided_squared_error
from headwise.losses.contrastive import contrastive
from headwise.losses.cross_entropy import cross_entropy, mask_cross_entropy, token_cross_entropy
from headwise.losses.dice import dice
from headwise.losses.elementwise import absolute_error, binary_cross_entropy, smooth_l1, squared_error
from headwise.losses.embeddings import published_pull, published_push, pull, push
from headwise.losses.focal import shifted_focal, sigmoid_focal
from headwise.losses.gathered import gathered_smooth_l1
from headwise.losses.gaussian_focal import gaussian_focal, published_gaussian_focal
from headwise.losses.geometry import direction_smooth_l1, relative_smooth_l1
from headwise.losses.hard_negative import hard_negative_cross_entropy
from headwise.losses.molecules import per_atom_squared_error, squared_distance
from headwise.losses.multibox import box_smooth_l1, multibox_cross_entropy, published_multibox_cross_entropy
from headwise.losses.policy import clipped_policy_gradient, entropy_bonus, policy_gradient
from headwise.losses.published import published_direction_smooth_l1, published_relative_smooth_l1
from headwise.losses.routing import load_balance, published_load_balance, router_z
from headwise.losses.torch_modules import from_torch, is_torch_loss
from headwise.losses.weighted_cross_entropy import weighted_cross_entropy

__all__ = [
    "cross_entropy",
    "mask_cross_entropy",
    "hard_negative_cross_entropy",
    "binary_cross_entropy",
    "squared_error",
    "absolute_error",
    "smooth_l1",
    "relative_smooth_l1",
    "direction_smooth_l1",
    "gaussian_focal",
    "pull",
    "push",
    "gathered_smooth_l1",
    "dice",
    "from_torch",
    "is_torch_loss",
    "published_relative_smooth_l1",
    "published_direction_smooth_l1",
    "published_gaussian_focal",
    "published_pull",
    "published_push",
    "sigmoid_focal",
    "shifted_focal",
    "weighted_cross_entropy",
    "box_smooth_l1",
    "multibox_cross_entropy",
    "published_multibox_cross_entropy",
    "token_cross_entropy",
    "load_balance",
    "published_load_balance",
    "router_z",
    "policy_gradient",
    "clipped_policy_gradient",
    "entropy_bonus",
    "squared_distance",
    "per_atom_squared_error",
    "one_sided_squared_error",
    "discriminator_hinge",
    "generator_hinge",
    "contrastive",
]
