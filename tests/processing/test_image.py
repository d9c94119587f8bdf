"""An image to the two encoders' inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llava_grounding.processing.image import CanvasSettings, TowerSettings, letterbox_image, normalise, tower_image


def flat(size_wh: tuple[int, int], colour: tuple[int, int, int] = (255, 0, 0)) -> Image.Image:
    return Image.new("RGB", size_wh, colour)


def test_the_canvas_holds_the_image_top_left_and_grey_elsewhere() -> None:
    canvas, letterbox = letterbox_image(flat((200, 100)), CanvasSettings(size=64, pad_value=128))
    assert canvas.shape == (64, 64, 3)
    assert canvas.dtype == np.uint8
    assert letterbox.content_size_wh == (64, 32)
    assert (canvas[:32] == (255, 0, 0)).all()
    assert (canvas[32:] == 128).all()


@settings(max_examples=50)
@given(size=st.tuples(st.integers(1, 400), st.integers(1, 400)))
def test_any_image_fills_the_canvas_in_one_direction(size: tuple[int, int]) -> None:
    canvas, letterbox = letterbox_image(flat(size), CanvasSettings(size=32, pad_value=7))
    painted = (canvas == (255, 0, 0)).all(axis=2)
    assert painted.sum(axis=1).max() == letterbox.content_size_wh[0]
    assert painted.sum(axis=0).max() == letterbox.content_size_wh[1]
    assert 32 in letterbox.content_size_wh
    assert painted.sum() == np.prod(letterbox.content_size_wh)


def test_normalising_moves_channels_first_and_scales_each() -> None:
    pixels = torch.tensor([[[10, 20, 30], [40, 50, 60]]], dtype=torch.uint8)
    values = normalise(pixels, (10.0, 10.0, 10.0), (1.0, 2.0, 5.0))
    torch.testing.assert_close(values, torch.tensor([[[0.0, 30.0]], [[5.0, 20.0]], [[4.0, 10.0]]]))
    batch = normalise(pixels[None].expand(3, -1, -1, -1), (10.0, 10.0, 10.0), (1.0, 2.0, 5.0))
    torch.testing.assert_close(batch, values.expand(3, -1, -1, -1))


def test_the_tower_sees_the_centre_at_full_height() -> None:
    pixels = np.zeros((40, 120, 3), dtype=np.uint8)
    pixels[:, 40:80] = 255
    seen = tower_image(Image.fromarray(pixels), TowerSettings(size=20, mean=(0, 0, 0), std=(1, 1, 1)))
    assert seen.shape == (3, 20, 20)
    assert float(seen[:, :, 1:-1].min()) > 0.9  # only the white middle, but for the resampled seam


def test_a_stretching_tower_sees_everything() -> None:
    pixels = np.zeros((40, 120, 3), dtype=np.uint8)
    pixels[:, :60] = 255
    seen = tower_image(Image.fromarray(pixels), TowerSettings(size=20, mean=(0, 0, 0), std=(1, 1, 1), fit="stretch"))
    assert seen.shape == (3, 20, 20)
    assert float(seen.mean()) == pytest.approx(0.5, abs=0.02)


def test_a_padding_tower_sees_everything_amid_the_mean_colour() -> None:
    mean = (0.5, 0.25, 0.75)
    settings = TowerSettings(size=20, mean=mean, std=(1, 1, 1), fit="pad")
    for size, seen_part in [((120, 60), np.s_[:, 5:15]), ((60, 120), np.s_[:, :, 5:15])]:
        seen = tower_image(Image.new("RGB", size, (255, 255, 255)), settings).numpy()
        white = 1 - np.array(mean)[:, None, None]
        np.testing.assert_allclose(seen[seen_part], np.broadcast_to(white, seen[seen_part].shape), atol=1e-6)
        seen[seen_part] = 0
        assert np.abs(seen).max() < 1 / 255


def test_a_strip_is_cut_before_it_is_enlarged() -> None:
    pixels = np.zeros((2_000_000, 1, 3), dtype=np.uint8)
    pixels[1_000_000 - 1 : 1_000_000 + 1] = 255
    seen = tower_image(Image.fromarray(pixels), TowerSettings(size=224, mean=(0, 0, 0), std=(1, 1, 1)))
    assert seen.shape == (3, 224, 224)
    assert float(seen[:, 112].mean()) > 0.9


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (4000, 20), (3, 2)])
def test_the_tower_takes_any_shape(size: tuple[int, int]) -> None:
    for fit in ("crop", "pad", "stretch"):
        assert tower_image(flat(size), TowerSettings(size=28, fit=fit)).shape == (3, 28, 28)


@pytest.mark.parametrize("size", [(40, 30), (300, 4)])
def test_a_limit_that_the_program_around_set_for_pillow_changes_nothing(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    expected = tower_image(image, TowerSettings())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert torch.equal(tower_image(image, TowerSettings()), expected)
