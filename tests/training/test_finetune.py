"""Blocks of a network: which learn, and how fast."""

import itertools

import pytest
import torch
from torch import nn

from selfexplain.errors import InputError
from selfexplain.models import build_model
from selfexplain.training.finetune import (
    blocks_of,
    freeze,
    freeze_norm,
    frozen_blocks,
    head_of,
    lr_scales,
    parameter_scales,
)


class Wrapped(nn.Module):
    """A model in a model, as of a normalisation of inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.zeros(1))


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "wrn16_2", "efficientnet_lite0"])
def test_blocks_hold_every_parameter_once_and_end_with_the_head(name: str) -> None:
    model = build_model(name, num_classes=4, in_channels=3)
    held = [id(p) for block in blocks_of(model).values() for p in block.parameters()]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert model.get_submodule(head_of(model)).weight.shape[0] == 4


def test_an_encoder_of_transformer_layers_is_its_layers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        num_hidden_layers=3, hidden_size=12, num_attention_heads=2, intermediate_size=8
    )
    names = list(blocks_of(transformers.ViTForImageClassification(config)))
    assert len(names) == 6  # embeddings, three layers, norm, head
    assert names[-1] == "classifier"


def test_a_wrapped_model_has_the_blocks_of_what_it_wraps() -> None:
    model = build_model("small_cnn", num_classes=4, in_channels=3)
    assert list(blocks_of(Wrapped(model))) == [f"model.{name}" for name in blocks_of(model)]


def test_freezing_all_leaves_the_head_and_keeps_the_norms() -> None:
    model = build_model("resnet20", num_classes=4, in_channels=3).train()
    freeze(model, "all")
    assert learning(model) == {"head.weight", "head.bias"}
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_norms_that_are_frozen_keep_their_statistics_and_learn_their_scale() -> None:
    model = build_model("resnet20", num_classes=4, in_channels=3).train()
    freeze_norm(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(p.grad is not None for p in model.parameters())


def test_freezing_up_to_a_sequence_or_a_layer_inside_of_a_block() -> None:
    model = build_model("resnet20", num_classes=4, in_channels=3)
    assert frozen_blocks(model, "stages.0") == ["stem", "stages.0.0", "stages.0.1", "stages.0.2"]
    inside = next(name for name, _ in model.named_modules() if name.startswith("stages.1.0."))
    assert frozen_blocks(model, inside)[-1] == "stages.1.0"


def test_what_lies_in_no_block_is_frozen_with_the_first() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros(3))
            self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    model = Positions()
    freeze(model, "body")
    assert learning(model) == {"head.weight", "head.bias"}


def test_a_layer_that_does_not_exist_is_refused_with_near_names() -> None:
    model = build_model("small_cnn", num_classes=4, in_channels=3)
    with pytest.raises(InputError, match="no layer 'blok2' to freeze up to; pass block2"):
        freeze(model, "blok2")
    with pytest.raises(InputError, match="would leave nothing to train; pass all"):
        freeze(model, "head")
    with pytest.raises(InputError, match="no layers before its head"):
        freeze(nn.Linear(3, 2), "all")


def test_a_layers_name_that_merely_begins_alike_is_not_meant() -> None:
    net = nn.ModuleDict({f"b{i}": nn.Linear(2, 2) for i in (1, 10, 2)})
    assert frozen_blocks(net, "b1") == ["b1"]


def test_learning_rates_fall_towards_the_stem() -> None:
    model = build_model("resnet20", num_classes=4, in_channels=3)
    scales = list(lr_scales(model, layer_decay=0.5, body=0.1).values())
    assert scales[-1] == 1
    assert scales[-2] == pytest.approx(0.05)
    assert all(a == pytest.approx(b / 2) for a, b in itertools.pairwise(scales[:-1]))
    of_parameters = parameter_scales(model, layer_decay=0.5)
    assert len(of_parameters) == len(list(model.parameters()))


@pytest.mark.parametrize("options", [{"layer_decay": 0.0}, {"layer_decay": 1.5}, {"body": 0.0}])
def test_factors_out_of_their_limits_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="pass a number above 0"):
        lr_scales(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), **options)
