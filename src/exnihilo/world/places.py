"""The words of the world, part 1: places, jobs, weather, with the clauses that belong to each.

`PLACES` maps a noun to (preposition, clauses); every clause is a full one in the past tense. `JOBS` maps a
job to (its place, habits); every habit is a verb phrase in the past tense.
"""

from __future__ import annotations

PLACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "mill": (
        "at",
        (
            "the big wheel creaked in the stream",
            "flour dust floated in the light",
            "two grey millstones rumbled under the floor",
            "sacks of grain leaned against the wall",
        ),
    ),
    "bakery": (
        "at",
        (
            "warm loaves cooled on the shelf",
            "the oven glowed behind its iron door",
            "a customer tapped on the counter",
            "sugar sparkled on the buns",
        ),
    ),
    "harbour": (
        "at",
        (
            "gulls quarrelled over a scrap of herring",
            "the fishing boats rocked on the tide",
            "wet sails dried along the pier",
            "a captain shouted to his crew",
        ),
    ),
    "barn": (
        "in",
        (
            "hay was stacked up to the beams",
            "swallows darted under the roof",
            "an old plough rusted in the corner",
            "the cows chewed in their stalls",
        ),
    ),
    "garden": (
        "in",
        (
            "bees hummed among the roses",
            "rows of cabbages shone with dew",
            "a rake rested on the fence",
            "tulips nodded beside the gravel path",
        ),
    ),
    "school": (
        "at",
        (
            "chalk squeaked on the blackboard",
            "pictures of far countries covered the wall",
            "pupils whispered behind their desks",
            "ink stains dotted every bench",
        ),
    ),
    "forge": (
        "at",
        (
            "sparks jumped from the anvil",
            "the bellows puffed like a tired dragon",
            "hot metal hissed in a trough",
            "horseshoes dangled from a hook",
        ),
    ),
    "workshop": (
        "in",
        (
            "curls of wood covered the floor",
            "chisels of every size hung in a row",
            "the smell of glue filled the room",
            "an unfinished cupboard waited for its doors",
        ),
    ),
    "market": (
        "at",
        (
            "traders called out their prices",
            "piles of melons wobbled on the stalls",
            "copper pennies clinked from hand to hand",
            "a juggler amused the crowd",
        ),
    ),
    "library": (
        "in",
        (
            "tall shelves reached the ceiling",
            "pages rustled in the silence",
            "a reader coughed behind an atlas",
            "rows of dusty volumes slept in the shade",
        ),
    ),
    "inn": (
        "at",
        (
            "a fire crackled in the hearth",
            "mugs clattered on long tables",
            "travellers told tales of distant roads",
            "stew simmered over the flames",
        ),
    ),
    "meadow": (
        "in",
        (
            "poppies swayed in the tall grass",
            "grasshoppers clicked all around",
            "white butterflies drifted over the clover",
            "a row of hives buzzed by the hedge",
        ),
    ),
    "tower": (
        "in",
        (
            "heavy gears turned without a pause",
            "a spiral stair climbed into the dark",
            "pigeons cooed on the ledge",
            "cobwebs trembled under the spire",
        ),
    ),
    "forest": (
        "in",
        (
            "pine cones littered the ground",
            "a cuckoo called from a hollow oak",
            "moss grew thick upon the roots",
            "sunlight slipped between the trunks",
        ),
    ),
    "lighthouse": (
        "at",
        (
            "a bright beam swept across the waves",
            "salt air shook the windows",
            "ships blinked far out at sea",
            "foam splashed against the rocks",
        ),
    ),
    "bridge": (
        "on",
        (
            "carts rattled over the planks",
            "ducklings paddled through the arches",
            "someone had carved letters on the rail",
            "the water gurgled far below",
        ),
    ),
    "river": (
        "by",
        (
            "trout flashed in the shallows",
            "reeds bent over the bank",
            "a raft drifted round the bend",
            "willows trailed their leaves in the current",
        ),
    ),
    "pond": (
        "by",
        (
            "frogs croaked among the lilies",
            "dragonflies hovered above the mud",
            "rings spread over the still surface",
            "a heron stood on one leg",
        ),
    ),
    "hill": (
        "on",
        (
            "sheep grazed along the slope",
            "a crooked thorn leaned against the sky",
            "the whole valley lay below",
            "larks sang high above the heather",
        ),
    ),
    "orchard": (
        "in",
        (
            "ripe apples weighed down every branch",
            "wasps circled the fallen plums",
            "petals drifted over the wall",
            "a scarecrow guarded the cherries",
        ),
    ),
    "well": (
        "by",
        (
            "a chain creaked on its pulley",
            "cool drops fell into the deep",
            "neighbours gathered for gossip",
            "ferns sprouted between the bricks",
        ),
    ),
    "beach": (
        "on",
        (
            "crabs hurried over the sand",
            "wet pebbles glittered along the shore",
            "a broken mast stuck out of the dunes",
            "seaweed curled around the driftwood",
        ),
    ),
    "station": (
        "at",
        (
            "steam rose above the rails",
            "a porter pushed a trolley of trunks",
            "the signal dropped with a clank",
            "passengers waited beneath the timetable",
        ),
    ),
    "cave": (
        "in",
        (
            "every footstep echoed in the darkness",
            "bats clung to the roof",
            "crystals winked in the gloom",
            "strange paintings covered the rock",
        ),
    ),
    "chapel": (
        "in",
        (
            "coloured glass threw patterns on the aisle",
            "a choir practised behind the altar",
            "an organ droned softly",
            "ivy climbed over the porch",
        ),
    ),
    "square": (
        "on",
        (
            "the fountain sprayed silver drops",
            "old men argued over chess",
            "banners fluttered from the town hall",
            "children skipped round the monument",
        ),
    ),
}

