"""Other words for the categories of photo data sets, and the small closed word classes that noun phrases are cut at.

Plain tables; `nouns.py` reads them.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A word may stand for several categories (`bike`): the photo's labels decide. Singular forms.
SYNONYMS: dict[str, str] = {
    "person": "man woman boy girl child kid baby toddler lady guy gentleman adult teenager teen human player "
    "pedestrian skier snowboarder skateboarder surfer skater cyclist biker bicyclist motorcyclist rider "
    "passenger driver batter catcher pitcher umpire bride groom couple family officer policeman "
    "policewoman fireman firefighter soldier chef cook waiter waitress worker farmer student tourist "
    "shopper spectator boarder rower fisherman swimmer dancer musician referee cowboy businessman "
    "businesswoman vendor friend crowd infant male female youth someone jockey athlete performer "
    "bystander baseball+player tennis+player soccer+player tennis+pro police+officer",
    "bicycle": "bike cycle",
    "car": "automobile sedan suv taxi cab minivan jeep convertible hatchback van vehicle",
    "motorcycle": "motorbike motor+bike motor+cycle bike scooter moped dirt+bike",
    "airplane": "plane jet aeroplane aircraft airliner jetliner biplane",
    "bus": "double+decker double+decker+bus minibus coach vehicle",
    "train": "locomotive tram subway+train trolley passenger+train freight+train",
    "truck": "lorry pickup pickup+truck semi fire+truck firetruck trailer vehicle van",
    "boat": "ship sailboat canoe kayak ferry rowboat yacht vessel raft gondola",
    "traffic light": "stoplight traffic+signal stop+light",
    "fire hydrant": "hydrant",
    "stop sign": "stop+sign",
    "parking meter": "meter",
    "bench": "park+bench",
    "bird": "duck goose pigeon seagull gull parrot owl eagle swan chicken rooster hen crow penguin flamingo hawk "
    "sparrow parakeet peacock ostrich turkey heron pelican",
    "cat": "kitten kitty",
    "dog": "puppy pup doggy hound terrier poodle retriever bulldog sheepdog labrador collie beagle pug",
    "horse": "pony foal stallion mare colt",
    "sheep": "lamb ewe ram",
    "cow": "bull calf cattle ox steer heifer",
    "elephant": "baby+elephant",
    "bear": "polar+bear brown+bear grizzly grizzly+bear cub bear+cub panda",
    "backpack": "rucksack knapsack back+pack bag",
    "umbrella": "parasol",
    "handbag": "purse bag hand+bag tote clutch",
    "tie": "necktie neck+tie bow+tie bowtie",
    "suitcase": "luggage baggage bag briefcase",
    "frisbee": "disc disk flying+disc",
    "skis": "ski",
    "snowboard": "snow+board board",
    "sports ball": "ball soccer+ball tennis+ball baseball basketball volleyball football",
    "kite": "parasail",
    "baseball bat": "bat",
    "baseball glove": "glove mitt baseball+mitt catcher's+mitt",
    "skateboard": "skate+board board longboard",
    "surfboard": "surf+board board",
    "tennis racket": "racket racquet tennis+racquet",
    "bottle": "wine+bottle beer+bottle water+bottle",
    "wine glass": "glass glass+of+wine wineglass",
    "cup": "mug coffee+cup glass teacup",
    "bowl": "dish",
    "sandwich": "burger hamburger sub panini",
    "hot dog": "hotdog hot-dog",
    "donut": "doughnut pastry",
    "cake": "cupcake birthday+cake wedding+cake",
    "chair": "armchair stool seat recliner lawn+chair rocking+chair",
    "couch": "sofa loveseat settee",
    "potted plant": "plant houseplant house+plant",
    "dining table": "table desk kitchen+table picnic+table dinner+table",
    "table": "desk",
    "tv": "television television+set tv+screen monitor screen",
    "laptop": "computer laptop+computer notebook",
    "mouse": "computer+mouse",
    "remote": "remote+control wii+remote controller wii+controller wiimote game+controller nintendo+wii+controller",
    "keyboard": "computer+keyboard",
    "cell phone": "phone cellphone mobile+phone smartphone smart+phone iphone",
    "microwave": "microwave+oven",
    "oven": "stove",
    "refrigerator": "fridge",
    "book": "textbook novel",
    "clock": "alarm+clock",
    "teddy bear": "teddy stuffed+bear stuffed+animal toy+bear",
    "hair drier": "hair+dryer blow+dryer hairdryer",
    "toothbrush": "tooth+brush",
    "bag": "purse handbag",
    "balloon": "hot+air+balloon",
    "rhesus monkey": "monkey macaque",
    "turtle": "tortoise sea+turtle",
    "deer": "fawn doe buck stag",
    "tiger": "tiger+cub",
    "road": "street highway",
    "sidewalk": "pavement footpath",
    "pavement": "sidewalk",
    "grass": "lawn",
    "sea": "ocean",
    "rug": "carpet",
    "cabinet": "cupboard",
    "house": "home",
    "traffic sign": "road+sign street+sign sign",
    "bicyclist": "cyclist rider",
    "window blind": "blind",
    "vegetation": "plants greenery",
    **dict.fromkeys(
        _words(
            "zebra giraffe fork knife spoon banana apple orange broccoli carrot pizza bed toilet toaster sink vase "
            "scissors otter"
        ),
        "",
    ),
}

IRREGULAR_PLURALS: dict[str, str] = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "gentleman": "gentlemen",
    "policeman": "policemen", "policewoman": "policewomen", "fireman": "firemen", "fisherman": "fishermen",
    "businessman": "businessmen", "businesswoman": "businesswomen", "mouse": "mice", "goose": "geese", "calf": "calves",
    "knife": "knives", "leaf": "leaves", "shelf": "shelves", "wolf": "wolves", "foot": "feet", "tooth": "teeth",
    "ox": "oxen", "sheep": "sheep", "deer": "deer", "fish": "fish", "cattle": "cattle", "luggage": "luggage",
    "baggage": "baggage", "aircraft": "aircraft", "skis": "skis", "scissors": "scissors",
    "glass of wine": "glasses of wine",
}  # fmt: skip

# Things spoken of without number: "the grass", never "a grass" or "two grasses".
MASS_NOUNS = _set(
    "broccoli water grass sand snow gravel dirt food fruit paper vegetation sky sea hair skin luggage baggage "
    "accessories infrastructure pavement cardboard"
)
# Categories whose name is already a plural.
PLURAL_NAMES = _set(
    "skis scissors stairs pants shoes sunglasses boots stockings jeans sandals shorts leggings glasses heels pumps "
    "gloves loafers sneakers socks tights flats earrings wedges accessories"
)
# Nouns that name many at once; "a group of people" means all of them.
GROUP_NOUNS = _set(
    "group bunch herd flock crowd row line pack pile number lot lots couple pair set team stack collection bundle "
    "variety family assortment plenty gang parade fleet"
)
NUMBER_WORDS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
MANY_WORDS = _set("several some many multiple various numerous few lots all most other different")
VAGUE_WORDS = _set("another every each any either one's someone's")
NEGATIONS = _set("no without not zero never")
DETERMINERS = _set("a an the this that these those his her its their our my your both")
ADJECTIVES = _set(
    "red orange yellow green blue purple violet pink brown black white gray grey silver golden gold tan beige blond "
    "blonde dark light bright colorful colored large small big little tiny huge giant tall short long wide narrow "
    "thin fat young old elderly older younger new modern vintage antique wooden metal plastic stone brick glass "
    "leather empty full open closed clean dirty wet dry fluffy furry shaggy hairy cute beautiful pretty handsome "
    "happy sad stuffed striped spotted plaid round square flat male female adult baby asian african sleepy ripe fresh "
    "hot cold parked sliced cooked decorated broken main single double front bearded smiling shirtless barefoot busy "
    "nearby distant real toy public electric commercial nice fancy simple professional left right upper lower middle "
    "same first second third next teenage teenaged muddy snowy grassy rocky sandy woolly dressed shiny rusty homemade "
    "delicious half skinny"
)
# A phrase's head ends where one of these begins.
PHRASE_ENDS = _set(
    "in on at with by near next under over above below behind beside besides between beneath underneath inside "
    "outside against along across around through toward towards into onto from off to that which who whose where "
    "while as for is are was were be being has have had wearing holding sitting standing lying laying riding walking "
    "playing looking facing eating using carrying running flying jumping and or but atop among amid during about"
)
# After a noun these make it a mere modifier: a train station is no train.
COMPOUND_TAILS = _set(
    "station stations stop stops track tracks platform terminal race races racing food house houses head heads door "
    "doors lot lots cloth cushion meter meters match court courts game games lane lanes shop store market bed beds "
    "frame handle cage leash toy toys pen stall crossing yard car cars bowl dish plate box case rack racks wheel tire "
    "seat engine window windows hat shirt tail ears face dealer driver umbrella top tops control controls screen "
    "costume statue sculpture figurine print logo leg legs field base diamond stadium player players team uniform "
    "glove gloves cap wing wings hangar port dock shaped themed colored sized side sides shade shelter tree trees "
    "juice peel pie wedge slice slices hair fur stands tower towers slope slopes lift lifts resort pole poles ramp "
    "ramps trick tricks gear equipment uniforms shorts string strings call calls mirror mirrors frosting corner "
    "corners drawn"
)
# Nouns for several people without a number ending.
COLLECTIVES: dict[str, int | None] = {"couple": 2, "family": None, "crowd": None}
