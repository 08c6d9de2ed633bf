"""What does an explanation know that the logits do not? Asked without any training.

Of a trained network, take the held-out images that it gets wrong. The true class is then among the
others, and a soft target over the others is good if it gives that class a high likelihood. Under

    p_c proportional to exp(a z_c + k S_c + e s_c),   c other than the predicted class,

z are the logits, S is the cosine of the head's weights to those of the predicted class, which knows
classes but no image, and s is how much the class's explanation of this image resembles the
predicted class's. Each is a z-score over the image's other classes. The coefficients are fitted on
one half of the images and judged on the other, and the other way round. What s adds to a and k, in
nats an image, is what a target gains by reading explanations; e says how far it should lean.

    python -m studies.targets.likelihood --features data/targets/cifar100.pt --out FILE.json
    python -m studies.targets.likelihood --runs runs/seed0 runs/seed1 --out FILE.json

The first asks linear heads on frozen features (`studies.targets.head_study`, plain, one for each
seed), the second finished runs of `selfexplain train`, which differ by their seeds.

Shape suffixes: M images, B batch, C features, P places, K classes, T terms.
"""

import dataclasses
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from studies.targets.forms import FORMS
from studies.targets.head_study import Laboratory
from torch import Tensor, nn

from selfexplain.data import normalise
from selfexplain.errors import InputError, exit_on_bad_input
from selfexplain.experiments.explain.evaluate import scored_images
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.run_dir import environment
from selfexplain.explanations import MapKind, capture, class_maps, find_explained_layer
from selfexplain.files import read_tensors, write_json
from selfexplain.introspection import attribution_cosine, similarity_to_true
from selfexplain.introspection.options import MapSimilarity
from selfexplain.introspection.own_mass import standardized_similarity

BATCH = 100
MEASURES: tuple[MapSimilarity, ...] = ("cosine", "votes", "attended_votes")


@dataclass(frozen=True, kw_only=True, slots=True)
class LikelihoodConfig:
    """Ask a trained network's explanations what they know that its logits do not."""

    out: Path
    """JSON file to write."""
    features: Path | None = None
    """File that `studies.targets.features` wrote: ask a head on frozen features."""
    runs: tuple[Path, ...] = ()
    """Folders of finished runs: ask their networks."""
    layers: tuple[str, ...] = ()
    """Earlier layers whose feature x gradient and Grad-CAM maps are asked, too (of a run)."""
    gradients: bool = True
    """Ask gradient and input x gradient maps, a backward pass a class (of a run)."""
    seeds: int = 5
    """Heads on frozen features, each on its own draw of training images."""
    images: int = 4000
    """Held-out images to look at."""
    per_class: int = 10
    """Training images of each class of the head on frozen features."""
    epochs: int = 40
    """Epochs of the head on frozen features."""
    decay: float = 1e-4
    """Its weight decay."""
    lr: float = 3.0
    """Its learning rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the images that a network gets wrong say of every class."""

    logits_MK: Tensor
    named_M: Tensor
    """The class that the network predicts."""
    true_M: Tensor
    similarities: dict[str, Tensor]
    """Name -> similarity (M, K) of each class's explanation to the predicted class's."""


def log_likelihood(terms_MKT: Tensor, weights_T: Tensor, named_M: Tensor, true_M: Tensor) -> Tensor:
    """Log p of the true class among all but the named one, (M,)."""
    scores_MK = (terms_MKT * weights_T).sum(2)
    is_named_MK = F.one_hot(named_M, scores_MK.shape[1]).bool()
    log_p_MK = scores_MK.masked_fill(is_named_MK, -torch.inf).log_softmax(1)
    return log_p_MK.gather(1, true_M.unsqueeze(1)).squeeze(1)


def fit(terms_MKT: Tensor, named_M: Tensor, true_M: Tensor) -> Tensor:
    """The weights (T,) of the highest likelihood: a concave problem, by L-BFGS in float64."""
    weights_T = torch.zeros(terms_MKT.shape[2], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights_T], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -log_likelihood(terms_MKT, weights_T, named_M, true_M).mean()
        value.backward()
        return value

    optimizer.step(loss)
    return weights_T.detach()


