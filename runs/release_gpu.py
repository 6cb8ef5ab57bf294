"""What runs/release_gpu.sh cannot say in shell.

usage: python runs/release_gpu.py webp PREPARED OUT      a prepared dataset with its photos as WebP
       python runs/release_gpu.py plan MEASURED MINUTES  the length of each training, a checkpoint a minute
       python runs/release_gpu.py best RUN OUT           the pipeline of RUN with the lowest kernel distance
"""

import json
import shutil
import sys
from pathlib import Path

from PIL import Image

from animal_ldm.files import file_sha256

QUALITY = 90  # of 100
SHARES = {"autoencoder": 8, "decoder": 3, "unet": 12}  # of the minutes


def webp(prepared: str, out: str) -> None:
    """The same dataset with files that end in .webp; `load_split` reads it."""
    for split in ("train", "validation"):
        text = Path(prepared, split, "metadata.jsonl").read_text(encoding="utf-8")
        records = [json.loads(line) for line in text.splitlines()]
        for record in records:
            source = Path(prepared, split, record["file_name"])
            record["file_name"] = str(Path(record["file_name"]).with_suffix(".webp"))
            target = Path(out, split, record["file_name"])
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(source) as image:
                image.save(target, "WEBP", quality=QUALITY)
            record["sha256"] = file_sha256(target)
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        Path(out, split, "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


def plan(measured: str, minutes: str) -> None:
    """Divide the minutes among the trainings that are not done; the speeds are those of short ones in MEASURED."""
    shares = {stage: share for stage, share in SHARES.items() if not is_done(Path(measured).parent / stage)}
    for stage, share in shares.items():
        kind = "unet" if stage == "unet" else "autoencoder"
        report = json.loads(Path(measured, kind, "training_report.json").read_text(encoding="utf-8"))
        speed = report["arguments"]["batch_size"] / report["length"]["step_seconds"]
        given = float(minutes) * share / sum(shares.values())
        print(f"{stage} --max_minutes {given:.2f} --checkpoint_every {max(1, round(60 * speed))}")
        print(f"{stage}: {speed:.1f} images/s, {given:.2f} minutes, {60 * speed * given:,.0f} images", file=sys.stderr)


def is_done(run: Path) -> bool:
    return (run / "training_report.json").is_file()


def best(run: str, out: str) -> None:
    """RUN/best with the report of the whole training, in which `best` says after how many images it was kept."""
    # here, because they take seconds and nothing else needs them
    from animal_ldm.digest import pipeline_digest
    from animal_ldm.files import write_json
    from animal_ldm.loading import load_pipeline

    report = json.loads(Path(run, "training_report.json").read_text(encoding="utf-8"))
    report["best"] = json.loads(Path(run, "best", "quick_report.json").read_text(encoding="utf-8"))
    shutil.copytree(Path(run, "best"), out)
    report["digests"]["pipeline"] = pipeline_digest(load_pipeline(out, "cpu"))
    write_json(Path(out, "training_report.json"), report)


if __name__ == "__main__":
    {"webp": webp, "plan": plan, "best": best}[sys.argv[1]](*sys.argv[2:])
