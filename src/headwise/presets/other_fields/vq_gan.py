"""A quantizing autoencoder with a discriminator (VQ-GAN): two criteria, two optimizers.

Outputs of the autoencoder ``{"image": (N, 3, H, W), "features": [(N, C_l, H_l, W_l), ...] of that image, "codes":
(N, D, h, w) as they stand in the codebook, before the straight-through sum, "encoding": (N, D, h, w), "fake_logits":
(N, 1, h', w'), the discriminator's of that image}``; targets ``{"image": (N, 3, H, W), "features": [...]}``, the real.

===============  =========================================  ===========================  ======  ===================
term             loss                                       normalizer                   weight  source
===============  =========================================  ===========================  ======  ===================
reconstruction   absolute_error                             elements                     1       vqperceptual.py
perceptual       squared_error, summed over the levels      elements, a level            1       a stand-in for LPIPS
codebook         one_sided_squared_error to the encoding    images, of means in each     1       eq. 3 of VQ-VAE
commitment       one_sided_squared_error to the codes       images, of means in each     0.25    eq. 3 of VQ-VAE
adversarial      generator_hinge                            images, of means in each     0.8     vqperceptual.py
===============  =========================================  ===========================  ======  ===================

Outputs of the discriminator ``{"real_logits": (N, 1, h', w'), "fake_logits": (N, 1, h', w')}``, of the image detached;
targets ``{"image": (N, 3, H, W)}``, whose images are counted.

===============  =========================================  ===========================  ======  ===================
real             discriminator_hinge, real=True             images, of means in each     0.5     hinge_d_loss
fake             discriminator_hinge, real=False            images, of means in each     0.5     hinge_d_loss
===============  =========================================  ===========================  ======  ===================

* Perceptual: LPIPS to the digit where ``features`` are its normalized features, each channel times the root of its
  weight and of the level's number of channels. Weights of a network for it are not part of Headwise.
* Begin: the authors leave the discriminator out before a step: `Linear(0, 0.8, steps=1, delay=start - 1)` of
  `schedules` as the adversarial weight, and of 0.5 as the discriminator's.
* The adaptive weight ``|grad of reconstruction and perceptual| / (|grad of adversarial| + 1e-4)`` at the autoencoder's
  last layer needs two passes of their own down to it, as with the authors, and nothing here computes it unasked. Take
  it by `torch.autograd.grad` from the breakdown's values, and multiply it in the loop: the books then show the weight
  as the loop made it (examples/presets/vq_gan.py does so).

Sources: Esser, Rombach and Ommer, Taming transformers, CVPR 2021; CompVis/taming-transformers at 9944179a,
taming/modules/losses/vqperceptual.py, and at 52720829, taming/modules/vqvae/quantize.py; van den Oord et al., Neural
discrete representation learning, NeurIPS 2017.

Differs from taming-transformers (``as_published=True`` brings it back):

* Its quantizer weighs the codebook with beta = 0.25 and the commitment with 1, against the paper and its own comment
  (V1; later versions have it as ``legacy=True``).
"""

from __future__ import annotations

from functools import partial

from headwise import losses
from headwise.criterion import Criterion, Term
from headwise.criterion.terms.weights import Weight


def vq_gan(
    *,
    perceptual_weight: Weight | None = 1.0,
    codebook_weight: float = 1.0,
    beta: float = 0.25,
    adversarial_weight: Weight = 0.8,
    as_published: bool = False,
    compile: bool = False,
) -> Criterion:
    """The criterion of the autoencoder; the card is at the top of this module.

    Args:
        perceptual_weight: Weight of the features; None: there are none, and no term.
        codebook_weight: Weight of codebook and commitment together.
        beta: What the commitment weighs beside the codebook; as published, the codebook beside the commitment.
        adversarial_weight: Weight of what the discriminator says.
        as_published: Reproduce the authors' values and gradients, the defect included.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms reconstruction, perceptual, codebook, commitment, adversarial.
    """
    drawn, bound = (beta, 1.0) if as_published else (1.0, beta)
    one_sided = losses.one_sided_squared_error
    terms = [Term("reconstruction", losses.absolute_error, output="image", target="image")]
    if perceptual_weight is not None:
        each = "features[*]"
        terms.append(Term("perceptual", losses.squared_error, output=each, target=each, weight=perceptual_weight))
    terms += [
        Term("codebook", one_sided, output=("codes", "encoding"), target="image", weight=codebook_weight * drawn),
        Term("commitment", one_sided, output=("encoding", "codes"), target="image", weight=codebook_weight * bound),
        Term("adversarial", losses.generator_hinge, output="fake_logits", target="image", weight=adversarial_weight),
    ]
    return Criterion(terms, compile=compile)


def vq_gan_discriminator(*, weight: Weight = 0.5, compile: bool = False) -> Criterion:
    """The criterion of the discriminator; the card is at the top of this module.

    Args:
        weight: Weight of both terms.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms real, fake.
    """
    terms = [
        Term(
            name,
            partial(losses.discriminator_hinge, real=name == "real"),
            output=f"{name}_logits",
            target="image",
            weight=weight,
        )
        for name in ("real", "fake")
    ]
    return Criterion(terms, compile=compile)
