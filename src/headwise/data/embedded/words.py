"""Words as ink: real fonts, drawn flat."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Ink = NDArray[np.float32]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
    "cmb10.ttf",
    "cmss10.ttf",
)
"""Files that ship inside matplotlib; the empty name stands for the font inside Pillow."""

_TRAIN = """
Adelaide Airport Antique Arcade Atelier Avenue Bakery Balcony Bazaar Bicycle Bistro Bookshop Boulevard
Brewery Bridge Butcher Cabaret Cafe Campus Captain Carnival Cathedral Ceramics Chapel Chemist Cinema Circus
Coastal Coffee College Concert Corner Cottage Customs Dairy Danger Delivery Dentist Diner District Eastern
Electric Elevator Emporium Engine Entrance Espresso Estate Exchange Express Factory Falcon Fashion Ferry
Festival Fisher Florist Forest Fountain Freight Fresh Gallery Garage Garden Gelato Golden Grand Granite
Grocer Guild Harbour Hardware Haven Heritage Highway Hotel Island Jazz Jewels Junction Kitchen Lagoon
Lantern Laundry Leather Liberty Library Lodge Lounge Maison Manor Marina Market Meadow Metro Midnight
Mission Modern Monarch Motel Mountain Museum Music Nautical Noodle Northern Notary Novelty 1897 24H 365 42nd
No.7 OPEN
"""
TRAIN_WORDS = tuple(_TRAIN.split())
"""Words of the training pictures."""

_HELD_OUT = """
Ocean Office Olympic Opera Optics Orchard Orient Outlet Oyster Pacific Palace Parade Parking Pastry Pharmacy
Photo Piano Pioneer Pizza Plaza Police Pottery Premium Printer Quarter Quality Queen Radio Railway Regent
Rental Repair River Royal Saloon Savings School Silver Southern Square Stadium Station Studio Sunset Tailor
Tavern Temple Terrace Theatre Ticket Tobacco Tower Trading Tunnel Union Valley Velvet Victory Village
Vintage Voyage Western Window Winter Workshop Yacht Zenith 1924 7up 88 A38 EXIT
"""
HELD_OUT_WORDS = tuple(_HELD_OUT.split())
"""Words of the held-out pictures; none is a training word."""


@dataclass(frozen=True)
class FlatWord:
    """A word drawn flat.

    Args:
        text: what it says.
        ink: (rows, columns) coverage in [0, 1], with an empty border of `margin` pixels.
        outline: coverage of the ink thickened by a pixel or two, of the same shape.
        width: of the outline box that the polygon takes, pixels; it holds all of the ink.
        height: of that box.
    """

    text: str
    ink: Ink
    outline: Ink
    width: float
    height: float


def draw_word(generator: np.random.Generator, text: str, height: int) -> FlatWord:
    """Draw a word in a random font, as written, in capitals or in small letters.

    Args:
        generator: the source of chance.
        text: the word.
        height: of the font, pixels.

    Returns:
        The ink with its box, which leaves a twelfth of the height free around the ink.
    """
    text = (text, text.upper(), text.lower())[int(generator.choice(3, p=(0.4, 0.4, 0.2)))]
    name = (*FONTS, "")[int(generator.integers(len(FONTS) + 1))]
    font = _font(name, height)
    left, top, right, bottom = (int(bound) for bound in font.getbbox(text))
    margin = max(2, round(height / 12))
    width, rows = right - left + 2 * margin, bottom - top + 2 * margin
    canvas = Image.new("L", (width + 4, rows + 4))
    ImageDraw.Draw(canvas).text((margin + 2 - left, margin + 2 - top), text, fill=255, font=font)
    ink: Ink = np.asarray(canvas, dtype=np.float32) / np.float32(255)
    return FlatWord(text, ink, _thicken(ink, 1 if height < 28 else 2), width, rows)


@lru_cache(maxsize=512)
def _font(name: str, height: int) -> Font:
    """Load a font of matplotlib's, or Pillow's own."""
    if not name:
        return ImageFont.load_default(height)
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), height)


def _thicken(ink: Ink, pixels: int) -> Ink:
    import cv2

    return np.asarray(cv2.dilate(ink, np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)), dtype=np.float32)
