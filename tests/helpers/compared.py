"""A small finished comparison with all that the report reads."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from selfexplain.experiments.compare.compare import run_comparison
from selfexplain.experiments.data import load, predict_together, prepare
from selfexplain.experiments.explain.explain import load_run
from selfexplain.experiments.options import CompareConfig, DataOptions
from selfexplain.training import TrainingOptions

EPOCHS = 2


def make_comparison(out: Path) -> None:
    """Compare two objectives on the digits, two seeds, two epochs."""
    config = CompareConfig(
        data=DataOptions(data="digits", train_size=100),
        objectives=("standard", "introspective"),
        seeds=(0, 1),
        training=TrainingOptions(epochs=EPOCHS, batch_size=50),
        out=out,
    )
    run_comparison(config)
    data = load(config.data)
    for folder in (config.out / "runs").iterdir():
        prepared = prepare(data, config.data, int(folder.name[-1]))
        predictions = folder / "predictions.safetensors"
        if not predictions.exists():
            model = load_run(folder).objective.model
            logits, labels = predict_together(
                model, prepared, device=torch.device("cpu"), workers=0
            )
            save_file({"logits": logits, "labels": labels}, predictions)
        if not (folder / "album").exists():
            leave_album(folder, data.test.read(torch.arange(6)), data.test.labels_N[:6], EPOCHS, 10)


def leave_album(
    folder: Path, images_BCHW: torch.Tensor, labels_B: torch.Tensor, epochs: int, k: int
) -> None:
    """Album and similarity of a run whose explanations are random."""
    generator = torch.Generator().manual_seed(0)
    (folder / "album").mkdir(parents=True)
    save_file({"images": images_BCHW, "labels": labels_B}, folder / "album" / "images.safetensors")
    for epoch in range(1, epochs + 1):
        target = torch.rand(len(labels_B), k, generator=generator).square()
        target[torch.arange(len(labels_B)), labels_B] = 0
        target /= target.sum(dim=1, keepdim=True)
        rivals = target.argsort(dim=1, descending=True)[:, : min(3, k - 1)]
        classes = torch.cat([labels_B[:, None], rivals], dim=1)
        probabilities = (3 * torch.randn(len(labels_B), k, generator=generator)).softmax(dim=1)
        maps = torch.randn(*classes.shape, 4, 4, generator=generator)
        save_file(
            {"probabilities": probabilities, "target": target, "classes": classes, "maps": maps},
            folder / "album" / f"epoch-{epoch:04}.safetensors",
        )
    similarity = torch.rand(k, k, generator=generator).square() * (1 - torch.eye(k))
    similarity /= similarity.sum(dim=1, keepdim=True)
    count = torch.bincount(labels_B, minlength=k)
    if (folder / "predictions.safetensors").exists():
        count = torch.bincount(load_file(folder / "predictions.safetensors")["labels"], minlength=k)
    save_file({"similarity": similarity, "count": count}, folder / "similarity.safetensors")
