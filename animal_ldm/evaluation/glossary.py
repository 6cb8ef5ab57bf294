"""What each metric means, for readers of the report who have not met it before."""

from dataclasses import dataclass

from .results import Metric


@dataclass(frozen=True)
class Entry:
    """A metric in words, and the paper it comes from."""

    group: str
    text: str
    source: str = ""
    url: str = ""


DISTANCE, NEIGHBOURS, PROMPT, COPIES = (
    "Distance between samples and photos",
    "Quality and variety",
    "Faithfulness to the prompt",
    "Copies of training photos",
)
OTHER = "Other"
HEUSEL = ("Heusel et al. 2017", "https://arxiv.org/abs/1706.08500")
KYNKAANNIEMI = ("Kynkäänniemi et al. 2019", "https://arxiv.org/abs/1904.06991")
NAEEM = ("Naeem et al. 2020", "https://arxiv.org/abs/2002.09797")
RATIO = "The score of the samples divided by the score of as many real photos: 1 means on a par with real photos."

ENTRIES = {
    "frechet_distance": Entry(
        DISTANCE,
        "A network turns every image into a list of numbers, its features. The Fréchet distance compares their mean"
        " and covariance between samples and photos; 0 means no difference. It shrinks as the number of samples "
        "grows, so compare it only at equal N and with the same network. With Inception's features it is the FID.",
        *HEUSEL,
    ),
    "frechet_distance_ratio": Entry(DISTANCE, RATIO, *HEUSEL),
    "frechet_distance_infinity": Entry(
        DISTANCE,
        "The Fréchet distance that infinitely many samples would score, from a curve fitted over several numbers of"
        " samples. It removes the bias of a small N.",
        "Chong and Forsyth 2020",
        "https://arxiv.org/abs/1911.07023",
    ),
    "kernel_distance": Entry(
        DISTANCE,
        "Compares the whole distribution of features, not only mean and covariance, and does not depend on the "
        "number of samples on average. 0 means no difference; by chance it can fall slightly below. With "
        "Inception's features it is the KID.",
        "Bińkowski et al. 2018",
        "https://arxiv.org/abs/1801.01401",
    ),
    "sliced_wasserstein": Entry(
        DISTANCE,
        "Projects the features onto many random directions, and compares samples and photos along each by how far "
        "one must be moved to become the other. Compare it at equal N only. With Inception's features it is the "
        "MIND.",
        "arXiv 2605.06797",
        "https://arxiv.org/abs/2605.06797",
    ),
    "cmmd": Entry(
        DISTANCE,
        "Compares the distributions of CLIP's features with a Gaussian kernel. 0 means no difference.",
        "Jayasumana et al. 2024",
        "https://arxiv.org/abs/2401.09603",
    ),
    "precision": Entry(
        NEIGHBOURS,
        "The share of samples that lie within the neighbourhood of a real photo: do samples look like photos? A "
        "neighbourhood reaches to the k-th nearest photo, so a larger k gives higher scores.",
        *KYNKAANNIEMI,
    ),
    "recall": Entry(
        NEIGHBOURS,
        "The share of real photos that lie within the neighbourhood of a sample: do samples show all that photos "
        "show? A model that repeats a few good images has high precision and low recall.",
        *KYNKAANNIEMI,
    ),
    "precision_ratio": Entry(NEIGHBOURS, RATIO, *KYNKAANNIEMI),
    "recall_ratio": Entry(NEIGHBOURS, RATIO, *KYNKAANNIEMI),
    "density": Entry(
        NEIGHBOURS,
        "In how many photos' neighbourhoods a sample lies, relative to what is expected. Unlike precision, a few "
        "outlying photos cannot raise it much. Above 1 means that samples crowd where photos are densest.",
        *NAEEM,
    ),
    "coverage": Entry(
        NEIGHBOURS,
        "The share of real photos that have a sample in their neighbourhood. Unlike recall, it does not reward "
        "samples far from any photo.",
        *NAEEM,
    ),
    "vendi_score": Entry(
        NEIGHBOURS,
        "How many distinct images the samples amount to, judged by the similarity of their features. It grows with "
        "the number of samples, and noise scores high.",
        "Friedman and Dieng 2023",
        "https://arxiv.org/abs/2210.02410",
    ),
    "prompt_accuracy": Entry(
        PROMPT,
        "A simple classifier learns the classes from training photos, then names the class of every sample. This is"
        " the share for which it names the class in the prompt; the ceiling is its share on photos it has not seen.",
    ),
    "clip_score": Entry(
        PROMPT,
        "100 times the cosine between CLIP's embeddings of an image and of its prompt, on average. The score of real "
        "photos and their captions is about as high as a model can get.",
        "Hessel et al. 2021",
        "https://arxiv.org/abs/2104.08718",
    ),
    "colour_accuracy": Entry(
        PROMPT,
        "Of the samples whose prompt asks for a colour of the animal, the share that show it. Simple rules read the "
        "colour from the pixels; images of which they say nothing do not count.",
    ),
    "background_accuracy": Entry(
        PROMPT,
        "Of the samples whose prompt asks for a background, the share that show it. Simple rules read it from the "
        "pixels; images of which they say nothing do not count.",
    ),
    "nearer_than_held_out": Entry(
        COPIES,
        "The probability that a sample is nearer to its nearest training photo than an unseen photo is to its own. "
        "Clearly above 0.5 suggests copies.",
    ),
    "median_distance": Entry(
        COPIES,
        "The median distance of samples to the nearest training photo, over that of unseen photos. Clearly below 1 "
        "suggests copies.",
    ),
    "nearer_than_closest_percent": Entry(
        COPIES,
        "The share of samples nearer to a training photo than all but the nearest hundredth of unseen photos. "
        "Clearly above 0.01 suggests copies.",
    ),
    "authpct": Entry(
        COPIES,
        "The percentage of samples that are farther from their nearest training photo than that photo is from its "
        "own nearest. Low values suggest copies.",
        "Alaa et al. 2022",
        "https://arxiv.org/abs/2102.08921",
    ),
}

NEARNESS = {
    "lower": "Lower is better.",
    "higher": "Higher is better.",
    "near real photos": "Near the score of real photos is better.",
}


def entry(metric: Metric) -> Entry:
    """What there is to say about a metric; one that is not in the glossary is explained by its note."""
    return ENTRIES.get(metric.name, Entry(OTHER, ""))


def explanation(metric: Metric) -> list[str]:
    """Everything a reader should know of a figure, as paragraphs."""
    neighbours = f", k = {metric.k}" if metric.k else ""
    spread = f" Mean ± standard deviation over {metric.repeats} sample sets." if metric.repeats > 1 else ""
    measured = (
        f"Measured on {metric.n_generated:,} samples and {metric.n_real:,} photos with features of"
        f" {metric.extractor.name}{neighbours}, seed {metric.seed}.{spread}"
    )
    note = metric.note and metric.note[0].upper() + metric.note[1:] + "."
    return [text for text in (entry(metric).text, NEARNESS[metric.better], note, measured) if text]
