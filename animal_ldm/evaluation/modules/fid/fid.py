"""Frechet distance of two sets of images, as a module of the `evaluate` library."""

import evaluate

from animal_ldm.evaluation.metrics import frechet_distance_of_features
from animal_ldm.evaluation.modules import PATHS, compared
from animal_ldm.evaluation.report import small_sample_note

DESCRIPTION = """
Frechet distance between Gaussians fitted to features of generated and of real images; lower is better. It is called
FID only with the features of Inception (inception-2015-12-05.pt) after clean-fid's resize. The bias of the estimate
falls as 1/N: compare equal numbers of images only.
"""

INPUTS = """
Args:
    predictions (list of str): folders of generated images, or .npy files of their features (N, D).
    references (list of str): the same for real images.
    extractor (str): inception (default), squeezenet, dinov2, clip, or a transformers image model; unused with .npy.
    weights (str, optional): file or folder with the extractor's weights; downloaded by default.
    device (str): where the extractor runs, cpu by default.
Returns:
    {"fid": ...} with Inception, else {"frechet_distance": ...}, and with it n_generated, n_real, extractor (its name,
    digest of the weights and resize rule, or "features as given") and note (None, or why the number is mostly bias).
Examples:
    >>> fid = evaluate.load(animal_ldm.evaluation.modules.path("fid"))
    >>> fid.compute(predictions=["samples"], references=["photos"])  # doctest: +SKIP
    {'fid': 172.5, 'n_generated': 7500, 'n_real': 7500, 'extractor': {'name': 'inception', ...}}
"""

CITATION = """
@inproceedings{heusel2017gans,
  title={{GANs} Trained by a Two Time-Scale Update Rule Converge to a Local {Nash} Equilibrium},
  author={Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp},
  booktitle={Advances in Neural Information Processing Systems},
  year={2017}
}
@inproceedings{parmar2022aliased,
  title={On Aliased Resizing and Surprising Subtleties in {GAN} Evaluation},
  author={Parmar, Gaurav and Zhang, Richard and Zhu, Jun-Yan},
  booktitle={CVPR},
  year={2022}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class FID(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=PATHS,
            reference_urls=["https://arxiv.org/abs/1706.08500", "https://arxiv.org/abs/2104.11222"],
        )

    # evaluate passes every argument by name
    def _compute(self, predictions, references, extractor="inception", weights=None, device="cpu"):  # pyright: ignore[reportIncompatibleMethodOverride]
        real, fake, context = compared(predictions, references, extractor, weights, device)
        described = context["extractor"]
        name = described["name"] if isinstance(described, dict) else described
        distance = {"fid" if name == "inception" else "frechet_distance": frechet_distance_of_features(real, fake)}
        return distance | context | {"note": small_sample_note(name, *fake.shape)}
