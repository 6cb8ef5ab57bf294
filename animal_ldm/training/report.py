"""What a run cost and what it ran on: time, energy, CO2, hardware, library versions."""

import json
import logging
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

NOT_MEASURED = "not measured"
LIBRARIES = (
    "animal-ldm", "torch", "diffusers", "transformers", "accelerate", "datasets", "safetensors", "codecarbon", "lpips"
)  # fmt: skip


class Meter:
    """Wall time and energy of a run over all its stretches; travels in the checkpoint.

    Energy and CO2 come from codecarbon's offline tracker, which meters the whole machine (not this process alone)
    and estimates a CPU that has no power counters from its rated power.

    Args:
        country_iso_code: three letters, for the carbon intensity of the grid; None leaves energy unmeasured.
    """

    def __init__(self, country_iso_code: str | None):
        self.earlier: list[dict] = []
        self.started = time.perf_counter()
        self.first_image = 0
        self.images_seen = 0
        self.energy_kwh = self.co2_kg = 0.0
        self.tracker = _start_tracker(country_iso_code) if country_iso_code else None

    def _stretch(self) -> dict:
        """The stretch under way, up to now."""
        if self.tracker is not None:
            task = self.tracker.stop_task()
            self.energy_kwh += task.energy_consumed
            self.co2_kg += task.emissions
            self.tracker.start_task()
        return {
            "from_image": self.first_image,
            "to_image": self.images_seen,
            "seconds": time.perf_counter() - self.started,
            "energy_kwh": self.energy_kwh if self.tracker else None,
            "co2_kg": self.co2_kg if self.tracker else None,
        }

    def state_dict(self) -> dict:
        return {"stretches": [*self.earlier, self._stretch()]}

    def load_state_dict(self, state: dict) -> None:
        self.earlier = state["stretches"]
        self.first_image = self.images_seen = self.earlier[-1]["to_image"]

    def report(self) -> dict:
        """Totals over all stretches; a figure that any stretch lacks is "not measured"."""
        stretches = self.state_dict()["stretches"]

        def total(name: str):
            values = [stretch[name] for stretch in stretches]
            return NOT_MEASURED if None in values else sum(values)

        return {
            "wall_time_seconds": total("seconds"),
            "energy_kwh": total("energy_kwh"),
            "co2_kg": total("co2_kg"),
            "co2_source": f"codecarbon {version('codecarbon')}, offline tracker, whole machine",
            "stretches": stretches,
        }


def _start_tracker(country_iso_code: str):
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    tracker = OfflineEmissionsTracker(
        country_iso_code=country_iso_code, save_to_file=False, log_level="error", allow_multiple_runs=True
    )
    tracker.start_task()
    return tracker


def hardware() -> dict:
    """The machine this process runs on."""
    cuda = torch.cuda.is_available()
    return {
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else NOT_MEASURED,
    }


def _cpu_name() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def library_versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


# What a pipeline's report takes over from the report of its autoencoder's run.
AUTOENCODER_FIELDS = (
    "arguments", "images_seen", "wall_time_seconds", "energy_kwh", "co2_kg", "co2_source", "hardware"
)  # fmt: skip


def autoencoder_record(vae: str) -> dict | None:
    """Cost and quality of the run that made an autoencoder; None where no report of it is at hand.

    Args:
        vae: what --vae says: output folder of `animal-ldm train-autoencoder`, its `vae` folder, a pipeline folder
            (whose report has the record already), or anything else.

    Returns:
        `AUTOENCODER_FIELDS` of the run's report, and `validation`, its last figures: "psnr" in dB, "lpips_squeeze"
        (None for a run without LPIPS) and "images", the number of photos they were measured on. Of a run that went on
        from another autoencoder also `pretrained`, that one's record.
    """
    folder = Path(vae).parent if Path(vae).name == "vae" else Path(vae)
    if not (folder / "vae").is_dir() or not (folder / "training_report.json").is_file():
        return None
    report = json.loads((folder / "training_report.json").read_text())
    if (folder / "model_index.json").exists():
        return report.get("autoencoder")
    last = [entry for entry in report["history"] if "validation/psnr" in entry][-1]
    figures = {name: last.get(f"validation/{name}") for name in ("psnr", "lpips_squeeze", "images")}
    record = {**{name: report[name] for name in AUTOENCODER_FIELDS}, "validation": figures}
    return record | ({"pretrained": report["pretrained"]} if report.get("pretrained") else {})
