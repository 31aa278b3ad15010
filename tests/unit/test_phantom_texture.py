"""The grey of phantoms: what lies at the edge of the picture, or beyond it, changes nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sa2net.data.phantom_texture import _darken, draw_look

HEIGHT, WIDTH, BORDER = 40, 30, 200


@given(
    x=st.integers(-120, 120),
    y=st.integers(-120, 120),
    size=st.integers(3, 40),
    blur=st.sampled_from([0.5, 4.0, 11.0]),
)
def test_a_shadow_is_the_same_wherever_the_picture_ends(x: int, y: int, size: int, blur: float) -> None:
    """A picture is cut out of a larger one: the shadow in it is what falls into the cut."""
    outline = np.array([[x, y], [x + size, y], [x + size, y + 2 * size], [x, y + size]], dtype=np.float64)
    small = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    _darken(small, outline, 0.7, blur)
    large = np.zeros((HEIGHT + 2 * BORDER, WIDTH + 2 * BORDER), dtype=np.float32)
    _darken(large, outline + BORDER, 0.7, blur)
    np.testing.assert_array_equal(small, large[BORDER:-BORDER, BORDER:-BORDER])


def test_a_look_is_within_its_ranges() -> None:
    looks = [draw_look(np.random.default_rng(seed)) for seed in range(50)]
    spacings = [look.spacing for look in looks]
    assert 0.16 <= min(spacings) < 0.17
    assert 0.20 < max(spacings) <= 0.21
    assert {look.name for look in looks} == {"phantom-drawn"}
    assert np.ptp([look.contrast for look in looks]) == pytest.approx(0.4, abs=0.05)
