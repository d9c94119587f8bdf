"""The nameable categories of the drawn world: names, plurals, colours, where they belong, how they are drawn.

Knows words and drawings, but neither scenes nor questions.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from llava_grounding.colours import RGB
from llava_grounding.language.nouns import plural
from llava_grounding.scenes import drawings_animals as animals
from llava_grounding.scenes import drawings_food as food
from llava_grounding.scenes import drawings_outdoors as outdoors
from llava_grounding.scenes import drawings_things as things
from llava_grounding.scenes.pen import Pen

Drawing = Callable[[Pen, RGB, random.Random], None]

_ALL = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
_BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
_FUR = ("brown", "black", "white", "grey")


@dataclass(frozen=True)
class SceneCategory:
    """One nameable category.

    Args:
        name: singular, lower case.
        plural: plural, lower case.
        colours: names of the colours it comes in; empty where no one colour describes it.
        group: the wider word ("animal"), or "".
        place: "ground", "sky", "water" or "any": where it mostly is when the background has such a place.
        scale: its size relative to other categories.
        seat: height of the surface things can stand on, as a fraction of its height from the top; None = none.
        tilt: greatest rotation in degrees.
        mirrors: whether it may be drawn mirrored.
        worn: the colour is that of the clothes: "a woman in red".
    """

    name: str
    plural: str
    colours: tuple[str, ...]
    draw: Drawing | None = None
    group: str = ""
    place: str = "any"
    scale: float = 1.0
    seat: float | None = None
    tilt: float = 8.0
    mirrors: bool = True
    worn: bool = False

    @property
    def says_colour(self) -> bool:
        """Whether naming it with its colour tells something."""
        return len(self.colours) > 1

    @property
    def group_plural(self) -> str:
        """The plural of the wider word, or ""."""
        return GROUP_PLURALS.get(self.group, "")


def _animal(
    name: str, draw: Drawing, colours: tuple[str, ...], plural: str = "", place: str = "ground"
) -> SceneCategory:
    return SceneCategory(name, plural or name + "s", colours, draw, "animal", place)


def _person(name: str, draw: Drawing, plural: str, scale: float) -> SceneCategory:
    return SceneCategory(name, plural, _ALL, draw, "person", "ground", scale, tilt=4.0, worn=True)


def _vehicle(
    name: str, draw: Drawing, colours: tuple[str, ...] = _ALL, plural: str = "", place: str = "ground"
) -> SceneCategory:
    return SceneCategory(name, plural or name + "s", colours, draw, "vehicle", place, 1.15, tilt=5.0)


def _plant(name: str, draw: Drawing, colours: tuple[str, ...], plural: str = "") -> SceneCategory:
    return SceneCategory(name, plural or name + "s", colours, draw, "", "ground", 1.1, tilt=5.0)


def _fruit(name: str, draw: Drawing, colours: tuple[str, ...], plural: str = "") -> SceneCategory:
    return SceneCategory(name, plural or name + "s", colours, draw, "fruit", "ground", 0.85, tilt=20.0)


def _food(name: str, draw: Drawing, colours: tuple[str, ...], plural: str = "", tilt: float = 10.0) -> SceneCategory:
    return SceneCategory(name, plural or name + "s", colours, draw, "", "ground", 0.85, tilt=tilt)


def _thing(
    name: str,
    draw: Drawing,
    colours: tuple[str, ...] = _ALL,
    plural: str = "",
    place: str = "ground",
    tilt: float = 8.0,
    scale: float = 0.95,
    mirrors: bool = True,
) -> SceneCategory:
    return SceneCategory(name, plural or name + "s", colours, draw, "", place, scale, tilt=tilt, mirrors=mirrors)


def _furniture(name: str, draw: Drawing, colours: tuple[str, ...], seat: float, plural: str = "") -> SceneCategory:
    return SceneCategory(name, plural or name + "s", colours, draw, "", "ground", 1.25, seat, 3.0)


def _sky(name: str, draw: Drawing, colours: tuple[str, ...], tilt: float = 10.0) -> SceneCategory:
    return SceneCategory(name, name + "s", colours, draw, "", "sky", 1.0, tilt=tilt)


_WOODEN = ("brown", "white", "black", "red", "blue", "green", "grey", "yellow")

_CATEGORIES: tuple[SceneCategory, ...] = (
    _person("man", animals.man, "men", 1.25),
    _person("woman", animals.woman, "women", 1.25),
    _person("child", animals.child, "children", 1.0),
    _animal("dog", animals.dog, (*_FUR, "orange")),
    _animal("cat", animals.cat, (*_FUR, "orange")),
    _animal("bird", animals.bird, ("red", "yellow", "green", "blue", "black", "white", "grey"), place="any"),
    _animal("fish", animals.fish, (*_BRIGHT, "grey"), "fish", "water"),
    _animal("horse", animals.horse, _FUR),
    _animal("cow", animals.cow, ("brown", "black", "white")),
    _animal("sheep", animals.sheep, ("white", "black", "grey"), "sheep"),
    _animal("pig", animals.pig, ("pink",)),
    _animal("elephant", animals.elephant, ("grey",)),
    _animal("giraffe", animals.giraffe, ("yellow",)),
    _animal("zebra", animals.zebra, ()),
    _animal("bear", animals.bear, ("brown", "black", "white")),
    _animal("rabbit", animals.rabbit, _FUR),
    _animal("turtle", animals.turtle, ("green", "brown")),
    _animal("snail", animals.snail, ("brown", "orange", "yellow", "pink", "purple", "blue")),
    _animal("butterfly", animals.butterfly, _BRIGHT, "butterflies", "sky"),
    _animal("bee", animals.bee, ("yellow",), place="sky"),
    _animal("ladybug", animals.ladybug, ("red",)),
    _animal("frog", animals.frog, ("green",)),
    _animal("duck", animals.duck, ("yellow", "white", "brown"), place="water"),
    _animal("owl", animals.owl, ("brown", "grey")),
    _animal("penguin", animals.penguin, ("black",)),
    _animal("crab", animals.crab, ("red", "orange"), place="water"),
    _animal("whale", animals.whale, ("blue", "grey"), place="water"),
    _plant("tree", outdoors.tree, ("green", "orange", "yellow")),
    _plant("palm tree", outdoors.palm_tree, ("green",)),
    _plant("flower", outdoors.flower, ("red", "orange", "yellow", "blue", "purple", "pink", "white")),
    _plant("mushroom", outdoors.mushroom, ("red", "brown", "white", "purple")),
    _plant("cactus", outdoors.cactus, ("green",), "cactuses"),
    _plant("leaf", outdoors.leaf, ("green", "orange", "red", "yellow"), "leaves"),
    _sky("sun", outdoors.sun, ("yellow",)),
    _sky("moon", outdoors.moon, ("yellow",)),
    _sky("star", outdoors.star, ("yellow", "red", "orange", "blue", "white", "purple", "pink"), 15.0),
    _sky("cloud", outdoors.cloud, ("white", "grey"), 3.0),
    _sky("rainbow", outdoors.rainbow, (), 3.0),
    _thing("mountain", outdoors.mountain, ("grey", "brown", "green", "purple"), tilt=2.0, scale=1.2),
    _thing("fire", outdoors.fire, (), tilt=3.0),
    _thing("house", outdoors.house, _ALL, tilt=2.0, scale=1.25),
    _thing("castle", outdoors.castle, ("grey", "brown", "pink", "yellow"), tilt=2.0, scale=1.25),
    _thing("tent", outdoors.tent, _ALL, tilt=2.0, scale=1.1),
    _vehicle("car", outdoors.car),
    _vehicle("bus", outdoors.bus, plural="buses"),
    _vehicle("truck", outdoors.truck),
    _vehicle("bicycle", outdoors.bicycle),
    _vehicle("motorcycle", outdoors.motorcycle),
    _vehicle("train", outdoors.train),
    _vehicle("tractor", outdoors.tractor, ("red", "green", "blue", "yellow", "orange")),
    _vehicle("boat", outdoors.boat, place="water"),
    _vehicle("airplane", outdoors.airplane, place="sky"),
    _vehicle("helicopter", outdoors.helicopter, place="sky"),
    _vehicle("rocket", outdoors.rocket, place="sky"),
    _vehicle("hot air balloon", outdoors.hot_air_balloon, _BRIGHT, place="sky"),
    _thing("traffic light", outdoors.traffic_light, (), tilt=3.0),
    _thing("stop sign", outdoors.stop_sign, ("red",), tilt=4.0, mirrors=False),
    _thing("kite", outdoors.kite, _BRIGHT, place="sky", tilt=20.0),
    _thing("flag", outdoors.flag, _ALL, tilt=5.0),
    _fruit("apple", food.apple, ("red", "green", "yellow")),
    _fruit("pear", food.pear, ("green", "yellow")),
    _fruit("banana", food.banana, ("yellow", "green")),
    _fruit("strawberry", food.strawberry, ("red",), "strawberries"),
    _fruit("watermelon", food.watermelon, ()),
    _food("carrot", food.carrot, ("orange",), tilt=60.0),
    _food("cake", food.cake, ("pink", "brown", "white", "yellow", "blue", "purple"), tilt=3.0),
    _food("pizza", food.pizza, ()),
    _food("ice cream", food.ice_cream, ("pink", "brown", "white", "yellow", "green", "blue")),
    _food("donut", food.donut, ("pink", "brown", "white", "blue", "yellow", "purple")),
    _food("hamburger", food.hamburger, (), tilt=4.0),
    _food("egg", food.egg, ("white", "brown")),
    _thing("cup", things.cup, tilt=5.0, scale=0.85),
    _thing("bottle", things.bottle, tilt=6.0),
    _thing("bowl", things.bowl, tilt=3.0),
    _thing("vase", things.vase, tilt=3.0),
    _thing("book", things.book, tilt=15.0, scale=0.85),
    _thing("clock", things.clock, tilt=4.0),
    _thing("key", things.key, ("yellow", "grey", "brown", "red", "blue"), tilt=40.0, scale=0.9),
    _thing("hat", things.hat, tilt=10.0),
    _thing("shoe", things.shoe, tilt=10.0, scale=0.9),
    _thing("shirt", things.shirt, tilt=10.0),
    _thing("sock", things.sock, tilt=20.0, scale=0.85),
    _thing("guitar", things.guitar, ("brown", "red", "orange", "blue", "yellow", "black"), tilt=35.0),
    _thing("drum", things.drum, ("red", "blue", "green", "orange", "purple", "yellow"), tilt=4.0),
    _thing("bell", things.bell, ("yellow", "grey", "red"), tilt=12.0, scale=0.85),
    _thing("candle", things.candle, tilt=2.0),
    _thing("present", things.gift, tilt=5.0),
    _thing("umbrella", things.umbrella, tilt=20.0, scale=1.1),
    _thing("balloon", things.balloon, _BRIGHT, place="sky"),
    _thing("ball", things.ball, tilt=90.0, scale=0.75),
    _furniture("chair", things.chair, _ALL, 0.58),
    _furniture("table", things.table, _WOODEN, 0.12),
    _furniture("bench", things.bench, _WOODEN, 0.52, "benches"),
    _furniture("bed", things.bed, _BRIGHT, 0.34),
    _thing("lamp", things.lamp, tilt=3.0),
    _thing("television", things.television, (), tilt=3.0, scale=1.05),
    _thing("laptop", things.laptop, (), tilt=4.0),
    _thing("phone", things.phone, ("black", "white", "red", "blue", "pink", "grey"), tilt=15.0, scale=0.85),
    _thing("camera", things.camera, ("black", "grey", "red", "blue", "brown"), scale=0.85),
    _thing("backpack", things.backpack, tilt=5.0),
    _thing("suitcase", things.suitcase, tilt=4.0),
    _thing("pencil", things.pencil, _BRIGHT, tilt=60.0, scale=0.9),
    _thing("hammer", things.hammer, ("brown", "red", "yellow", "blue", "black"), tilt=35.0, scale=0.9),
    _thing("ladder", things.ladder, ("brown", "grey", "yellow", "red"), tilt=14.0, scale=1.1),
    _thing("bucket", things.bucket, tilt=5.0, scale=0.85),
    _thing("basket", things.basket, ("brown", "yellow"), tilt=4.0, scale=0.95),
    _thing("heart", things.heart, ("red", "pink", "purple", "blue", "orange"), place="any", tilt=15.0, scale=0.85),
    _thing("crown", things.crown, ("yellow", "grey"), tilt=10.0, scale=0.85),
    _thing("robot", things.robot, tilt=5.0, scale=1.1),
)

CATEGORIES: dict[str, SceneCategory] = {category.name: category for category in _CATEGORIES}

GROUP_PLURALS: dict[str, str] = {"person": "people", "animal": "animals", "vehicle": "vehicles", "fruit": "fruits"}


# Drawings of the first show something that could be called the second.
_SHOWS: dict[str, tuple[str, ...]] = {
    "palm tree": ("tree", "leaf"),
    "tree": ("leaf",),
    "flower": ("leaf",),
    "hot air balloon": ("balloon",),
    "vase": ("flower",),
    "cactus": ("flower",),
    "cake": ("candle",),
    "castle": ("flag", "house"),
    "boat": ("flag",),
    "flag": ("star",),
    "ball": ("star",),
    "shirt": ("star",),
}


def confusable(first: str, second: str) -> bool:
    """Whether a scene that has one of the categories could be said to have the other."""
    return first == second or second in _SHOWS.get(first, ()) or first in _SHOWS.get(second, ())


def category_named(name: str) -> SceneCategory:
    """The category of this name; an unknown name, as of a cut-out, becomes one without colours."""
    return CATEGORIES.get(name) or SceneCategory(name, plural(name), ())
