"""Losses: pure functions of output, target and mask that return one sum.

``loss(output, target, mask=None, *, hyper-parameters)`` returns a 0-d sum; what divides it is a function in
`headwise.normalizers`. `dice`, whose denominator depends on the output, returns a `Ratio`.

All losses are names of this room. The folders say what they are for: `dense` for outputs with a target at every
element, `vision` and `other_fields` for what those cannot say, `parts` for what all are made of; `torch_modules` takes
torch's own losses for a sum and a count.
"""

from headwise.losses.dense.cross_entropy import cross_entropy, mask_cross_entropy, token_cross_entropy
from headwise.losses.dense.dice import dice
from headwise.losses.dense.elementwise import absolute_error, binary_cross_entropy, smooth_l1, squared_error
from headwise.losses.dense.hard_negative import hard_negative_cross_entropy
from headwise.losses.dense.weighted_cross_entropy import weighted_cross_entropy
from headwise.losses.other_fields.adversarial import discriminator_hinge, generator_hinge, one_sided_squared_error
from headwise.losses.other_fields.contrastive import contrastive
from headwise.losses.other_fields.molecules import per_atom_squared_error, squared_distance
from headwise.losses.other_fields.policy import clipped_policy_gradient, entropy_bonus, policy_gradient
from headwise.losses.other_fields.routing import load_balance, published_load_balance, router_z
from headwise.losses.torch_modules import from_torch, is_torch_loss
from headwise.losses.vision.embeddings import published_pull, published_push, pull, push
from headwise.losses.vision.focal import shifted_focal, sigmoid_focal
from headwise.losses.vision.gathered import gathered_smooth_l1
from headwise.losses.vision.gaussian_focal import gaussian_focal, published_gaussian_focal
from headwise.losses.vision.geometry import direction_smooth_l1, relative_smooth_l1
from headwise.losses.vision.multibox import box_smooth_l1, multibox_cross_entropy, published_multibox_cross_entropy
from headwise.losses.vision.published_geometry import published_direction_smooth_l1, published_relative_smooth_l1

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