def crossed(terms_MKT: Tensor, named_M: Tensor, true_M: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's log-likelihood (M,) under the other half's fit, and the mean weights (T,)."""
    even_M = torch.arange(len(true_M)) % 2 == 0
    found_M = torch.zeros(len(true_M), dtype=torch.float64)
    weights = []
    for part_M in (even_M, ~even_M):
        weights_T = fit(terms_MKT[part_M], named_M[part_M], true_M[part_M])
        rest_M = ~part_M
        found_M[rest_M] = log_likelihood(
            terms_MKT[rest_M], weights_T, named_M[rest_M], true_M[rest_M]
        )
        weights.append(weights_T)
    return found_M, torch.stack(weights).mean(0)


def verdicts(asked: Asked) -> dict[str, dict[str, float]]:
    """What each similarity adds to logits alone, and to logits and head weights, nats an image."""

    def term(values_MK: Tensor) -> Tensor:
        return standardized_similarity(values_MK.double(), asked.named_M)

    z_MK = term(asked.logits_MK)
    weights_MK = term(asked.similarities["head weights"])
    names = (asked.named_M, asked.true_M)
    alone_M, _ = crossed(torch.stack([z_MK], 2), *names)
    classes_M, class_T = crossed(torch.stack([z_MK, weights_MK], 2), *names)
    found = {
        "logits": {"log_likelihood": float(alone_M.mean())},
        "head weights": {
            "log_likelihood": float(classes_M.mean()),
            **_gain("logits", classes_M - alone_M),
            "weight": float(class_T[1]),
        },
    }
    for name, values_MK in asked.similarities.items():
        if name == "head weights":
            continue
        s_MK = term(values_MK)
        # The control: the same values, each image's shuffled over its classes.
        order_MK = torch.rand(s_MK.shape, generator=torch.Generator().manual_seed(0)).argsort(1)
        lone_M, lone_T = crossed(torch.stack([z_MK, s_MK], 2), *names)
        both_M, both_T = crossed(torch.stack([z_MK, weights_MK, s_MK], 2), *names)
        shuffled_M, _ = crossed(
            torch.stack([z_MK, weights_MK, term(s_MK.gather(1, order_MK))], 2), *names
        )
        found[name] = {
            "log_likelihood": float(both_M.mean()),
            **_gain("logits", lone_M - alone_M),
            **_gain("logits and head weights", both_M - classes_M),
            **_gain("both, shuffled", shuffled_M - classes_M),
            "weight beside logits": float(lone_T[1]),
            "weight beside both": float(both_T[2]),
        }
    return found


def _gain(over: str, difference_M: Tensor) -> dict[str, float]:
    """Mean and standard error of a gain."""
    error = float(difference_M.std() / len(difference_M) ** 0.5)
    return {f"gain over {over}": float(difference_M.mean()), f"standard error, {over}": error}


def ask_run(config: LikelihoodConfig, folder: Path) -> Asked:
    """The network of a finished run, on images that it was scored on."""
    run = load_run(folder)
    images = scored_images(folder, run, config.images, seed=0)
    x_NCHW = normalise(images.images_NCHW, run.mean_C, run.std_C)
    return _ask_all(run.objective.model, x_NCHW, images.labels_N, config)


def ask_heads(config: LikelihoodConfig, features: Path) -> Iterator[Asked]:
    """Plain linear heads on frozen features, on the test images whose maps were kept."""
    tensors = read_tensors(features, remedy="pass a file of studies.targets.features")
    laboratory = Laboratory(tensors, config.per_class)
    for seed in range(config.seeds):
        yield _ask_head(config, tensors, laboratory, seed)


def _ask_head(
    config: LikelihoodConfig, tensors: dict[str, Tensor], laboratory: Laboratory, seed: int
) -> Asked:
    setting = {"knobs": {}, "epochs": config.epochs, "lr": config.lr, "decay": config.decay}
    with torch.no_grad():
        heads = laboratory.train(FORMS["plain"], setting, [seed])
    linear = nn.Linear(heads.weight_RKC.shape[2], laboratory.num_classes)
    with torch.no_grad():
        linear.weight.copy_(heads.weight_RKC[0] * laboratory.scale)
        linear.bias.copy_(heads.bias_RK[0])
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    maps_NCP = tensors["probe_maps"][: config.images].float()
    side = round(maps_NCP.shape[2] ** 0.5)
    maps_NCHW = maps_NCP.unflatten(2, (side, side))
    config = dataclasses.replace(config, layers=(), gradients=False)
    return _ask_all(model.eval(), maps_NCHW, tensors["test_labels"][: len(maps_NCHW)], config)


def _ask_all(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, config: LikelihoodConfig) -> Asked:
    parts = [
        asked
        for x_BCHW, y_B in zip(x_NCHW.split(BATCH), y_N.long().split(BATCH), strict=True)
        if (asked := _ask(model, x_BCHW, y_B, config)) is not None
    ]
    if not parts:
        raise InputError("the network gets no image wrong, so there is nothing to ask")
    return _joined(parts)


def _ask(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, config: LikelihoodConfig) -> Asked | None:
    """Of the images of a batch that the network gets wrong; None if there is none."""
    with torch.no_grad():
        wrong_B = model(x_BCHW).argmax(1) != y_B
    if not wrong_B.any():
        return None
    x_BCHW, y_B = x_BCHW[wrong_B], y_B[wrong_B]
    layer = find_explained_layer(model, x_BCHW, kind="cam")
    with torch.no_grad(), capture(model, layer) as seen:
        logits_BK = model(x_BCHW)
    named_B, weight_KF = logits_BK.argmax(1), seen.weight_KF.detach()
    similarities = {
        "head weights": attribution_cosine(torch.ones_like(seen.features_BFHW), weight_KF, named_B),
        "attribution": attribution_cosine(seen.features_BFHW, weight_KF, named_B),
    }
    asked: list[tuple[str, MapKind, str | None]] = [("last layer, cam", "cam", None)]
    for name in config.layers:
        asked.append((f"{name}, feature x gradient", "feature_x_gradient", name))
        asked.append((f"{name}, grad_cam", "grad_cam", name))
    if config.gradients:
        asked += [("gradient", "gradient", None), ("input x gradient", "input_x_gradient", None)]
    for label, kind, at in asked:
        maps_BKHW = class_maps(model, x_BCHW, kind=kind, layer=at)
        for measure in MEASURES:
            # Votes do not change when something is taken from all classes' maps.
            for centre in (False, True) if measure == "cosine" else (False,):
                name = f"{label}, {measure}{', centred' if centre else ''}"
                similarities[name] = similarity_to_true(
                    maps_BKHW, named_B, measure=measure, centre=centre
                )
    return Asked(logits_MK=logits_BK, named_M=named_B, true_M=y_B, similarities=similarities)


def _joined(parts: list[Asked]) -> Asked:
    return Asked(
        logits_MK=torch.cat([part.logits_MK for part in parts]),
        named_M=torch.cat([part.named_M for part in parts]),
        true_M=torch.cat([part.true_M for part in parts]),
        similarities={
            name: torch.cat([part.similarities[name] for part in parts])
            for name in parts[0].similarities
        },
    )


def table(found: list[dict[str, dict[str, float]]], images: list[int]) -> str:
    """Markdown, the most telling similarity first; gains are means over seeds, one or several."""
    over = "logits and head weights"
    rows = sorted(
        (name for name in found[0] if f"gain over {over}" in found[0][name]),
        key=lambda name: -_mean(found, name, f"gain over {over}"),
    )
    spread = (
        "standard deviation over seeds" if len(found) > 1 else "two standard errors over images"
    )
    lines = [
        f"Images that the network gets wrong: {', '.join(map(str, images))}. Log-likelihood of the "
        "true class among the others, in nats an image: logits alone "
        f"{_mean(found, 'logits', 'log_likelihood'):.4f}; head weights add "
        f"{_cell(found, 'head weights', 'logits')} (weight "
        f"{_mean(found, 'head weights', 'weight'):+.2f}). Gains +- {spread}.",
        "",
        "| similarity | over logits (weight) | over logits and head weights (weight) | shuffled |",
        "|---|---|---|---|",
    ]
    for name in rows:
        cells = [
            name,
            f"{_cell(found, name, 'logits')} ({_mean(found, name, 'weight beside logits'):+.2f})",
            f"{_cell(found, name, over)} ({_mean(found, name, 'weight beside both'):+.2f})",
            _cell(found, name, "both, shuffled"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean(found: list[dict[str, dict[str, float]]], name: str, key: str) -> float:
    return statistics.fmean(one[name][key] for one in found)


def _cell(found: list[dict[str, dict[str, float]]], name: str, over: str) -> str:
    gains = [one[name][f"gain over {over}"] for one in found]
    if len(gains) > 1:
        return f"{statistics.fmean(gains):+.4f} +- {statistics.stdev(gains):.4f}"
    return f"{gains[0]:+.4f} +- {2 * found[0][name][f'standard error, {over}']:.4f}"


def main() -> None:
    """Ask, and write JSON and, beside it, a table."""
    config = tyro.cli(LikelihoodConfig)
    with exit_on_bad_input("studies.targets.likelihood"):
        if config.runs and config.features is None:
            asked = [ask_run(config, folder) for folder in config.runs]
        elif config.features is not None and not config.runs:
            asked = list(ask_heads(config, config.features))
        else:
            raise InputError("pass either --runs or --features")
        found, images = [verdicts(one) for one in asked], [len(one.true_M) for one in asked]
        config.out.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "config": {
                **dataclasses.asdict(config),
                "out": config.out.name,
                "features": config.features and config.features.name,
                "runs": [folder.name for folder in config.runs],
            },
            "environment": environment(torch.device("cpu")),
        }
        write_json(config.out, {**about, "images": images, "found": found})
        config.out.with_suffix(".md").write_text(table(found, images))


if __name__ == "__main__":
    main()
