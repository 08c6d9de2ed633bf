"""How good a map is: faithful, stable, on the object, and dependent on what was learned."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.explanations.metrics.common import (
        Perturbation,
        blur_baseline,
        gaussian_noise,
        maps_of_classes,
        mean_baseline,
        square_removal,
        upsampled,
    )
    from selfexplain.explanations.metrics.deletion import deletion_auc, insertion_auc
    from selfexplain.explanations.metrics.infidelity import Infidelity, infidelity, max_sensitivity
    from selfexplain.explanations.metrics.pointing import pointing_hits
    from selfexplain.explanations.metrics.randomization import (
        cascade,
        cascade_correlations,
        spearman,
    )

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

lazily(
    __name__,
    {
        "common": "Perturbation blur_baseline gaussian_noise maps_of_classes mean_baseline "
        "square_removal upsampled",
        "deletion": "deletion_auc insertion_auc",
        "infidelity": "Infidelity infidelity max_sensitivity",
        "pointing": "pointing_hits",
        "randomization": "cascade cascade_correlations spearman",
    },
)
