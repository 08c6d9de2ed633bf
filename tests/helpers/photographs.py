"""What a run on photographs might have left, made up."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfexplain.report.html import Section
from selfexplain.report.sections import Predictions, Record, photographs_section


def left_behind(classes: int, count: int = 8) -> dict[str, dict[str, Tensor]]:
    """File -> its tensors: photographs of 90 x 120 pixels, classes 0 and 1."""
    generator = torch.Generator().manual_seed(0)

    def pictures(n: int) -> dict[str, Tensor]:
        images = torch.randint(256, (n, 3, 90, 120), generator=generator, dtype=torch.uint8)
        told = [list(f"b/{i}.jpg".encode()) for i in range(n)]
        return {"images": images, "names": torch.tensor(told, dtype=torch.uint8)}

    explained = {
        "classes": torch.tensor([[0, 1]] * count),
        "probabilities": torch.tensor([[0.002, 0.97]] * count),
        "maps": torch.randn(count, 2, 4, 5, generator=generator),
    }
    return {
        "mistakes": pictures(count) | explained,
        "confused": pictures(count)
        | explained
        | {
            "pairs": torch.tensor([[0, 1]] * count),
            "counts": torch.tensor([[3, 1]] * count),
            "overlap": torch.full((count,), 0.5),
            "explained": torch.full((count,), 2),
            "looked": torch.full((count,), 4),
        },
        "mislabels": pictures(count)
        | {
            "given": torch.zeros(count, dtype=torch.int64),
            "suggested": torch.ones(count, dtype=torch.int64),
            "probabilities": torch.tensor([[0.01, 0.9]] * count),
            "judged": torch.tensor([100]),
            "doubted": torch.tensor([12]),
        },
        "shortcuts": {
            "share": torch.tensor([0.8, 0.3] + [0.0] * (classes - 2)),
            "error": torch.full((classes,), 0.05),
            "count": torch.tensor([9, 7] + [0] * (classes - 2)),
            "images": pictures(2)["images"],
            "classes": torch.tensor([0, 1]),
            "maps": torch.randn(2, 4, 5, generator=generator),
            "shares": torch.tensor([0.9, 0.4]),
        },
    }


def record_of(names: Sequence[str], files: Mapping[str, Mapping[str, Tensor]]) -> Record:
    """A run that left these files, and predictions of ten images of each class."""
    k = len(names)
    labels_N = torch.arange(10 * k) % k

    def read(name: str, shapes: Mapping[str, str]) -> dict[str, Tensor] | None:
        found = files.get(name.removesuffix(".safetensors"))
        return None if found is None else {key: found[key] for key in shapes}

    return Record(
        objective="standard",
        seed=0,
        class_names=tuple(names),
        predictions=Predictions(logits_NK=torch.eye(k)[labels_N], labels_N=labels_N),
        photographs=True,
        read=read,
    )


def findings_of(names: Sequence[str]) -> Section:
    """The section on all that such a run left."""
    section = photographs_section([record_of(names, left_behind(len(names)))])
    assert section is not None
    return section
