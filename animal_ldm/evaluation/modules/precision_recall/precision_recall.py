"""Improved precision and recall, density and coverage, as a module of the `evaluate` library."""

import evaluate

from animal_ldm.evaluation.metrics import neighbourhoods
from animal_ldm.evaluation.modules import PATHS, compared

DESCRIPTION = """
Improved precision (share of generated images within the manifold of the real ones) and recall (share of real images
within the manifold of the generated ones), density and coverage, from distances to k-th nearest neighbours. They
change with k, with N and with the extractor: publish these too, and what real images score.
"""

INPUTS = """
Args:
    predictions (list of str): folders of generated images, or .npy files of their features (N, D).
    references (list of str): the same for real images.
    k (int or list of int): neighbours, [10, 3] by default. The paper's is 3; density and coverage are often at 5.
    extractor (str): inception (default), squeezenet, dinov2, clip, or a transformers image model; unused with .npy.
    weights (str, optional): file or folder with the extractor's weights; downloaded by default.
    device (str): where the extractor runs, cpu by default.
Returns:
    {"precision_k10": ..., "recall_k10": ..., "density_k10": ..., "coverage_k10": ...} for every k, and with them
    n_generated, n_real and extractor: its name, digest of the weights and resize rule, or "features as given".
Examples:
    >>> precision_recall = evaluate.load(animal_ldm.evaluation.modules.path("precision_recall"))
    >>> precision_recall.compute(predictions=["samples"], references=["photos"], k=3)  # doctest: +SKIP
    {'precision_k3': 0.55, 'recall_k3': 0.225, 'density_k3': 0.6, 'coverage_k3': 0.3, 'n_generated': 7500, ...}
"""

CITATION = """
@inproceedings{kynkaanniemi2019improved,
  title={Improved Precision and Recall Metric for Assessing Generative Models},
  author={Kynk{\\"a}{\\"a}nniemi, Tuomas and Karras, Tero and Laine, Samuli and Lehtinen, Jaakko and Aila, Timo},
  booktitle={Advances in Neural Information Processing Systems},
  year={2019}
}
@inproceedings{naeem2020reliable,
  title={Reliable Fidelity and Diversity Metrics for Generative Models},
  author={Naeem, Muhammad Ferjad and Oh, Seong Joon and Uh, Youngjung and Choi, Yunjey and Yoo, Jaejun},
  booktitle={International Conference on Machine Learning},
  year={2020}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class PrecisionRecall(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=PATHS,
            reference_urls=["https://arxiv.org/abs/1904.06991", "https://arxiv.org/abs/2002.09797"],
        )

    # evaluate passes every argument by name
    def _compute(self, predictions, references, k=(10, 3), extractor="inception", weights=None, device="cpu"):  # pyright: ignore[reportIncompatibleMethodOverride]
        real, fake, context = compared(predictions, references, extractor, weights, device)
        found = {}
        for near in neighbourhoods(real, fake, [k] if isinstance(k, int) else list(k)):
            for name in ("precision", "recall", "density", "coverage"):
                found[f"{name}_k{near.k}"] = getattr(near, name)
        return found | context
