"""Captions for photos that have none: templates over the class name, and descriptions of measured attributes.

A photo's caption is a pure function of (seed, photo), so neither order nor number of workers changes it. More than
half of the captions are the three phrases that people type first: "a zebra", "zebra" and "a photo of a zebra".

Articles and plurals are our own: the package `inflect` takes seconds to import and says "bisons" and "caribous".
"""

import hashlib
import re

from .attributes import ANIMAL_COLOURS, BLACK_AND_WHITE, COLOURS, Attributes
from .records import NO_CAPTION, OWN, TEMPLATE, MetadataLine

# (template, weight): every phrase is true of any photo of the class, whatever the animal does in it.
ONE = (
    ("{a_name}", 4),
    ("{name}", 3),
    ("a photo of {a_name}", 4),
    ("a picture of {a_name}", 1),
    ("a photograph of {a_name}", 1),
    ("an image of {a_name}", 1),
    ("this is {a_name}", 1),
)
# If the label counts two or three animals.
COUNTED = (
    ("{number} {names}", 4),
    ("a photo of {number} {names}", 3),
    ("a picture of {number} {names}", 1),
    ("{names}", 1),
)
# If it counts more than people count at a glance.
MANY = (
    ("{names}", 3),
    ("several {names}", 2),
    ("a photo of {names}", 2),
    ("a photo of several {names}", 1),
)
# Of earlier versions, whose folders hold them.
RETIRED = (("a photo of one {name}", 0),)
NUMBERS = {2: "two", 3: "three"}
# Around a description, such as "white horse on a green background".
DESCRIBED = (("{described}", 5), ("a photo of {described}", 2))

# "an" depends on the sound, not the letter: these begin with a vowel but sound like a consonant, or the reverse.
CONSONANT_SOUNDS = ("eu", "ewe", "one", "uakari", "ugand", "uni", "ural", "usu")
VOWEL_SOUNDS = ("heir", "honest", "hour", "x-ray")

# Plurals that no rule gives, of the last word; a key that begins with "-" is an ending ("dormouse", "werewolf").
IRREGULAR_PLURALS = {
    "bison": "bison",
    "buffalo": "buffaloes",
    "caiman": "caimans",
    "caribou": "caribou",
    "cattle": "cattle",
    "child": "children",
    "elk": "elk",
    "grouse": "grouse",
    "human": "humans",
    "larva": "larvae",
    "mongoose": "mongooses",
    "moose": "moose",
    "mosquito": "mosquitoes",
    "ox": "oxen",
    "person": "people",
    "plankton": "plankton",
    "salmon": "salmon",
    "shrimp": "shrimp",
    "squid": "squid",
    "swine": "swine",
    "trout": "trout",
    "-calf": "calves",
    "-deer": "deer",
    "-fish": "fish",
    "-goose": "geese",
    "-louse": "lice",
    "-man": "men",
    "-mouse": "mice",
    "-sheep": "sheep",
    "-wolf": "wolves",
}


def with_article(name: str) -> str:
    """The name with "a" or "an": "a zebra", "an elephant", "a unicorn"; empty for no name."""
    if not name:
        return ""
    vowel = name.startswith(tuple("aeiou")) and not name.startswith(CONSONANT_SOUNDS)
    return f"an {name}" if vowel or name.startswith(VOWEL_SOUNDS) else f"a {name}"


def plural(name: str) -> str:
    """The plural of a lower-case class name, formed on its last word: "polar bear" -> "polar bears"."""
    words, _, last = name.rpartition(" ")
    return f"{words} {plural_word(last)}" if words else plural_word(last)


def plural_word(word: str) -> str:
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    for ending, replacement in IRREGULAR_PLURALS.items():
        if ending.startswith("-") and word.endswith(ending[1:]):
            return word.removesuffix(ending[1:]) + replacement
    if word.endswith("y") and not word.endswith(("ay", "ey", "oy", "uy")):
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word + "s"


def may_be_plural(name: str) -> bool:
    """Whether a class name looks like "cats", which templates turn into "a cats". A guess, for people to judge."""
    return name.endswith("s") and not name.endswith(("ss", "us", "is", "ceros"))


