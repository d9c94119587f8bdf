"""The drawn world: an endless supply of scenes with exact masks, names, colours, relations and dialogues.

`draw_scene` is the whole of it; the same seed and configuration give the same sample. Knows no tokenizer and no model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from llava_grounding.colours import COLOURS
from llava_grounding.data.sample import Instance, Sample
from llava_grounding.dialogues.builder import pointed, sample_of
from llava_grounding.dialogues.drafts import Draft
from llava_grounding.dialogues.facts import Facts
from llava_grounding.errors import ConfigError, did_you_mean
from llava_grounding.scenes.backgrounds import Background, paint_background, photo_background
from llava_grounding.scenes.categories import CATEGORIES, category_named, confusable
from llava_grounding.scenes.questions import QUESTION_KINDS, scene_drafts, scene_layout, scene_phrases
from llava_grounding.scenes.sprites import OPAQUE, cropped, drawn_sprite, emoji_sprite, num_variants, posed

__all__ = ["CATEGORIES", "COLOURS", "QUESTION_KINDS", "SceneConfig", "draw_scene", "scene_phrases"]

Cutout = tuple[str, np.ndarray]
_ATTEMPTS = 14
_COUNT_SHARES = (0.10, 0.26, 0.28, 0.20, 0.10, 0.06)  # one to six things
_FRONT_SHARE = 0.12  # of a thing hidden by another before the other counts as being in front of it
_SEATED_SHARE = 0.5  # of scenes with furniture where something stands on it


@dataclass(frozen=True)
class SceneConfig:
    """What scenes are made of.

    Args:
        categories: names of `CATEGORIES` that occur.
        num_objects: fewest and most things in a scene.
        short_side: least and greatest length of the image's shorter side, in pixels.
        aspect: least and greatest width / height.
        object_scale: least and greatest longer side of a thing, as a fraction of the image's shorter side.
        min_visible: least part of each thing that stays visible.
        same_category_share: how often a further thing is of a category already there.
        emoji_font: path of a colour emoji font whose glyphs stand in for some drawings; skipped where unusable.
        emoji_share: how often, given a font.
        cutouts: (name, RGBA uint8) pictures of real things, or a function that gives one.
        cutout_share: how often, given cut-outs.
        photos: (H, W, 3) uint8 pictures to use as backgrounds, or a function that gives one. They should show no
            nameable things.
        photo_share: how often, given photos.
        questions: the kinds of turns wanted, of `QUESTION_KINDS`; empty = no dialogue.
    """

    categories: tuple[str, ...] = tuple(CATEGORIES)
    num_objects: tuple[int, int] = (1, 6)
    short_side: tuple[int, int] = (120, 240)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    object_scale: tuple[float, float] = (1 / 7, 1 / 2)
    min_visible: float = 0.45
    same_category_share: float = 0.4
    emoji_font: str | None = None
    emoji_share: float = 0.25
    cutouts: Sequence[Cutout] | Callable[[random.Random], Cutout] = ()
    cutout_share: float = 0.3
    photos: Sequence[np.ndarray] | Callable[[random.Random], np.ndarray] = ()
    photo_share: float = 0.3
    questions: tuple[str, ...] = QUESTION_KINDS

    def __post_init__(self) -> None:
        problems = []
        named = (("category", self.categories, tuple(CATEGORIES)), ("question", self.questions, QUESTION_KINDS))
        for what, values, known in named:
            strange = [value for value in values if value not in known]
            problems += [f"unknown {what} `{value}`{did_you_mean(value, known)}" for value in strange]
        if not self.categories:
            problems.append("categories must name at least one category")
        if not 1 <= self.num_objects[0] <= self.num_objects[1]:
            problems.append(f"num_objects must be ordered and at least 1, got {self.num_objects}")
        if not 16 <= self.short_side[0] <= self.short_side[1]:
            problems.append(f"short_side must be ordered and at least 16 pixels, got {self.short_side}")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            problems.append(f"aspect must be ordered and positive, got {self.aspect}")
        if not 0 < self.object_scale[0] <= self.object_scale[1] <= 1:
            problems.append(f"object_scale must be ordered and in (0, 1], got {self.object_scale}")
        if not 0 < self.min_visible <= 1:
            problems.append(f"min_visible must be in (0, 1], got {self.min_visible}")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(eq=False)
class _Plan:
    """What one thing is to be, before it has a place."""

    name: str
    colour: str | None
    sprite: Image.Image
    scale: float  # of the configured range, 0 to 1
    seat: int | None = None  # index of the plan it stands on


@dataclass(eq=False)
class _Placed:
    """A thing on the canvas; `mask` is what is still visible of its `drawn` pixels."""

    plan: _Plan
    sprite: Image.Image
    x: int
    y: int
    mask: np.ndarray
    drawn: int
    hidden_by: dict[int, int] = field(default_factory=dict)


def draw_scene(seed: int, config: SceneConfig = SceneConfig()) -> Sample:
    """The scene of this seed: image, things with their visible masks, and dialogue turns."""
    scene = draft_scene(seed, config)
    rng = np.random.default_rng(scene.prompt_seed)
    return sample_of(scene.facts, [pointed(draft, scene.facts, rng) for draft in scene.drafts])


@dataclass(frozen=True)
class DraftedScene:
    """A drawn scene with the questions about it, of which none has pointed at anything yet."""

    facts: Facts
    drafts: tuple[Draft, ...]
    prompt_seed: int
    """Seed of how things are pointed at."""


def draft_scene(seed: int, config: SceneConfig = SceneConfig()) -> DraftedScene:
    """The scene of this seed."""
    rng = random.Random(f"scene {seed}")
    size_wh = _image_size(rng, config)
    background = _background(rng, config, size_wh)
    canvas = _Canvas(size_wh, background, config, rng)
    placed = canvas.place_all(_plan_things(rng, config))
    image = Image.fromarray(background.image)
    for thing in placed:
        image.paste(thing.sprite, (thing.x, thing.y), thing.sprite)
    instances = tuple(_instance(thing) for thing in placed)
    facts = Facts(
        id=f"scene-{seed}",
        image=np.asarray(image).copy(),
        instances=instances,
        masks=np.stack([thing.mask for thing in placed]),
        source="drawn",
        exhaustive_names=frozenset(instance.category for instance in instances),
        kinds=tuple("thing" for _ in instances),
        rows={row: row for row in range(len(instances))},
    )
    if not config.questions:
        return DraftedScene(facts, (), 0)
    layout = scene_layout(facts, canvas.stands_on, canvas.in_front())
    drafts = scene_drafts(layout, background.sentence, rng, config.questions, config.categories)
    return DraftedScene(facts, drafts, rng.getrandbits(64))


def _image_size(rng: random.Random, config: SceneConfig) -> tuple[int, int]:
    short = rng.randint(*config.short_side)
    aspect = rng.uniform(*config.aspect)
    return (round(short * aspect), short) if aspect >= 1 else (short, round(short / aspect))


def _background(rng: random.Random, config: SceneConfig, size_wh: tuple[int, int]) -> Background:
    generator = np.random.default_rng(rng.getrandbits(64))
    if (callable(config.photos) or config.photos) and rng.random() < config.photo_share:
        photo = config.photos(rng) if callable(config.photos) else rng.choice(config.photos)
        return photo_background(generator, size_wh, photo)
    return paint_background(generator, size_wh)


def _plan_things(rng: random.Random, config: SceneConfig) -> list[_Plan]:
    low, high = config.num_objects
    shares = [_COUNT_SHARES[min(n, len(_COUNT_SHARES)) - 1] for n in range(low, high + 1)]
    count = rng.choices(range(low, high + 1), shares)[0]
    plans: list[_Plan] = []
    rejected = 0  # few categories may leave none that is new
    while len(plans) < count:
        twin = rng.choice(plans) if plans and rng.random() < config.same_category_share else None
        plan = _plan_one(rng, config, twin)
        if twin is None and any(confusable(plan.name, other.name) for other in plans):
            rejected += 1
            if rejected < _ATTEMPTS:
                continue
        plans.append(plan)
    seats = [i for i, plan in enumerate(plans) if category_named(plan.name).seat is not None]
    if seats and rng.random() < _SEATED_SHARE:
        _seat_one(rng, plans, seats[0])
    return plans


def _plan_one(rng: random.Random, config: SceneConfig, twin: _Plan | None) -> _Plan:
    """A thing, new or of the category of `twin`: then often of the same colour and size."""
    if twin is None and (callable(config.cutouts) or config.cutouts) and rng.random() < config.cutout_share:
        name, pixels = config.cutouts(rng) if callable(config.cutouts) else rng.choice(config.cutouts)
        return _Plan(name, None, cropped(Image.fromarray(pixels, "RGBA")), rng.random())
    if twin is not None and (twin.name not in CATEGORIES or rng.random() < 0.4):
        return _Plan(twin.name, twin.colour, twin.sprite, _near(rng, twin.scale))
    name = twin.name if twin else rng.choice(config.categories)
    colours = CATEGORIES[name].colours
    colour = twin.colour if twin and rng.random() < 0.3 else rng.choice(colours) if colours else None
    scale = _near(rng, twin.scale) if twin and rng.random() < 0.5 else rng.random()
    if twin is None and config.emoji_font and rng.random() < config.emoji_share:
        glyph = emoji_sprite(config.emoji_font, name)
        if glyph is not None:
            return _Plan(name, None, glyph, scale)
    return _Plan(name, colour, drawn_sprite(name, colour, rng.randrange(num_variants(name))), scale)


def _near(rng: random.Random, scale: float) -> float:
    return min(1.0, max(0.0, scale + rng.uniform(-0.12, 0.12)))


def _seat_one(rng: random.Random, plans: list[_Plan], seat: int) -> None:
    """Let one thing stand on the furniture: it comes right after it and is smaller."""
    plans[seat].scale = max(plans[seat].scale, rng.uniform(0.6, 1.0))
    sitters = [p for p in plans if p is not plans[seat] and _may_sit(p)]
    if not sitters:
        return
    sitter = rng.choice(sitters)
    sitter.scale = min(sitter.scale, rng.uniform(0.0, 0.45))
    rest = [p for p in plans if p is not plans[seat] and p is not sitter]
    sitter.seat = 0
    plans[:] = [plans[seat], sitter, *rest]


def _may_sit(plan: _Plan) -> bool:
    category = category_named(plan.name)
    return category.seat is None and category.place in ("ground", "any") and category.group != "vehicle"


class _Canvas:
    """Finds places for things so that each keeps enough of itself visible."""

    def __init__(
        self, size_wh: tuple[int, int], background: Background, config: SceneConfig, rng: random.Random
    ) -> None:
        self._size_wh, self._background, self._config, self._rng = size_wh, background, config, rng
        self._placed: list[_Placed] = []
        self._index_of_plan: dict[int, int] = {}
        self.stands_on: dict[int, int] = {}

    def place_all(self, plans: Sequence[_Plan]) -> list[_Placed]:
        for number, plan in enumerate(plans):
            seat = self._index_of_plan.get(plan.seat) if plan.seat is not None else None
            if self._place(plan, seat):
                self._index_of_plan[number] = len(self._placed) - 1
                if seat is not None:
                    self.stands_on[len(self._placed) - 1] = seat
        return self._placed

    def in_front(self) -> list[tuple[int, int]]:
        """Pairs (front, behind) of things that overlap for all to see, other than standing on one another."""
        return [
            (front, behind)
            for behind, thing in enumerate(self._placed)
            for front, pixels in thing.hidden_by.items()
            if pixels >= _FRONT_SHARE * thing.drawn and self.stands_on.get(front) != behind
        ]

    def _place(self, plan: _Plan, seat: int | None) -> bool:
        rng = self._rng
        may_overlap = rng.random() < 0.3
        sprite = self._posed(plan)
        for attempt in range(_ATTEMPTS):
            if attempt and attempt % 5 == 0:  # crowded: try smaller
                plan.scale *= 0.6
                sprite = self._posed(plan)
            x, y = self._seated(sprite, self._placed[seat], plan) if seat is not None else self._position(sprite, plan)
            if self._accept(plan, sprite, x, y, may_overlap or seat is not None):
                return True
        if self._placed:
            return False
        x, y = (self._size_wh[0] - sprite.width) // 2, (self._size_wh[1] - sprite.height) // 2
        return self._accept(plan, sprite, x, y, True)

    def _posed(self, plan: _Plan) -> Image.Image:
        rng, category = self._rng, category_named(plan.name)
        low, high = self._config.object_scale
        fraction = low * (high / low) ** plan.scale * category.scale
        side = round(min(max(fraction, low), high * 1.1) * min(self._size_wh))
        degrees = rng.uniform(-category.tilt, category.tilt) if rng.random() < 0.6 and plan.seat is None else 0.0
        mirrored = category.mirrors and rng.random() < 0.5
        stretch = rng.uniform(0.88, 1.14) if rng.random() < 0.5 else 1.0
        return posed(plan.sprite, max(side, 6), degrees, mirrored, rng.uniform(0.9, 1.06), stretch)

    def _position(self, sprite: Image.Image, plan: _Plan) -> tuple[int, int]:
        """The upper left corner: where such things belong, mostly, and seldom a little over the edge."""
        rng, (width, height) = self._rng, self._size_wh
        over = 0.2 if rng.random() < 0.1 else 0.0
        x = rng.uniform(-over * sprite.width, width - (1 - over) * sprite.width)
        lowest, highest = height - (1 - over) * sprite.height, -over * sprite.height
        horizon, place = self._background.horizon, category_named(plan.name).place
        if horizon is not None and place != "any" and rng.random() < 0.85:
            edge = horizon * height
            if place == "sky":
                lowest = min(lowest, edge - 0.7 * sprite.height)
            elif self._background.lower == "ground" or place == "water":
                highest = max(highest, edge - 0.8 * sprite.height)
        y = rng.uniform(min(highest, lowest), max(highest, lowest))
        return round(x), round(min(y, height - (1 - over) * sprite.height))

    def _seated(self, sprite: Image.Image, seat: _Placed, plan: _Plan) -> tuple[int, int]:
        fraction = category_named(seat.plan.name).seat
        assert fraction is not None
        slack = max(0.0, 0.8 * seat.sprite.width - sprite.width)
        x = seat.x + seat.sprite.width / 2 - sprite.width / 2 + self._rng.uniform(-slack, slack) / 2
        return round(x), round(seat.y + fraction * seat.sprite.height - 0.97 * sprite.height)

    def _accept(self, plan: _Plan, sprite: Image.Image, x: int, y: int, may_overlap: bool) -> bool:
        """Put the sprite there, unless too much of it or of another thing would be invisible."""
        width, height = self._size_wh
        opaque = np.asarray(sprite)[..., 3] >= OPAQUE
        drawn = int(np.count_nonzero(opaque))
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + sprite.width, width), min(y + sprite.height, height)
        if x1 <= x0 or y1 <= y0:
            return False
        inside = opaque[y0 - y : y1 - y, x0 - x : x1 - x]
        least = self._config.min_visible
        if drawn < 12 or np.count_nonzero(inside) < max(least, 0.7) * drawn:
            return False
        lost = [int(np.count_nonzero(thing.mask[y0:y1, x0:x1] & inside)) for thing in self._placed]
        for thing, pixels in zip(self._placed, lost, strict=True):
            if pixels and not may_overlap:
                return False
            if np.count_nonzero(thing.mask) - pixels < least * thing.drawn:
                return False
        mask = np.zeros((height, width), dtype=bool)
        mask[y0:y1, x0:x1] = inside
        for thing, pixels in zip(self._placed, lost, strict=True):
            if pixels:
                thing.mask[y0:y1, x0:x1] &= ~inside
                thing.hidden_by[len(self._placed)] = pixels
        self._placed.append(_Placed(plan, sprite, x, y, mask, drawn))
        return True


def _instance(thing: _Placed) -> Instance:
    rows, columns = np.flatnonzero(thing.mask.any(axis=1)), np.flatnonzero(thing.mask.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
    return Instance(thing.plan.name, box, True, (thing.plan.colour,) if thing.plan.colour else ())
