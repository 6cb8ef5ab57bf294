"""What a run cost: wall-clock time, energy and CO2 emissions; and the record of an autoencoder's own run."""

import json
import logging
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from accelerate.utils import gather_object

from ..errors import InputError
from ..released import is_pipeline_folder, model_folder

NOT_MEASURED = "not measured"
WHOLE_MACHINE = "whole machine"


class Meter:
    """Wall-clock time and energy of a run, over all its stretches. Its state is part of the checkpoint.

    Energy and CO2 come from codecarbon's offline tracker. A run of one process meters that process, so that runs which
    share a machine are not charged twice (see `metered`). A run of several processes meters each of its machines as a
    whole: one process of each has a meter, and `gather` adds them up. Each stretch records when it began and ended:
    two stretches of `WHOLE_MACHINE` that overlap in time have counted the same energy.

    Args:
        country: ISO code with three letters, for the carbon intensity of the grid; None measures no energy.
        processes: of the run.

    Raises:
        InputError: the carbon intensity of the country is not known.
    """

    def __init__(self, country: str | None, processes: int = 1):
        self.earlier: list[dict] = []
        self.started, self.start_counter = now(), time.perf_counter()
        self.first_image = 0
        self.images_seen = 0
        self.energy_kwh = self.co2_kg = 0.0
        self.elsewhere: list[tuple[float, float]] = []  # the same of each other machine, when last gathered
        self.tracker = _start_tracker(country, "process" if processes == 1 else "machine") if country else None
        self.metered = _metered(self.tracker, processes) if self.tracker else None

    def _measure(self) -> tuple[float, float]:
        """kWh and kg of CO2 on this machine in the current stretch, up to now."""
        if self.tracker is not None:
            task = self.tracker.stop_task()
            self.energy_kwh += task.energy_consumed
            self.co2_kg += task.emissions
            self.tracker.start_task()
        return self.energy_kwh, self.co2_kg

    def gather(self, process: int) -> None:
        """Take in what the other machines have measured up to now. All processes call it, `process` is this one."""
        readings = gather_object([self._measure() if self.tracker else None])
        self.elsewhere = [reading for i, reading in enumerate(readings) if reading and i != process]

    def _stretch(self) -> dict:
        """The current stretch, up to now."""
        energy_kwh, co2_kg = np.sum([self._measure(), *self.elsewhere], axis=0).tolist()
        machines = f", of {1 + len(self.elsewhere)} machines" if self.elsewhere else ""
        return {
            "from_image": self.first_image,
            "to_image": self.images_seen,
            "started": self.started,
            "ended": now(),
            "seconds": time.perf_counter() - self.start_counter,
            "energy_kwh": energy_kwh if self.tracker else None,
            "co2_kg": co2_kg if self.tracker else None,
            "metered": self.metered and self.metered + machines,
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

        # stretches of earlier versions were metered by the machine and do not say so
        metered = [stretch.get("metered", WHOLE_MACHINE) for stretch in stretches if stretch["co2_kg"] is not None]
        source = f"codecarbon {version('codecarbon')}, offline tracker, {'; '.join(dict.fromkeys(metered))}"
        return {
            "wall_time_seconds": total("seconds"),
            "energy_kwh": total("energy_kwh"),
            "co2_kg": total("co2_kg"),
            "co2_source": source if metered else NOT_MEASURED,
            "stretches": stretches,
        }


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _start_tracker(country: str, tracking_mode: str):
    # not at the top: they take seconds, and only --country needs them
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.input import DataSource

    if country not in DataSource().get_global_energy_mix_data():  # codecarbon would take the world's average
        raise InputError(
            f"--country {country}: no carbon intensity is known for it; expected an ISO code with three capital"
            " letters, such as FRA or USA."
        )
    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        tracking_mode=tracking_mode,
        save_to_file=False,
        log_level="error",
        allow_multiple_runs=True,
    )
    tracker.start_task()
    return tracker


def _metered(tracker, processes: int) -> str:
    """What codecarbon 3.3 meters on this machine, in words.

    Its "process" mode covers memory, and the CPU where it has no power counters: there it multiplies the CPU time of
    this process and its children by the rated power. Where it reads power counters (RAPL and others) they are the
    machine's in either mode, and so are GPUs.
    """
    if processes > 1:
        return WHOLE_MACHINE
    hardware = {type(part).__name__: part for part in getattr(tracker, "_hardware", [])}
    by_cpu_time = getattr(hardware.get("CPU"), "_mode", None) == "cpu_load"
    cpu = "CPU time of this process at the rated power" if by_cpu_time else "CPU of the whole machine"
    gpu = ", visible GPUs in full" if "GPU" in hardware else ""
    return f"{cpu}, memory of this process{gpu}"


# What a pipeline's report takes over from the report of its autoencoder's run.
AUTOENCODER_FIELDS = (
    "arguments", "images_seen", "wall_time_seconds", "energy_kwh", "co2_kg", "co2_source", "hardware"
)  # fmt: skip
OPTIONAL_AUTOENCODER_FIELDS = ("architecture", "stretches")  # missing from reports of earlier versions


def autoencoder_record(vae: str) -> dict | None:
    """Cost and quality of the run that made an autoencoder; None if there is no report of it.

    Args:
        vae: value of --vae or --pretrained: an output folder of `animal-ldm train-autoencoder`, its `vae` folder, a
            pipeline folder (its report already has the record), or anything else.

    Returns:
        `AUTOENCODER_FIELDS` of the run's report, those of `OPTIONAL_AUTOENCODER_FIELDS` that it has, and `validation`,
        its last figures: "psnr" in dB, "lpips_squeeze" (None for a run without LPIPS) and "images", the number of
        photos they were measured on. If the run started from another autoencoder with a record, `pretrained` is that
        record. `stage` counts such runs from 1, the first.
    """
    folder = Path(model_folder(vae))
    folder = folder.parent if folder.name == "vae" else folder
    if not (folder / "vae").is_dir() or not (folder / "training_report.json").is_file():
        return None
    report = json.loads((folder / "training_report.json").read_text(encoding="utf-8"))
    if is_pipeline_folder(folder):
        return report.get("autoencoder")
    last = [entry for entry in report["history"] if "validation/psnr" in entry][-1]
    record = {name: report[name] for name in AUTOENCODER_FIELDS}
    record |= {name: report[name] for name in OPTIONAL_AUTOENCODER_FIELDS if name in report}
    record["validation"] = {name: last.get(f"validation/{name}") for name in ("psnr", "lpips_squeeze", "images")}
    earlier = report.get("pretrained")
    record["stage"] = 1 + stages(earlier)
    return record | ({"pretrained": earlier} if earlier else {})


def stages(record: dict | None) -> int:
    """Number of runs that an autoencoder's record tells of, each nested in the next as `pretrained`."""
    return 0 if record is None else 1 + stages(record.get("pretrained"))
