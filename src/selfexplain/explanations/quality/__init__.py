"""How good a map is: faithful, stable, on the object, and dependent on what was learned."""

from .baselines import blur_baseline, mean_baseline
from .class_map import maps_of_classes
from .deletion import deletion_auc, insertion_auc
from .infidelity import Infidelity, infidelity
from .perturbations import Perturbation, gaussian_noise, square_removal
from .pointing import pointing_hits
from .randomisation import cascade, cascade_correlations
from .rank_correlation import spearman
from .scoring import upsampled
from .sensitivity import max_sensitivity

__all__ = [
    "Infidelity",
    "Perturbation",
    "blur_baseline",
    "cascade",
    "cascade_correlations",
    "deletion_auc",
    "gaussian_noise",
    "infidelity",
    "insertion_auc",
    "maps_of_classes",
    "max_sensitivity",
    "mean_baseline",
    "pointing_hits",
    "spearman",
    "square_removal",
    "upsampled",
]
