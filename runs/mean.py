"""The mean of the weights of a run and of the pipeline that it started from (model soups, arXiv 2203.05482).

usage: python runs/mean.py START RUN OUT [SHARE]

UNet and text encoder are the means of both, with weights 1 - SHARE and SHARE (0.5 by default), the embeddings token by
token; the rest of OUT is that of the run, without checkpoints and logs. The UNet is saved as float16 in files of at
most 30 MB. The training report has the digest of the means, those of both pipelines as `mean_of`, and the SHARE of the
run as `mean_share`.
"""

import copy
import json
import shutil
import sys
from pathlib import Path

import torch

from animal_ldm.digest import pipeline_digest
from animal_ldm.files import write_json
from animal_ldm.loading import load_pipeline, seal
from animal_ldm.training.text import take_over

SAVED_AS = {"unet": torch.float16, "text_encoder": torch.float32}


@torch.no_grad()
def main(start: Path, run: Path, out: Path, share: float = 0.5) -> None:
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("checkpoints", "logs"))
    mean, end = (load_pipeline(str(folder), "cpu") for folder in (start, run))
    mean_of = [pipeline_digest(mean), pipeline_digest(end)]
    # Words have other numbers where the run's captions have them in another order.
    text_encoder = copy.deepcopy(end.text_encoder)
    take_over(end.tokenizer, text_encoder, mean.tokenizer, mean.text_encoder)
    mean.text_encoder = text_encoder
    for name, dtype in SAVED_AS.items():
        network = getattr(mean, name)
        for mine, its in zip(network.parameters(), getattr(end, name).parameters(), strict=True):
            mine.lerp_(its, share)
        shutil.rmtree(out / name)
        network.to(dtype).save_pretrained(out / name, max_shard_size="30MB")
    seal(out)

    file = out / "training_report.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    report["digests"]["pipeline"] = pipeline_digest(load_pipeline(str(out), "cpu"))
    report |= {"mean_of": mean_of, "mean_share": share}
    write_json(file, report)


if __name__ == "__main__":
    start, run, out, *share = sys.argv[1:]
    main(Path(start), Path(run), Path(out), *map(float, share))
