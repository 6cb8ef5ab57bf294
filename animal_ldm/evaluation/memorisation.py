"""Are samples copies of training photos? Distances to the nearest training photo, beside those of held-out photos."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from accelerate import PartialState

from .metrics import as_features
from .neighbours import nearest_in_parts


@dataclass(frozen=True)
class Memorisation:
    """Samples as far from training photos as held-out photos are score 0.5, 1 and 0.01; copies more, less and more."""

    nearer_than_held_out: float  # probability that a sample is nearer to training photos than a held-out photo is
    median_distance: float  # of samples to the nearest training photo, over that of held-out photos
    nearer_than_closest_percent: float  # samples nearer than all but the closest hundredth of the held-out photos
    authpct: float  # percent of authentic samples (Alaa et al. 2022, arXiv 2102.08921), as in dgm-eval
    held_out_authpct: float  # the same of held-out photos
    n_generated: int
    n_train: int
    n_held_out: int
    standard_errors: Mapping[str, float] = field(default_factory=dict)  # {field: over the choice of samples}


def memorisation(
    train: torch.Tensor,
    held_out: torch.Tensor,
    fake: torch.Tensor,
    train_gap: torch.Tensor | None = None,
    state: PartialState | None = None,
) -> Memorisation:
    """Compare the samples' distances to the nearest training photo with the held-out photos'.

    Args:
        train: (N, D) features of the training photos, which may be mapped into memory.
        held_out: (H, D) features of photos kept out of training.
        fake: (M, D) features of samples.
        train_gap: (N,) every training photo's distance to the nearest other one, if known already.
        state: as in `neighbours.nearest`.
    """
    train, held_out, fake = as_features(train), as_features(held_out), as_features(fake)
    (fake_distance, fake_index), (held_distance, held_index) = (
        (distances[:, 0], index[:, 0])
        for distances, index in (nearest_in_parts(features, train, [1], state) for features in (fake, held_out))
    )
    if train_gap is None:  # only where it is asked for; the nearest of all photos to one of them is itself
        asked, place = torch.cat((fake_index, held_index)).unique(return_inverse=True)
        gaps = nearest_in_parts(train[asked.to(train.device)].to(fake.device), train, [2], state)[0][:, 0][place]
    else:
        gaps = train_gap[torch.cat((fake_index, held_index))]
    fake_gap, held_gap = gaps.split((len(fake), len(held_out)))
    # Mann-Whitney: pairs in which the sample is nearer, ties counted as a half.
    ordered = held_distance.sort().values
    farther = len(ordered) - torch.searchsorted(ordered, fake_distance, right=True)
    equal = torch.searchsorted(ordered, fake_distance, right=True) - torch.searchsorted(ordered, fake_distance)
    # A mean's standard deviation; a median's is half the distance between the quantiles 1 / sqrt(M) apart around it.
    half = 0.5 / len(fake) ** 0.5
    around = fake_distance.quantile(torch.tensor([0.5 - half, 0.5 + half], dtype=fake_distance.dtype))
    spreads = {
        "nearer_than_held_out": ((farther + equal / 2).double() / len(ordered)).std(correction=0),
        "median_distance": around.diff().squeeze() / 2 * len(fake) ** 0.5 / held_distance.quantile(0.5),
        "nearer_than_closest_percent": (fake_distance < held_distance.quantile(0.01)).double().std(correction=0),
        "authpct": 100 * (fake_gap < fake_distance).double().std(correction=0),
    }
    return Memorisation(
        nearer_than_held_out=float((farther + equal / 2).double().mean() / len(ordered)),
        median_distance=float(fake_distance.quantile(0.5) / held_distance.quantile(0.5)),
        nearer_than_closest_percent=float((fake_distance < held_distance.quantile(0.01)).double().mean()),
        authpct=100 * float((fake_gap < fake_distance).double().mean()),
        held_out_authpct=100 * float((held_gap < held_distance).double().mean()),
        n_generated=len(fake),
        n_train=len(train),
        n_held_out=len(held_out),
        standard_errors={name: float(std) / len(fake) ** 0.5 for name, std in spreads.items() if std.isfinite()},
    )
