"""What runs of the weighted U-Net and of deep supervision depend on, and the configurations that the command knows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from headwise.recipes.configuration import Configuration
from headwise.recipes.fields import Count, Natural, NotNegative, Positive, Share

if TYPE_CHECKING:
    from headwise.data.instances import InstanceFolder


@dataclass(frozen=True, kw_only=True)
class PixelConfiguration(Configuration):
    """Everything that a run of the weighted U-Net depends on, beside what every run does.

    Args:
        width: channels at the finest level of the U-Net.
        depth: how often it halves the picture.
        padding: "valid" as in the paper, or "same".
        batch_norm: after each of its convolutions.
        crop_size: height and width of what one training crop is judged on, pixels; without padding the network sees
            more around it.
        degrees: largest random rotation.
        elastic: standard deviation of the elastic deformation at its 3 x 3 knots, pixels.
        brightness: largest relative change of brightness and contrast.
        w0: height of the border weights; 0 for none.
        sigma: their width, pixels.
        balance: whether the classes are balanced.
        gap: pixels of background that are opened between touching objects.
        num_pictures: of the embedded training pictures.
        num_held_out: of the embedded held-out pictures.
        picture_size: of the embedded pictures.
        threshold: of the decoder.
        min_area: of the decoder.
        close: of the decoder.
    """

    width: Count = 64
    depth: Count = 4
    padding: Literal["same", "valid"] = "valid"
    batch_norm: bool = False
    crop_size: Count = 388
    degrees: NotNegative = 180.0
    elastic: NotNegative = 10.0
    brightness: Share = 0.2
    w0: NotNegative = 10.0
    sigma: Positive = 5.0
    balance: bool = True
    gap: Natural = 1
    num_pictures: Count = 400
    num_held_out: Count = 60
    picture_size: Count = 512
    threshold: Share = 0.5
    min_area: Natural = 50
    close: Natural = 1

    def name_splits(self) -> tuple[str, str]:
        """Return the splits to train on and to hold out."""
        from headwise.data.instances import list_splits
        from headwise.data.split_names import name_folders

        return name_folders(self.data, list_splits, self.train_split, self.held_out_split, ("train", "held_out"))

    def read_split(self, split: str) -> InstanceFolder:
        """Return the pictures of a split, not yet looked at."""
        from headwise.data import read_instances

        return read_instances(self.data or ".", split, check_pictures=False)

    @property
    def encode(self) -> dict[str, Any]:
        """Options of the coder."""
        return {"w0": self.w0, "sigma": self.sigma, "balance": self.balance, "gap": self.gap}

    @property
    def decode(self) -> dict[str, Any]:
        """Options of the decoder."""
        return {"threshold": self.threshold, "min_area": self.min_area, "close": self.close}


@dataclass(frozen=True, kw_only=True)
class DeepConfiguration(PixelConfiguration):
    """The same, with auxiliary outputs whose weights fall.

    Args:
        padding: "same": the levels see the same part of the picture.
        auxiliary: how many auxiliary outputs, at half, a quarter, an eighth of the resolution.
        auxiliary_weight: of each at the first step, beside 1 for the output proper.
        auxiliary_factor: the weights are multiplied by it ...
        auxiliary_every: ... after so many steps.
        auxiliary_negligible: what is below is 0.
    """

    padding: Literal["same", "valid"] = "same"
    auxiliary: Natural = 3
    auxiliary_weight: NotNegative = 1.0
    auxiliary_factor: Share = 0.1
    auxiliary_every: Count = 10_000
    auxiliary_negligible: NotNegative = 1e-3


FULL = PixelConfiguration(
    steps=20_000, batch_size=1, optimizer="sgd", learning_rate=1e-2, schedule="step", evaluate_every=5000
)
"""The paper's network on crops of 572 pixels, one a step, by SGD; the paper gives no rate and no number of steps."""

TINY = PixelConfiguration(
    steps=240,
    batch_size=8,
    learning_rate=3e-3,
    weight_decay=1e-4,
    width=8,
    depth=3,
    padding="same",
    batch_norm=True,
    crop_size=96,
    elastic=2.0,
    w0=20.0,
    sigma=3.0,
    balance=False,
    num_pictures=200,
    num_held_out=60,
    picture_size=128,
    min_area=20,
    num_workers=1,
    log_every=10,
    checkpoint_every=100,
    evaluate_every=120,
)
"""A few minutes on two CPU cores: a narrow U-Net on the embedded pictures.

Coins are 30 pixels broad, and the gap between two of them one: the border weights are higher and narrower than the
paper's. Objects cover less than the background, so balancing would weigh them up against the gap.
"""

DEEP_FULL = DeepConfiguration(**{**asdict(FULL), "padding": "same"})
"""The paper's network, padded, with DCAN's weights: a tenth after each 10,000 steps."""

DEEP_TINY = DeepConfiguration(**asdict(TINY), auxiliary_every=50)
"""The same in minutes: a tenth after each 50 steps, nothing from 200 on."""
