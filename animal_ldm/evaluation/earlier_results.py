"""Content of earlier versions of `results.json` as that of today's."""

from collections.abc import Iterator
from typing import Any

STRAIGHT_LINE = (
    "not measured: an earlier version fitted a straight line over 1/N even below the features' dimension, where "
    "the distance is not linear; evaluate again"
)
NO_STANDARD_ERROR = "no standard error: measured by an earlier version, whose spread over overlapping subsets is none"
# {metric: its note in version 1, where it is worded differently today}
NOTES = {
    "precision": "above real photos: the large balls of outlying photos also cover samples that resemble no photo; "
    "read recall and density",
    "faithfulness": "share of samples that a linear probe, fitted to training photos, assigns to the class of the "
    "prompt",
}


def from_version_1(content: dict) -> dict:
    """Version 1 had other names for the probe's accuracy, and an extrapolation that does not hold."""
    curve = {key: content["fd_curve"][key] for key in ("sizes", "distances")}
    photos = {key: content["fd_curve"]["real_photos"][key] for key in ("sizes", "distances")}
    unknown = {"value": None, "slope": None, "note": STRAIGHT_LINE}
    autoencoder = content["autoencoder"]
    return content | {
        "metrics": list(metrics_from_version_1(content["metrics"])),
        "fd_curves": {"samples": curve | unknown, "real_photos": photos | unknown},
        "per_class": content["per_class"]
        and [
            {
                "label": found["label"],
                "n_generated": found["n_generated"],
                "accuracy": found["recognised"],
                "accuracy_held_out": found["recognised_held_out"],
                "mistaken_for": found["mistaken_for"],
            }
            for found in content["per_class"]
        ],
        "sweep": content["sweep"]
        and {
            "parameter": content["sweep"]["parameter"],
            "points": [
                {"value": point["value"], "metrics": list(metrics_from_version_1(point["metrics"]))}
                for point in content["sweep"]["points"]
            ],
        },
        "autoencoder": autoencoder
        and autoencoder
        | {
            "lpips": autoencoder.get("lpips"),
            "probe_accuracy": autoencoder["recognised"],
            "probe_accuracy_photos": autoencoder["recognised_photos"],
        },
        "versions": content["environment"],
    }


def metrics_from_version_1(metrics: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for metric in metrics:
        metric = {**metric, "note": metric["note"] and NOTES.get(metric["name"], metric["note"])}
        if metric["name"] == "faithfulness":
            metric |= {"name": "prompt_accuracy", "label": "prompt accuracy"}
        if metric["name"] == "frechet_distance_infinity":
            photos, same_n = metric["real_photos"], metric["same_n"]
            metric |= {"value": None, "std": None, "note": STRAIGHT_LINE}
            metric |= {"real_photos": photos | {"value": None}, "same_n": same_n | {"value": None, "std": None}}
        if metric["name"] == "kernel_distance":
            metric |= {"note": NO_STANDARD_ERROR}
        yield metric
