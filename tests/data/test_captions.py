from collections import Counter

import pytest

from animal_ldm.data.captions import caption, may_be_plural, plural, with_article


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zebra", "a zebra"),
        ("elephant", "an elephant"),
        ("ox", "an ox"),
        ("owl", "an owl"),
        ("umbrellabird", "an umbrellabird"),
        ("unicorn", "a unicorn"),
        ("ewe", "a ewe"),
        ("eurasian lynx", "a eurasian lynx"),
        ("x-ray tetra", "an x-ray tetra"),
        ("hippopotamus", "a hippopotamus"),
        ("", ""),
    ],
)
def test_articles_go_with_the_sound(name, expected):
    assert with_article(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lion", "lions"),
        ("polar bear", "polar bears"),
        ("wolf", "wolves"),
        ("giraffe", "giraffes"),
        ("fox", "foxes"),
        ("ostrich", "ostriches"),
        ("walrus", "walruses"),
        ("pony", "ponies"),
        ("butterfly", "butterflies"),
        ("monkey", "monkeys"),
        ("sheep", "sheep"),
        ("reindeer", "reindeer"),
        ("jellyfish", "jellyfish"),
        ("bison", "bison"),
        ("mouse", "mice"),
        ("goose", "geese"),
        ("mongoose", "mongooses"),
        ("ox", "oxen"),
        ("kangaroo", "kangaroos"),
        ("caiman", "caimans"),
    ],
)
def test_plurals(name, expected):
    assert plural(name) == expected


def captions(count: int) -> Counter:
    return Counter(caption("wolf", count, seed=1, photo=f"photo {index}") for index in range(2000))


def test_more_than_half_of_the_captions_are_what_people_type_first():
    drawn = captions(count=1)
    typed = ["a wolf", "wolf", "a photo of a wolf"]
    assert all(drawn[text] > 200 for text in typed)
    assert sum(drawn[text] for text in typed) > 1000
    assert drawn == captions(count=0)


def test_captions_count_only_what_the_label_counts():
    assert not any("wolves" in text or "one" in text.split() for text in captions(count=0))
    assert all("two wolves" in text or text == "wolves" for text in captions(count=2))
    assert all("three wolves" in text or text == "wolves" for text in captions(count=3))
    assert captions(count=4).keys() == {
        "wolves",
        "several wolves",
        "a photo of wolves",
        "a photo of several wolves",
    }


def test_a_caption_depends_on_seed_and_photo_alone():
    first = [caption("lion", 1, 5, str(photo)) for photo in range(50)]
    assert first == [caption("lion", 1, 5, str(photo)) for photo in range(50)]
    assert first != [caption("lion", 1, 6, str(photo)) for photo in range(50)]


def test_only_what_looks_like_a_plural_is_asked_about():
    assert all(may_be_plural(name) for name in ("cats", "polar bears", "foxes", "wolves", "ponies"))
    singular = ("cat", "glass", "octopus", "hippopotamus", "walrus", "mantis", "albatross", "rhinoceros", "sheep")
    assert not any(may_be_plural(name) for name in singular)
