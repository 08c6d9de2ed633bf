"""What may stand before an objective on the command line and mix images for it."""

from selfexplain.errors import InputError
from selfexplain.objectives import CutMix, Mixing, Mixup, Objective
from selfexplain.objectives.mixing import refusal
from selfexplain.recipes.objective_options import parts_of

PARTNERS: dict[str, type[Mixing]] = {
    "mixup": Mixup,
    "cutmix": CutMix,
}
"""Name -> class. Options are the field of its name in `ObjectiveOptions`."""


def split_spec(spec: str) -> tuple[list[str], str]:
    """Specs of the partners, the outermost first, and of the objective that they mix for.

    Raises:
        InputError: something else stands before the objective, or there is no objective.

    Example:
        >>> split_spec("cutmix:alpha=0.5+label_smoothing:smoothing=0.2")
        (['cutmix:alpha=0.5'], 'label_smoothing:smoothing=0.2')
    """
    *partners, objective = parts_of(spec)
    for part in partners:
        name = part.partition(":")[0]
        if name not in PARTNERS:
            raise InputError(
                f"{name!r} in {spec!r} mixes no images; before a + pass {' or '.join(PARTNERS)}"
            )
    names = [part.partition(":")[0] for part in partners]
    if len(set(names)) < len(names):
        raise InputError(f"{spec!r} names a partner twice; pass each once")
    name = objective.partition(":")[0]
    if name in PARTNERS or (partners and not name):
        partner = name or partners[-1].partition(":")[0]
        raise InputError(
            f"{partner} mixes images for another objective; pass it as {partner}+standard"
        )
    return partners, objective


def check_partners(partners: list[str], name: str, objectives: dict[str, type[Objective]]) -> None:
    """Raise InputError if the objective of this name cannot use the partners' mixed images.

    Example:
        >>> from selfexplain.objectives import Standard
        >>> check_partners(["mixup"], "standard", {"standard": Standard})
    """
    if partners and (reason := refusal(objectives[name])):
        others = [other for other, kind in objectives.items() if not refusal(kind)]
        partner = partners[-1].partition(":")[0]
        raise InputError(f"{name} {reason}; after {partner}+ pass {' or '.join(others)}")
