"""A part of speech and an entity tag for every word of a document.

The tags are those of Universal Dependencies (DET NOUN PROPN PRON ADJ ADV VERB AUX ADP CONJ NUM PART INTJ
PUNCT, with CONJ for all conjunctions). Words in slots are tagged by their slot ("saw" is a NOUN when it is
a thing); the others have one class in this world, which the tables below give, with a rule for "like" and
"to". Entity tags are BIO over mentions by name.

Reference: https://universaldependencies.org/u/pos/
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .document import Document

TAGS = (
    "DET",
    "NOUN",
    "PROPN",
    "PRON",
    "ADJ",
    "ADV",
    "VERB",
    "AUX",
    "ADP",
    "CONJ",
    "NUM",
    "PART",
    "INTJ",
    "PUNCT",
)
TOKEN = re.compile(r"[A-Za-z]+|'s(?![a-z])|[^\sA-Za-z]")

_CLASSES = {
    "DET": """
        a all an another any both every no other some the this whose
    """,
    "PRON": """
        anyone everybody everyone everything he her hers herself him himself his i it its itself me mine
        my nobody nothing our she somebody someone something that their them they us we what which who
        whom you your
    """,
    "AUX": """
        am are be been can could did do does had has have is let may shall should was were will would
    """,
    "ADP": """
        about above across after against along among around at before behind below beneath beside between
        beyond by for from in inside into like near of off on over than through to under until upon with
        without
    """,
    "CONJ": """
        and as because but if or so though when where whether while
    """,
    "ADV": """
        afterwards again ago ahead almost alone already always apart away back badly better down else
        enough even ever exactly far faster forth gently gladly here home how instead just later loudly
        meanwhile nearby never not now nowhere once only out outside proudly slowly softly soon still
        straight suddenly then there today together too twice up upside very well wide yet
    """,
    "INTJ": """
        hello please yes
    """,
    "NUM": """
        eight eleven fifteen five forty four hundred nine one seven six ten thirteen three twelve twenty
        two
    """,
    "PART": """
        's
    """,
    "ADJ": """
        ancient angry ashamed bad baked best big birch black blue born brass bright broken brown bushy
        busy buttered carved closed cobbled cold coloured cool copper crooked dead dear deep difficult
        distant dry dull dusty early easier empty engraved faint fair fallen family famous favourite fine
        first fishing forgotten fresh fried full giant glowing golden good great greatest green grey
        grown half happy hard heavy hidden hiding high hollow hot hungry ill iron large last late leaky
        little lively lonely long loose lost loud low many mashed merry missing more much muddy narrow
        nearest new noisy oak old older open own perfect pickled pine pink polished poor purple quiet
        ready red right ripe roast round royal sad same secret sharp shiny short silver small smoked
        smooth soft sorry spare special spiral steep stone strange stray such tall thick tiny tired torn
        unfinished usual violet warm wet white whole wider wobbly wrong yellow younger
    """,
    "VERB": """
        adjusted admired amused answered argued arranged arrived asked ate barked beat bent bet bleated
        blew blinked boiled boomed borrow bounced bouncing bowed brayed break brewed bring brings broke
        brought built burned buttoned buy buys buzzed call called calmed came care carried carries carry
        cast catalogued caulked cawed chased chattered chewed chimed chipped chirped chopped circled
        clapped clattered cleaned clicked climbed clinked clucked clung come composed cooed cook cooked
        cooks cooled corrected costs coughed counted covered cracked crackled creaked cried croaked
        crossed curled cut dance danced dangled darted dotted dragged drank dreamed dried drifted droned
        dropped drove drummed dug dusted dyed eat echoed emptied escaped expect failed fed feel fell
        felled felt filled finished flapped flashed flew flicked flipped floated fluttered folded follow
        followed forgive forgot formed found frightened gathered gave get gets give glazed glistened
        glittered glowed gone got grabbed grazed grew groaned growled grunted guarded gurgled hammered
        handed hauled heard heaved held help helped hid hides hissed hold honked hooted hopped hovered
        hummed hung hurried inspected invited jingled jump jumped keep kept kicked kneaded knew knocked
        know laughed launched lay leaned learn learns leave left lent levelled licked liked likes
        listened lit littered live lived look looked loses loved lumbered made makes marched marked
        measured meet meets melted memorised mend mended met milked mixed move moved murmured need needs
        neighed nibbled nodded noticed offer oiled opened owned packed paddled paid painted part passed
        passing patched pedalled peeked peeled peeped picked pinned pitched placed planed planted played
        polished poured practised praised priced pricked printed pruned puffed pulled purred pushed put
        quacked quarrelled raced ran rang rattled reached read refused rehearsed repaired rescued rested
        rinsed rocked rolled rowed ruffled rumbled runs rusted rustled said sang sat saw scraped
        scratched scrubbed searched see seemed seen sell set settled sew shaped share sharpened sheared
        shimmered shone shook shouted showed sighed simmered sketched skipped sleep slept slid slipped
        slunk smelled smiled snapped snatched sniffed snored snuffled sold solved sounded sparkled
        splashed split sprayed spread sprouted squawked squeaked stacked stamped stayed stepped stirred
        stitched stole stood stop stopped strained stretched stuck studied stumbled swap swayed swept
        swished swung take takes tapped tarred taught teach tell thank thanked think thought threw throw
        tickled tied tightened tipped tiptoed told took toss tossed touched traced trailed trembled tried
        tripped trotted try tugged tuned turned twinkled twisted twitched untangled waddled wagged waited
        wake walked wallowed want wanted wants warmed watch watched watching watered watering waved waxed
        weep weighed went whinnied whirled whispered winked wiped wished wobbled woke won wore worked
        wound woven wrapped written wrote yelped
    """,
}
CLASS = {word: tag for tag, words in _CLASSES.items() for word in words.split()}
_VAR = {"glad": "ADJ", "sad": "ADJ", "praise": "ADJ", "go": "VERB", "way": "ADV", "num": "NUM", "less": "NUM",
        "nth": "ADJ", "weather": "ADJ"}  # fmt: skip
_FORM = {"n": "PROPN", "g": "PROPN", "friend": "PROPN", "s": "PRON", "o": "PRON", "p": "PRON", "self": "PRON",
         "voice": "VERB"}  # fmt: skip
_NOUNS = {"job", "ajob", "thejob", "fjob", "home", "work", "workat", "kind", "K", "the", "part"}
WEEKDAYS = {"monday", "saturday"}


def word_class(word: str, before: str, after: str) -> str:
    """The class of a word outside slots, from the word, the one before and the one after (lower case)."""
    if not word[0].isalpha() and word != "'s":
        return "PUNCT"
    if word in ("that", "this"):
        if before in ("wished", "knew"):
            return "CONJ"
        return "DET" if after == "night" else "PRON"
    if word == "while" and before == "a" or word == "home" and before == "and":
        return "NOUN"
    if word == "lost" and before not in ("the", "was"):
        return "VERB"
    if word == "best" and not after[:1].isalpha():
        return "ADV"
    if word == "like" and (before in ("not", "would", "else") or after in (".", "?", "best")):
        return "VERB"
    if word == "to" and CLASS.get(after) == "VERB" and after not in ("work", "part"):
        return "PART"
    if word in ("swap", "part", "cook", "offer", "rest", "share", "call", "swing") and before in (
        "a",
        "the",
        "its",
    ):
        return "NOUN"
    return CLASS.get(word, "NOUN")


def _slot_class(var: str, form: str, word: str, last: bool) -> str | None:
    """The class of a word in a slot, or None where the table decides."""
    form = form.lstrip("^")
    if var in _VAR:
        return CLASS.get(word) if word in ("a", "an") else _VAR[var]
    if var == "time":
        return "PROPN" if word in WEEKDAYS else "NOUN"
    if len(var) > 1:
        return None
    if word in ("a", "an", "the", "it", "in", "at", "on", "by", "to"):
        return CLASS[word] if word != "to" else "ADP"
    if var in "tu":
        return None if form in ("use", "detail") else "NOUN" if last else "ADJ"
    if form in ("food", "F"):
        return "ADJ" if CLASS.get(word) == "ADJ" and not last else "NOUN"
    if var in "pqr" or form in _NOUNS:
        return "NOUN"
    if form in ("ref", "full"):
        return "PRON" if word in ("she", "he") else "PROPN"
    return _FORM.get(form)


def tags(doc: Document) -> tuple[tuple[str, int, int, str, str], ...]:
    """(word, start, end, part of speech, BIO tag) for each word and mark."""
    text = doc.text
    words = [(m.group(), m.start(), m.end()) for m in TOKEN.finditer(text)]
    slots: list[tuple[int, int, str, str]] = []
    for step, span in zip(doc.steps, doc.spans, strict=True):
        at = span.start
        for (literal, var, form), surface in zip(step.template.ops, step.parts[1::2], strict=True):
            at += len(literal)
            slots.append((at, at + len(surface), var, form))
            at += len(surface)
    entities = [m for m in doc.entities if not m.pronoun]
    out, s, e = [], 0, 0
    for i, (word, start, end) in enumerate(words):
        while s < len(slots) and slots[s][1] <= start:
            s += 1
        lower = word.lower()
        tag = None
        if s < len(slots) and slots[s][0] <= start and word[0].isalpha():
            tag = _slot_class(slots[s][2], slots[s][3], lower, end == slots[s][1])
        if tag is None:
            before = words[i - 1][0].lower() if i else ""
            after = words[i + 1][0].lower() if i + 1 < len(words) else ""
            tag = word_class(lower, before, after)
        while e < len(entities) and entities[e].end <= start:
            e += 1
        bio = "O"
        if e < len(entities) and entities[e].start <= start:
            bio = ("B-" if entities[e].start == start else "I-") + entities[e].type
        out.append((word, start, end, tag, bio))
    return tuple(out)