JOBS: dict[str, tuple[str, tuple[str, ...]]] = {
    "baker": ("bakery", ("kneaded a mountain of dough", "dusted the trays with flour", "lit the great oven")),
    "miller": ("mill", ("weighed the wheat", "oiled the heavy axle", "filled forty sacks")),
    "fisher": ("harbour", ("mended a torn sail", "cleaned a barrel of cod", "scrubbed the deck")),
    "sailor": ("lighthouse", ("practised difficult knots", "studied the horizon", "painted a little dinghy")),
    "farmer": ("barn", ("milked the brown cow", "fed the noisy chickens", "pitched hay into the loft")),
    "gardener": ("garden", ("watered the beans", "pruned the rose bushes", "planted a row of leeks")),
    "teacher": (
        "school",
        ("corrected a heap of essays", "wiped the blackboard", "taught a lesson about volcanoes"),
    ),
    "smith": (
        "forge",
        ("hammered a glowing bar", "bent an iron gate into shape", "sharpened a dozen knives"),
    ),
    "carpenter": ("workshop", ("planed a long board", "carved a table leg", "measured an oak beam twice")),
    "weaver": ("market", ("dyed a bundle of wool", "untangled some yarn", "folded the linen")),
    "potter": ("workshop", ("shaped a lump of clay", "glazed eleven tiles", "emptied the kiln")),
    "shepherd": ("hill", ("counted the flock", "rescued a stray lamb", "sheared an old ram")),
    "librarian": (
        "library",
        ("dusted the encyclopedias", "catalogued some poems", "stamped a pile of novels"),
    ),
    "fiddler": ("inn", ("tuned the strings", "composed a merry jig", "rehearsed a waltz")),
    "cook": ("inn", ("peeled a hill of potatoes", "stirred the gravy", "chopped onions and parsley")),
    "beekeeper": ("meadow", ("inspected the hives", "strained golden honey", "calmed the bees with smoke")),
    "clockmaker": ("tower", ("wound the giant spring", "polished every gear", "adjusted the pendulum")),
    "woodcutter": (
        "forest",
        ("split a stack of logs", "felled a dead birch", "dragged branches into a pile"),
    ),
    "grocer": ("market", ("arranged the turnips", "priced the cabbages", "sold a crate of lemons")),
    "boatbuilder": ("river", ("caulked a leaky hull", "tarred an old raft", "launched a small canoe")),
    "porter": ("station", ("carried seven suitcases", "swept the platform", "waved off the early train")),
    "painter": ("beach", ("mixed purple and green", "sketched a passing ship", "rinsed the bristles")),
    "stonemason": (
        "bridge",
        ("chipped at a block of granite", "mixed a tub of mortar", "levelled the paving"),
    ),
    "singer": ("chapel", ("warmed up with some scales", "memorised a hymn", "hummed an ancient ballad")),
}

# weather -> sentences that may follow later in the same story
WEATHER: dict[str, tuple[str, ...]] = {
    "sunny": ("the sun warmed the rooftops", "not a cloud could be seen"),
    "rainy": ("rain drummed on the tiles", "puddles covered the lane"),
    "windy": ("gusts tugged at every shutter", "dry leaves whirled through the air"),
    "foggy": ("a thick mist hid the chimneys", "even the nearest houses looked like ghosts"),
    "snowy": ("soft flakes settled on the ground", "icicles sparkled along the gutters"),
    "cloudy": ("low clouds rolled over the village", "the sky stayed as dull as lead"),
    "stormy": ("thunder growled in the distance", "lightning split the sky"),
    "frosty": ("frost glazed the windowpanes", "everybody's breath turned to vapour"),
}
TIMES = ("morning", "afternoon", "evening", "Monday", "Saturday", "spring day", "autumn day")
