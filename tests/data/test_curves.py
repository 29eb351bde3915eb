import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwise.data.annotation import polygon_area
from headwise.data.embedded.curves import Curve, random_curve


@given(st.integers(0, 10_000))
def test_to_flat_inverts_to_picture(seed):
    generator = np.random.default_rng(seed)
    width, height = generator.uniform(20, 150), generator.uniform(8, 40)
    curve = random_curve(generator, width, height, (100.0, 80.0))
    flat = generator.uniform(-0.5, 0.5, (30, 2)) * np.array([width, height])
    assert np.allclose(curve.to_flat(curve.to_picture(flat)), flat, atol=1e-9)


def test_an_arc_is_a_circle_around_the_point_below_its_middle():
    curve = Curve("arc", (50.0, 40.0), 0.0, radius=30.0)
    points = curve.to_picture(np.stack([np.linspace(-40, 40, 9), np.zeros(9)], axis=-1))
    assert np.allclose(np.hypot(points[:, 0] - 50, points[:, 1] - 70), 30)
    assert np.allclose(points[4], (50, 40))


def test_a_rainbow_has_a_positive_radius_and_a_smile_a_negative_one():
    ends = np.array([[-20.0, 0.0], [20.0, 0.0]])
    assert (Curve("arc", (0.0, 0.0), 0.0, radius=30.0).to_picture(ends)[:, 1] > 0).all()
    assert (Curve("arc", (0.0, 0.0), 0.0, radius=-30.0).to_picture(ends)[:, 1] < 0).all()


def test_a_straight_outline_is_the_rectangle():
    outline = Curve("straight", (10.0, 20.0), 0.0).outline(6, 4)
    assert np.allclose(outline, [[7, 18], [13, 18], [13, 22], [7, 22]])


@pytest.mark.parametrize("radius", [40.0, -40.0])
def test_the_outline_of_an_arc_has_the_area_of_the_ring_sector(radius):
    # The area of a ring sector of mean radius R, angle w / R and thickness h is w * h.
    outline = Curve("arc", (0.0, 0.0), 0.3, radius=radius).outline(60, 20)
    assert len(outline) == 14
    assert polygon_area(outline) == pytest.approx(60 * 20, rel=0.02)
    assert outline[0, 0] < outline[6, 0], "the top edge runs forward"
    assert np.allclose((outline[0] + outline[13]) / 2, (outline[0] + outline[-1]) / 2)
