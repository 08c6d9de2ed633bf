"""Checkpointed models are explained as they are without, and inner tensors are no feature maps."""

import copy

import pytest
import torch
from tests.helpers.explanations_nets import ViT
from torch import nn
from torch.utils.checkpoint import checkpoint

from selfexplain.errors import InputError
from selfexplain.explanations import (
    capture,
    class_maps,
    explainable_layers,
    find_explained_layer,
    maps_of_forward,
)
from selfexplain.introspection import Introspective
from selfexplain.objectives import (
    AttentionSeparability,
    ContrastiveGradCam,
    LearnerCritic,
    SaliencyGuided,
    WithAuxiliaryHead,
    ZipfLabelSmoothing,
)

pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
Y = torch.tensor([0, 1, 2, 3])


class Checkpointed(nn.Module):
    """Two blocks, as they are (None) or checkpointed; the head reads a mean or all positions."""

    def __init__(self, reentrant, head="mean"):
        super().__init__()
        self.reentrant, self.head = reentrant, head
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, stride, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
            for stride in (1, 2)
        )
        self.auxiliary = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        self.fc = nn.Linear(8 if head == "mean" else 8 * 36, 5)

    def run(self, block, h):
        if self.reentrant is None:
            return block(h)
        return checkpoint(block, h, use_reentrant=self.reentrant)

    def forward(self, x):
        h = self.run(self.blocks[0], self.stem(x))
        if self.training:
            self.run(self.auxiliary, h)
        h = self.run(self.blocks[1], h)
        return self.fc(h.mean((2, 3)) if self.head == "mean" else h.flatten(1))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pair(reentrant, head):
    """A model without checkpointing, and the same with it."""
    model = Checkpointed(None, head)
    twin = copy.deepcopy(model)
    twin.reentrant = reentrant
    return model, twin


X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
BY_GRADIENT = [("all", "grad_cam"), ("all", "feature_x_gradient"), ("mean", "gradient")]
POOLED = [("mean", "cam"), ("mean", "grad_cam")]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("reentrant", "head", "kind"),
    [*((r, *each) for each in POOLED for r in (True, False)), *((False, *e) for e in BY_GRADIENT)],
)
def test_maps_and_layer_are_those_of_the_model_without_checkpoints(reentrant, head, kind, train):
    plain, twin = (model.train(train) for model in pair(reentrant, head))
    found = [find_explained_layer(model, X, kind=kind).source for model in (plain, twin)]
    assert found[0] == found[1]
    before = copy.deepcopy(twin.state_dict())
    maps = class_maps(twin, X, kind=kind)
    assert torch.equal(maps, class_maps(plain, X, kind=kind))
    assert all(torch.equal(before[name], value) for name, value in twin.state_dict().items())


@pytest.mark.parametrize(("head", "kind"), BY_GRADIENT)
def test_reentrant_checkpoints_are_refused_where_gradients_are_needed(head, kind):
    _, twin = pair(True, head)
    for explain in (
        lambda: class_maps(twin, X, kind=kind),
        lambda: Introspective(twin, kind=kind, form="mixed")(X, Y),
        lambda: SaliencyGuided(twin)(X, Y),
        lambda: ContrastiveGradCam(pair(True, "mean")[1])(X, Y),
    ):
        with pytest.raises(InputError, match=r"use_reentrant=True.*pass use_reentrant=False"):
            explain()


