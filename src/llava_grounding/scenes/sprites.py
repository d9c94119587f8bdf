"""Finished pictures of single things with transparency: drawn once per process, kept, and posed anew for each scene.

Knows categories, colours and emoji fonts; does not know where a thing stands in a scene.
"""

from __future__ import annotations

import random
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from llava_grounding.colours import RGB, dark, light, luminance
from llava_grounding.scenes.categories import CATEGORIES
from llava_grounding.scenes.pen import Pen, vary_colour

SPRITE_SIDE = 112
OPAQUE = 128
_NO_CHARACTER = chr(0x10FFFD)
_EMOJI_FONT_SIZE = 109  # the one size bitmap emoji fonts have

EMOJI: dict[str, str] = {
    "man": "👨", "woman": "👩", "child": "🧒", "dog": "🐕", "cat": "🐈", "bird": "🐦", "fish": "🐟", "horse": "🐎",
    "cow": "🐄", "sheep": "🐑", "pig": "🐖", "elephant": "🐘", "giraffe": "🦒", "zebra": "🦓", "bear": "🐻",
    "rabbit": "🐇", "turtle": "🐢", "snail": "🐌", "butterfly": "🦋", "bee": "🐝", "ladybug": "🐞", "frog": "🐸",
    "duck": "🦆", "owl": "🦉", "penguin": "🐧", "crab": "🦀", "whale": "🐋", "tree": "🌳", "palm tree": "🌴",
    "flower": "🌼", "mushroom": "🍄", "cactus": "🌵", "leaf": "🍃", "sun": "☀", "moon": "🌙", "star": "⭐",
    "cloud": "☁", "rainbow": "🌈", "mountain": "⛰", "fire": "🔥", "house": "🏠", "castle": "🏰", "tent": "⛺",
    "car": "🚗", "bus": "🚌", "truck": "🚚", "bicycle": "🚲", "motorcycle": "🏍", "train": "🚆", "tractor": "🚜",
    "boat": "⛵", "airplane": "✈", "helicopter": "🚁", "rocket": "🚀", "traffic light": "🚦", "stop sign": "🛑",
    "kite": "🪁", "apple": "🍎", "pear": "🍐", "banana": "🍌", "strawberry": "🍓", "watermelon": "🍉",
    "carrot": "🥕", "cake": "🎂", "pizza": "🍕", "ice cream": "🍦", "donut": "🍩", "hamburger": "🍔", "egg": "🥚",
    "cup": "☕", "bottle": "🍾", "book": "📕", "clock": "🕐", "key": "🔑", "hat": "🎩",
    "shoe": "👟", "shirt": "👕", "sock": "🧦", "guitar": "🎸", "drum": "🥁", "bell": "🔔", "candle": "🕯",
    "present": "🎁", "umbrella": "☂", "balloon": "🎈", "ball": "⚽", "chair": "🪑", "bed": "🛏", "television": "📺",
    "laptop": "💻", "phone": "📱", "camera": "📷", "backpack": "🎒", "pencil": "✏", "hammer": "🔨", "ladder": "🪜",
    "heart": "❤", "crown": "👑", "robot": "🤖",
}  # fmt: skip


def num_variants(category: str) -> int:
    """How many pictures there are of the category in each colour."""
    colours = len(CATEGORIES[category].colours)
    return 4 if colours > 6 else 6 if colours > 2 else 12


@cache
def drawn_sprite(category: str, colour: str | None, variant: int) -> Image.Image:
    """The category drawn in a shade of the colour, cropped to what is visible; the same for the same arguments."""
    rng = random.Random(f"{category}/{colour}/{variant}")
    shade = vary_colour(colour or "grey", rng)
    pen = Pen(SPRITE_SIDE)
    draw = CATEGORIES[category].draw
    assert draw is not None
    draw(pen, shade, rng)
    sprite = pen.finished()
    if luminance(shade) > 0.8 or rng.random() < 0.45:
        sprite = _outlined(sprite, _outline_colour(shade, rng), rng.choice([3, 3, 5]))
    if rng.random() < 0.6:
        sprite = _shaded(sprite, rng)
    return cropped(sprite)


@lru_cache(maxsize=256)
def emoji_sprite(font_path: str, category: str) -> Image.Image | None:
    """The category's glyph in the font's own colours, or None where the font cannot be used or has no such glyph."""
    if category not in EMOJI:
        return None
    font = _emoji_font(font_path)
    if font is None:
        return None
    glyph = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(glyph).text((10, 10), EMOJI[category], font=font, embedded_color=True)
    if np.asarray(glyph.getchannel("A")).max() < OPAQUE or _is_placeholder(font, EMOJI[category]):
        return None
    glyph = cropped(glyph)
    glyph.thumbnail((SPRITE_SIDE, SPRITE_SIDE))
    return glyph


@lru_cache(maxsize=8)
def _emoji_font(path: str) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(path, _EMOJI_FONT_SIZE)
    except OSError:
        return None


def _is_placeholder(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether the font shows the character as it shows those it does not have."""
    return bytes(font.getmask(character)) == bytes(font.getmask(_NO_CHARACTER))


def cropped(sprite: Image.Image) -> Image.Image:
    """Without its transparent border."""
    box = sprite.getchannel("A").getbbox()
    return sprite.crop(box) if box else sprite


def posed(
    sprite: Image.Image, longer_side: int, degrees: float, mirrored: bool, brightness: float, stretch: float = 1.0
) -> Image.Image:
    """The sprite mirrored, widened by `stretch`, scaled to about `longer_side` pixels along its longer side, turned."""
    width, height = sprite.width * stretch, float(sprite.height)
    scale = longer_side / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if mirrored:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = sprite.resize(size, Image.Resampling.BILINEAR)
    if abs(degrees) > 1.0:
        sprite = sprite.rotate(degrees, Image.Resampling.BILINEAR, expand=True)
    if brightness != 1.0:
        ramp = [min(255, round(level * brightness)) for level in range(256)]
        sprite = sprite.point(ramp * 3 + list(range(256)))
    return cropped(sprite)


def _outline_colour(shade: RGB, rng: random.Random) -> RGB:
    if luminance(shade) < 0.25 and rng.random() < 0.5:
        return light(shade, 0.75)
    return dark(shade, 0.75)


def _outlined(sprite: Image.Image, colour: RGB, width: int) -> Image.Image:
    padded = Image.new("RGBA", (sprite.width + 2 * width, sprite.height + 2 * width))
    padded.paste(sprite, (width, width))
    halo = padded.getchannel("A").filter(ImageFilter.MaxFilter(width))
    line = Image.new("RGBA", padded.size, (*colour, 0))
    line.putalpha(halo)
    return Image.alpha_composite(line, padded)


def _shaded(sprite: Image.Image, rng: random.Random) -> Image.Image:
    """Lit from one side, with a little grain."""
    pixels = np.asarray(sprite, dtype=np.float32).copy()
    height, width = pixels.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * rng.uniform(-0.13, 0.13)
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * rng.uniform(-0.16, 0.04)
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.choice([0.0, 0.02, 0.05]), (height, width))
    pixels[..., :3] *= (1 + across + down + grain)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGBA")
