"""Folders as timm and transformers upload them: tiny networks of four classes, untrained."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import Tensor

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
SIZES: dict[str, Any] = {"embedding_size": 8, "depths": [1, 1], "layer_type": "basic"}


def timm_folder(folder: Path) -> dict[str, Tensor]:
    """Fill a folder for timm:local-dir:; return its weights."""
    timm = pytest.importorskip("timm", reason="needs timm")
    model = timm.create_model("test_resnet", num_classes=4)
    config = {
        "architecture": "test_resnet",
        "num_classes": 4,
        "pretrained_cfg": {
            "mean": MEAN,
            "std": STD,
            "input_size": [3, 64, 64],
            "crop_pct": 0.9,
            "num_classes": 4,
            "classifier": "fc",
            "first_conv": "conv1.0",
            "label_names": ["a", "b", "c", "d"],
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights: dict[str, Tensor] = model.state_dict()
    save_file(weights, folder / "model.safetensors")
    return weights


def transformers_folder(folder: Path) -> dict[str, Tensor]:
    """Fill a folder for hf:; return its weights."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = transformers.ResNetConfig(
        **SIZES, hidden_sizes=[8, 16], id2label=dict(enumerate("abcd"))
    )
    model = transformers.ResNetForImageClassification(config)
    config.save_pretrained(folder)
    weights: dict[str, Tensor] = model.state_dict()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    processor = {
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_center_crop": True,
        "size": {"shortest_edge": 60},
        "crop_size": {"height": 54, "width": 54},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return weights