def caption(name: str, count: int, seed: int, photo: str) -> str:
    """The caption of one photo.

    Args:
        name: lower-case class name, which may hold spaces.
        count: number of animals in the photo's label; 0 or 1 if there is one, or nobody counted.
        seed: any integer; another seed gives other captions.
        photo: identifies the photo (its digest).
    """
    templates = ONE if count < 2 else COUNTED if count in NUMBERS else MANY
    phrases = [template for template, weight in templates for _ in range(weight)]
    draw = int.from_bytes(hashlib.sha256(f"caption {seed} {photo}".encode()).digest()[:8])
    return fill(phrases[draw % len(phrases)], name, count)


def fill(template: str, name: str, count: int) -> str:
    return template.format(name=name, a_name=with_article(name), names=plural(name), number=NUMBERS.get(count))


def is_template(text: str, name: str) -> bool:
    """Whether a template gives this text for the class `name`, with any number of animals."""
    return bool(name) and any(
        text == fill(template, name, count)
        for templates, counts in ((ONE + RETIRED, (1,)), (COUNTED, NUMBERS), (MANY, (0,)))
        for template, _ in templates
        for count in counts
    )


def caption_sources(line: MetadataLine) -> tuple[str, ...]:
    """Where each caption of the line comes from (`MetadataLine.caption_sources`).

    In folders of earlier versions, a caption that a template gives for the class counts as one from a template, and
    every other caption as the user's own.
    """
    if line.caption_sources:
        return line.caption_sources
    return tuple(NO_CAPTION if not text else TEMPLATE if is_template(text, line.label) else OWN for text in line.texts)


def described_captions(name: str, attributes: Attributes, seed: int, photo: str) -> tuple[str, ...]:
    """Captions with measured words beside the class name: "a white horse on a green background", "a lion, close-up".

    Of one word there is one caption; of several, one with all of them and one with a random part. Without any word
    but the number, which the templates say already, there is none. A pure function of its arguments, as `caption`.
    """
    said = [kind for kind in ("colour", "background", "framing") if getattr(attributes, kind)]
    if not said:
        return ()
    draw = int.from_bytes(hashlib.sha256(f"described {seed} {photo}".encode()).digest()[:8])
    subsets = [(1 << len(said)) - 1]  # one bit per word
    if len(said) > 1:
        draw, part = divmod(draw, subsets[0] - 1)
        subsets.append(part + 1)
    phrases = [template for template, weight in DESCRIBED for _ in range(weight)]
    captions = []
    for subset in subsets:
        draw, template = divmod(draw, len(phrases))
        words = {kind for bit, kind in enumerate(said) if subset >> bit & 1}
        captions.append(phrases[template].format(described=describe(name, attributes, words)))
    return tuple(captions)


def describe(name: str, attributes: Attributes, kinds: set[str]) -> str:
    """The class name with the words of some kinds, and with the number where it is known."""
    animal = f"{attributes.colour} {name}" if "colour" in kinds else name
    text = f"{attributes.number} {plural(animal)}" if attributes.number else with_article(animal)
    if "background" in kinds:
        text += f" on {with_article(attributes.background)} background"
    if "framing" in kinds:
        text += f", {attributes.framing}"
    return text


def asked_words(text: str, name: str) -> Attributes:
    """The colour, background and framing that a caption of the class `name` states, as `describe` words them.

    The colour is a word of `attributes.ANIMAL_COLOURS`, or "black and white", right before the class name or its
    plural; one of several colours ("brown and white dog") is none.
    """
    text = re.sub(r"\s+", " ", text.lower().replace("gray", "grey"))
    colours = "|".join((BLACK_AND_WHITE, *ANIMAL_COLOURS))
    names = "|".join(map(re.escape, (name, plural(name))))
    colour = re.search(rf"(?<!and )(?<!or )(?<!, )(?<!-)\b({colours}) (?:{names})\b", text) if name else None
    background = re.search(rf"\bon an? ({'|'.join(COLOURS)}) background\b", text)
    framing = re.search(r", (close-up|from afar)\b", text)
    return Attributes(*(found[1] if found else "" for found in (colour, background, framing)))