OBJECTIVES = {
    "cam": Introspective,
    "grad_cam": lambda m: Introspective(m, kind="grad_cam", layer="blocks.0", form="mixed"),
    "gradient": lambda m: Introspective(m, kind="gradient", form="mixed"),
    "zipf": ZipfLabelSmoothing,
    "icasc": AttentionSeparability,
    "cgc": ContrastiveGradCam,
    "saliency_guided": SaliencyGuided,
    "lsx": lambda m: LearnerCritic(m, copy.deepcopy(m)),
    "auxiliary": lambda m: WithAuxiliaryHead(
        Introspective(m, kind="grad_cam", layer="blocks.0", form="mixed")
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_is_that_of_the_model_without_checkpoints(name):
    gradients, counts = [], []
    for model in pair(False, "mean"):
        torch.manual_seed(0)  # of what some of them draw
        objective = OBJECTIVES[name](model)
        objective(X, Y)["loss"].backward()
        gradients.append([p.grad for p in model.parameters()])
        counts.append([int(block[1].num_batches_tracked) for block in model.blocks])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    # Each forward once more, in the backward pass of the loss: as in a training without maps.
    assert counts[1] == [2 * count for count in counts[0]]


def test_maps_made_while_hooks_are_on_do_not_change_what_was_seen():
    _, model = pair(False, "all")
    layer = find_explained_layer(model, X, kind="grad_cam")
    with capture(model, layer) as seen:
        logits, activation = model(X), seen.activation
        maps_of_forward(seen, logits, kind="grad_cam")
        assert seen.activation is activation


def test_a_frozen_checkpointed_model():
    plain, twin = (model.requires_grad_(False) for model in pair(False, "all"))
    wanted = class_maps(plain, X, kind="grad_cam")
    assert torch.equal(class_maps(twin, X, kind="grad_cam"), wanted)


@pytest.mark.parametrize("scale", ["weight", "ls"])
def test_what_starts_at_zero_does_not_hide_the_last_layer(scale):
    """The layer is that of the trained model, at whose start a branch has no gradient yet."""
    model, x = ViT(), torch.rand(2, 3, 12, 12)
    wanted = find_explained_layer(model, x, kind="grad_cam")
    for name, parameter in model.named_parameters():
        if ".proj." in name or (scale == "weight" and name.startswith("head")):
            nn.init.zeros_(parameter)
    before = [parameter.clone() for parameter in model.parameters()]
    assert find_explained_layer(model, x, kind="grad_cam") == wanted
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


timm_models = [
    ("vit_tiny_patch16_224", 64, {}, "blocks.1.norm1"),
    ("vit_tiny_patch16_224", 64, {"reg_tokens": 4}, "blocks.1.norm1"),
    ("vit_tiny_patch16_224", 64, {"class_token": False, "global_pool": "avg"}, "norm"),
    ("convnext_atto", 64, {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}, "norm_pre"),
]


def timm_model(name, size, options):
    timm = pytest.importorskip("timm")
    if name.startswith("vit"):
        options = {"img_size": size, "depth": 2, "embed_dim": 24, "num_heads": 3, **options}
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **options).eval()


@pytest.mark.parametrize(("name", "size", "options", "layer"), timm_models)
def test_timm_models_with_checkpoints(name, size, options, layer):
    model, x = timm_model(name, size, options), torch.randn(2, 3, size, size)
    wanted = class_maps(model, x, kind="grad_cam")
    assert find_explained_layer(model, x, kind="grad_cam").source.name == layer
    model.set_grad_checkpointing(True)
    assert find_explained_layer(model, x, kind="grad_cam").source.name == layer
    assert torch.equal(class_maps(model, x, kind="grad_cam"), wanted)
    objective = Introspective(model.train(), kind="grad_cam", form="mixed")
    objective(x, torch.tensor([0, 1]))["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 4},
        {"reg_tokens": 8},  # as many tokens as 5 x 5 patches
        {"global_pool": "avg"},
        {"class_token": False, "global_pool": "avg"},
        {"qk_norm": True},
    ],
)
def test_tokens_without_a_grid_are_refused_as_if_they_were_named(options):
    """70 pixels are 4.4 patches of 16: what attention heads compute must not be taken instead."""
    model, x = timm_model("vit_tiny_patch16_224", 70, options), torch.randn(2, 3, 70, 70)
    said = (
        "which has no spatial positions; pass a layer .* a grid that fits images of 70 x 70 pixels"
    )
    for layer in (None, "blocks.1", "blocks.1.attn.qkv"):
        with pytest.raises(InputError, match=said):
            class_maps(model, x, kind="grad_cam", layer=layer)
    with pytest.raises(InputError, match=said):
        Introspective(model, kind="grad_cam", form="mixed")(x, torch.tensor([0, 1]))
    assert explainable_layers(model, x, "grad_cam") == ("patch_embed.proj",)


@pytest.mark.parametrize("inner", ["blocks.1.attn.q_norm", "blocks.1.attn.k_norm"])
def test_what_attention_heads_compute_cannot_be_named(inner):
    for size in (64, 70):
        model = timm_model("vit_tiny_patch16_224", size, {"qk_norm": True})
        with pytest.raises(InputError, match=r"\(2, 3, 17, 8\), which has no spatial positions"):
            class_maps(model, torch.randn(2, 3, size, size), kind="grad_cam", layer=inner)


def test_the_query_of_an_attention_pool_is_no_feature_map():
    """Queries (B, heads, 1, D / heads) of one latent."""

    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.kv, self.q_norm = nn.Linear(12, 12), nn.Linear(12, 24), nn.LayerNorm(4)

        def forward(self, t):
            k, v = self.kv(t).unflatten(2, (2, 3, 4)).permute(2, 0, 3, 1, 4)
            q = self.q(t.mean(1, keepdim=True)).unflatten(2, (3, 4)).transpose(1, 2)
            return ((self.q_norm(q) @ k.transpose(2, 3)).softmax(-1) @ v).flatten(1)

    tokens = nn.Sequential(nn.Conv2d(3, 12, 4, 4), nn.Flatten(2), nn.Module())
    tokens[2].forward = lambda h: h.transpose(1, 2)
    model = nn.Sequential(tokens, Pool(), nn.Linear(12, 5))
    found = find_explained_layer(model, torch.randn(2, 3, 16, 16), kind="grad_cam")
    assert found.layout.grid is not None
    assert (found.layout.grid.height, found.layout.grid.width) == (4, 4)
    with pytest.raises(InputError, match=r"'1\.q_norm' returns .* which has no spatial positions"):
        class_maps(model, torch.randn(2, 3, 16, 16), kind="grad_cam", layer="1.q_norm")


def test_layers_with_features_last_are_read_so():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mix = nn.Conv2d(3, 40, 3, 2, 1), nn.Linear(40, 40)
            self.head = nn.Linear(40 * 36, 5)

        def forward(self, x):
            return self.head(self.mix(self.stem(x).permute(0, 2, 3, 1)).flatten(1))

    model = Last().eval()
    layer = find_explained_layer(model, X, kind="feature_x_gradient")
    assert (layer.source.name, layer.layout.axes) == ("mix", "BHWC")
    a = model.mix(model.stem(X).permute(0, 2, 3, 1))
    w = model.head.weight.view(5, 6, 6, 40)
    wanted = torch.einsum("khwf,bhwf->bkhw", w, a).detach()
    torch.testing.assert_close(class_maps(model, X, kind="feature_x_gradient"), wanted)
