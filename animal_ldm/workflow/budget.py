"""What the stages of a run may take: pure functions of the time that is left and of what was measured."""

from dataclasses import dataclass

# The card: the model is tried in a fresh process, which imports what this one has imported and loads the model in
# three ways. With the rest this takes about so many times what the imports took here, beside the images.
CARD_IMPORTS = 1.5
CARD_IMAGES = 3 + 4  # by the fresh process, and of captions that say more than the class; and one of each class

# Of the time for the evaluation: what the photos may take, and the validation photos of that, which are reconstructed.
SHARE_OF_PHOTOS, SHARE_OF_VALIDATION = 0.35, 0.5
# Everything but the samples and their features takes longer with more of them than it took in the trial: 1.9 times
# with 568 samples instead of 12.
GROWTH = 2.0


def allotment(left: float, spent: float, shares: list[float], reserve: float) -> float:
    """Seconds for the first of the stages to come.

    Args:
        left: seconds of the whole budget.
        spent: on this stage by earlier starts; the share is of the time that was there before.
        shares: of the stages to come, the first one first.
        reserve: seconds that stages without a share need.
    """
    return max(0.0, (left + spent - reserve) * shares[0] / sum(shares) - spent)


def card_reserve(imports: float, image_seconds: float, classes: int) -> float:
    """Seconds that the card needs.

    Args:
        imports: seconds that this process would take now to its first stage.
        image_seconds: for one image of a model such as this.
    """
    return CARD_IMPORTS * imports + image_seconds * (classes + CARD_IMAGES)


@dataclass(frozen=True)
class Measured:
    """Seconds for one image, measured on this machine.

    Attributes:
        sample: to generate one.
        photo: to compute its features.
        reconstruction: to encode and decode it.
    """

    sample: float
    photo: float
    reconstruction: float


def photos_to_measure(seconds: float, cost: Measured, least: int, train: int, validation: int) -> tuple[int, int]:
    """How many of the training and validation photos the evaluation can afford: `least` of each at least.

    Args:
        seconds: for the whole evaluation.
        train, validation: the photos that there are.
    """
    seconds *= SHARE_OF_PHOTOS
    each = 2 * cost.photo + cost.reconstruction  # a reconstruction is measured as well
    held_out = min(validation, max(least, int(seconds * SHARE_OF_VALIDATION / each)))
    return min(train, max(least, int((seconds - held_out * each) / cost.photo))), held_out


def samples_to_generate(seconds: float, cost: Measured, rest: float, least: int, most: int) -> int:
    """How many samples fit: `least` if no more do.

    Args:
        seconds: left for the evaluation.
        rest: seconds that a trial with `least` samples, all in its cache, has taken.
    """
    return min(most, max(least, least + int((seconds - GROWTH * rest) / (cost.sample + cost.photo))))
