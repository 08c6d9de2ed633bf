"""What a head is gets checked on the pass that is explained: right, or refused from the start."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.explanations_nets import ViT, residual_net
from tests.oracles.explanations import reference_class_maps
from torch import nn
from torch.nn.utils import parametrizations

from selfexplain.errors import InputError
from selfexplain.explanations import (
    KINDS,
    capture,
    class_maps,
    find_explained_layer,
    layers,
    maps,
    maps_of_forward,
)
from selfexplain.introspection import Introspective
from selfexplain.objectives import ContrastiveGradCam, Objective, ZipfLabelSmoothing

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
WIDTH, CLASSES = 8, 5
Y = torch.tensor([0, 1, 2, 3])


class Net(nn.Module):
    """A feature map, and a tail that makes logits of it with further modules and parameters."""

    def __init__(self, tail, **own):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU()
        )
        self.tail, self.switch = tail, 1.0
        self.fc = own.pop("fc", None) or nn.Linear(WIDTH, CLASSES)
        for name, value in own.items():
            setattr(self, name, value)

    def rest(self, h):
        return self.tail(self, h)

    def forward(self, x):
        return self.rest(self.features(x))


class LoRA(nn.Module):
    """A low-rank update beside a linear layer, zero at first."""

    def __init__(self):
        super().__init__()
        self.base, self.down = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, 2, bias=False)
        self.up = zero(nn.Linear(2, CLASSES, bias=False))

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class LoRALinear(nn.Linear):
    """The same in a subclass of ``nn.Linear``."""

    def __init__(self):
        super().__init__(WIDTH, CLASSES)
        self.down, self.up = (
            nn.Parameter(torch.randn(2, WIDTH)),
            nn.Parameter(torch.zeros(CLASSES, 2)),
        )

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T


class GeM(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))

    def forward(self, h):
        return h.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)


class Cosine(nn.Linear):
    def forward(self, x):
        return F.linear(F.normalize(x), F.normalize(self.weight))


def mean(h):
    return h.mean((2, 3))


def zero(module):
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def head():
    return nn.Linear(WIDTH, CLASSES)


def ones(*size):
    return nn.Parameter(torch.ones(*size))


def plain(m, h):
    return m.fc(mean(h))


RIGHT = {
    "plain": lambda: Net(plain),
    "without bias": lambda: Net(plain, fc=nn.Linear(WIDTH, CLASSES, bias=False)),
    "in a wrapper": lambda: Net(plain, fc=nn.Sequential(nn.Sequential(head()))),
    "frozen": lambda: Net(plain, fc=head().requires_grad_(False)),
    "old weight norm": lambda: Net(plain, fc=nn.utils.weight_norm(head())),
    "old spectral norm": lambda: Net(plain, fc=nn.utils.spectral_norm(head())),
    "weight norm": lambda: Net(plain, fc=parametrizations.weight_norm(head())),
    "spectral norm": lambda: Net(plain, fc=parametrizations.spectral_norm(head())),
    "orthogonal": lambda: Net(plain, fc=parametrizations.orthogonal(head())),
    "dropout": lambda: Net(lambda m, h: m.fc(m.drop(mean(h))), drop=nn.Dropout(0.3)),
    "dropout in training alone": lambda: Net(
        lambda m, h: m.fc(F.dropout(mean(h), 0.3) if m.training else mean(h))
    ),
    "dropout of maps": lambda: Net(lambda m, h: m.fc(mean(m.drop(h))), drop=nn.Dropout2d(0.3)),
    "several dropouts": lambda: Net(
        lambda m, h: sum(m.fc(m.drop(mean(h))) for _ in range(3)) / 3, drop=nn.Dropout(0.3)
    ),
    "noise in training": lambda: Net(
        lambda m, h: m.fc(mean(h) + (torch.randn(len(h), WIDTH).to(h) if m.training else 0))
    ),
    "called for an auxiliary output": lambda: Net(lambda m, h: (plain(m, h), plain(m, h * 2))[0]),
}
NECK = r"head 'fc' is not the spatial mean of a feature map \(it is what 'neck' returns\)"
NOT_MEAN = "head 'fc' is not the spatial mean of a feature map;"
NO_LINEAR = "no nn.Linear returns the logits"
WRONG = {
    "BNNeck": (lambda: Net(lambda m, h: m.fc(m.neck(mean(h))), neck=nn.BatchNorm1d(WIDTH)), NECK),
    "BNNeck of maps": (
        lambda: Net(
            lambda m, h: m.fc(m.neck(F.adaptive_avg_pool2d(h, 1)).flatten(1)),
            neck=nn.BatchNorm2d(WIDTH, affine=False),
        ),
        NOT_MEAN,
    ),
    "LayerNorm": (lambda: Net(lambda m, h: m.fc(m.neck(mean(h))), neck=nn.LayerNorm(WIDTH)), NECK),
    "LoRA": (lambda: Net(plain, fc=LoRA()), NO_LINEAR),
    "LoRA in the layer": (lambda: Net(plain, fc=LoRALinear()), NO_LINEAR),
    "scale of ones": (lambda: Net(lambda m, h: m.fc(mean(h) * m.scale), scale=ones(1)), NOT_MEAN),
    "scaled logits": (lambda: Net(lambda m, h: plain(m, h) * m.scale, scale=ones(())), NO_LINEAR),
    "gate": (
        lambda: Net(
            lambda m, h: m.fc(mean(h) + m.gate * m.branch(mean(h))),
            gate=nn.Parameter(torch.zeros(1)),
            branch=nn.Linear(WIDTH, WIDTH),
        ),
        NOT_MEAN,
    ),
    "branch of zeros": (
        lambda: Net(
            lambda m, h: m.fc(mean(h) + m.branch(mean(h))), branch=zero(nn.Linear(WIDTH, WIDTH))
        ),
        NOT_MEAN,
    ),
    "cosine": (lambda: Net(plain, fc=Cosine(WIDTH, CLASSES)), NO_LINEAR),
    "normalised": (lambda: Net(lambda m, h: m.fc(F.normalize(mean(h)))), NOT_MEAN),
    "temperature": (lambda: Net(lambda m, h: plain(m, h) / 2), NO_LINEAR),
    "soft cap": (lambda: Net(lambda m, h: 30 * torch.tanh(plain(m, h) / 30)), NO_LINEAR),
    "log-probabilities": (lambda: Net(lambda m, h: plain(m, h).log_softmax(1)), NO_LINEAR),
    "fewer classes": (lambda: Net(lambda m, h: plain(m, h)[:, :4]), NO_LINEAR),
    "maximum": (lambda: Net(lambda m, h: m.fc(h.amax((2, 3)))), NOT_MEAN),
    "GeM that begins as a mean": (lambda: Net(lambda m, h: m.fc(m.neck(h)), neck=GeM(1.0)), NECK),
    "sum of two": (lambda: Net(lambda m, h: plain(m, h) + m.fc(h.amax((2, 3)))), NO_LINEAR),
    "in halves": (
        lambda: Net(lambda m, h: torch.cat([plain(m, part) for part in h.chunk(2)])),
        "given 1 of 2 images: pass the model without the wrapper",
    ),
    "by function": (
        lambda: Net(lambda m, h: F.linear(mean(h), m.fc.weight, m.fc.bias)),
        NO_LINEAR,
    ),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(seed=0, size=12, dtype=torch.float32):
    return torch.randn(4, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def walk(objective: Objective, steps=3, **options):
    """A few training steps, large enough to move what starts as the identity."""
    objective.train()
    learnt = [p for p in objective.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(learnt, lr=0.5)
    losses = []
    for step in range(steps):
        loss = objective(images(step, **options), Y.clamp(max=3))["loss"]
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    return losses


def oracle(net, x, kind):
    """CAM is Grad-CAM times the number of positions where the head is linear on the mean."""
    maps = reference_class_maps(net.features, net.rest, x, kind="grad_cam")
    return maps * maps.shape[2:].numel() if kind == "cam" else maps


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("make", [Introspective, ZipfLabelSmoothing])
def test_right_heads_are_right_before_and_after_training(name, make):
    objective = make(RIGHT[name]())
    for _ in range(2):
        net = copy.deepcopy(objective.model) if "old" not in name else objective.model
        net.eval()
        for kind in ("cam", "grad_cam"):
            close(class_maps(net, images(9), kind=kind), oracle(net, images(9), kind))
        walk(objective)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_heads_are_refused_at_the_first_batch_and_later_in_the_same_words(name):
    make, said = WRONG[name]
    with pytest.raises(InputError, match=said) as first:
        class_maps(make(), images())
    for objective in (Introspective, ZipfLabelSmoothing):
        with pytest.raises(InputError, match=said):
            objective(make())(images(), Y)
    trained = Introspective(make(), kind="grad_cam", form="mixed")
    if name != "in halves":
        walk(trained)
    with pytest.raises(InputError, match=said) as later:
        class_maps(trained.model, images())
    assert str(later.value) == str(first.value)


@pytest.mark.parametrize("name", [name for name in WRONG if name != "in halves"])
def test_wrong_heads_are_explained_by_their_gradients(name):
    objective = Introspective(WRONG[name][0](), kind="grad_cam", form="mixed")
    walk(objective)
    net = objective.model.eval()
    close(class_maps(net, images(9), kind="grad_cam"), oracle(net, images(9), "grad_cam"))


DRIFTS = {
    "temperature": lambda m, h: plain(m, h) / m.switch,
    "scale": lambda m, h: m.fc(mean(h) * m.switch),
    "shift": lambda m, h: plain(m, h) + (m.switch - 1),
    "pool": lambda m, h: m.fc(mean(h) * (2 - m.switch) + h.amax((2, 3)) * (m.switch - 1)),
}


@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize("make", [Introspective, ZipfLabelSmoothing])
def test_a_head_that_drifts_is_refused_in_that_very_step(drift, make):
    objective = make(Net(DRIFTS[drift]))
    walk(objective)
    objective.model.switch = 1.5
    with pytest.raises(InputError, match=f"{NO_LINEAR}|not the spatial mean of a feature map"):
        objective(images(), Y)


@pytest.mark.parametrize("drift", DRIFTS)
def test_grad_cam_of_a_head_that_drifts_goes_on_with_gradients(drift):
    net = Net(DRIFTS[drift]).eval()
    close(class_maps(net, images(), kind="grad_cam"), oracle(net, images(), "grad_cam"))
    net.switch = 1.5
    close(class_maps(net, images(), kind="grad_cam"), oracle(net, images(), "grad_cam"))
    with pytest.raises(InputError, match="kind 'cam'"):
        class_maps(net, images())
    objective = ContrastiveGradCam(net)
    net.switch = 1.0
    walk(objective, steps=1)
    net.switch = 1.5
    walk(objective, steps=1)


@pytest.mark.parametrize("drift", DRIFTS)
def test_maps_of_a_captured_forward_are_refused_if_the_head_is_another_now(drift):
    net = Net(DRIFTS[drift]).eval()
    layer = find_explained_layer(net, images())
    net.switch = 1.5
    with capture(net, layer) as seen:
        logits = net(images())
    with pytest.raises(InputError, match="not what the head 'fc' returns for the spatial mean"):
        maps_of_forward(seen, logits)


TRAINED = {
    "auxiliary output": lambda: Net(
        lambda m, h: plain(m, h) + (0.3 * m.aux(mean(h)) if m.training else 0), aux=head()
    ),
    "auxiliary output and dropout": lambda: Net(
        lambda m, h: plain(m, m.drop(h)) + (0.3 * m.aux(mean(h)) if m.training else 0),
        aux=head(),
        drop=nn.Dropout(0.2),
    ),
    "another head": lambda: Net(lambda m, h: (m.aux if m.training else m.fc)(mean(h)), aux=head()),
    "temperature": lambda: Net(lambda m, h: plain(m, h) / (2 if m.training else 1)),
    "another pool": lambda: Net(lambda m, h: m.fc(h.amax((2, 3)) if m.training else mean(h))),
    "a branch before the head": lambda: Net(
        lambda m, h: m.fc(mean(h) + (m.aux(mean(h)) if m.training else 0)),
        aux=nn.Linear(WIDTH, WIDTH),
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_what_a_model_does_in_training_alone_is_told_from_noise(name):
    net = TRAINED[name]()
    close(class_maps(net.eval(), images()), oracle(net, images(), "cam"))
    with pytest.raises(InputError, match="in eval mode only, not in training mode"):
        class_maps(net.train(), images())
    with pytest.raises(InputError, match="in eval mode only, not in training mode"):
        Introspective(net)(images(), Y)
    walk(ContrastiveGradCam(net), steps=1)
    net.features.eval()  # the oracle takes one image at a time
    if "dropout" not in name:
        close(class_maps(net, images(), kind="grad_cam"), oracle(net, images(), "grad_cam"))


def test_a_forward_that_skips_the_explained_layer_is_called_that():
    """Stochastic depth that leaves a block out."""
    net = Net(plain)
    net.features.append(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1)))
    net.rest = lambda h: plain(net, h if net.training else net.features[3](h))
    net.forward = lambda x: net.rest(net.features[:3](x))
    for kind in ("cam", "grad_cam"):
        assert len(class_maps(net.eval(), images(), kind=kind)) == len(Y)
        with pytest.raises(
            InputError, match=r"skipped the explained layer 'features\.3.*always runs"
        ):
            class_maps(net.train(), images(), kind=kind)


def test_a_pooled_map_that_moves_is_found_anew():
    """The map that is pooled is the earlier one at first, then the later one."""
    net = Net(lambda m, h: plain(m, m.more(h) if m.switch > 1 else h), more=nn.Conv2d(8, 8, 3))
    objective = Introspective(net).eval()
    for switch in (1.0, 2.0, 1.0):
        net.switch = switch
        wanted = Introspective(copy.deepcopy(net)).eval()
        for _ in range(2):
            assert objective(images(), Y)["loss"] == wanted(images(), Y)["loss"]


def test_a_map_that_equals_a_later_one_at_first_is_told_from_it():
    """A branch of zeros beside the head gives the pooled map once more, until it learns."""

    def tail(m, h):
        m.seen = m.neck(h) + h
        return plain(m, h)

    net = Net(tail, neck=zero(nn.Conv2d(WIDTH, WIDTH, 1)))
    wanted = find_explained_layer(net, images()).source
    nn.init.normal_(net.neck.weight)
    assert find_explained_layer(net, images()).source == wanted


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_other_weights_are_tried_without_a_second_search(name, monkeypatch):
    net, search, searches = RIGHT[name](), layers.traced, []

    def traced(*args):
        searches.append(args)
        return search(*args)

    monkeypatch.setattr(layers, "traced", traced)
    found = find_explained_layer(net, images())
    assert len(searches) == 1
    monkeypatch.setattr(layers, "_holds", lambda *_: False)
    assert find_explained_layer(net, images()) == found
    assert len(searches) == 3


@pytest.mark.parametrize("name", ["plain", "dropout", "several dropouts", "spectral norm"])
def test_a_head_that_holds_is_looked_for_once(name, monkeypatch):
    looked = []

    def find(*args, **options):
        looked.append(1)
        return find_explained_layer(*args, **options)

    monkeypatch.setattr(maps, "find_explained_layer", find)
    walk(Introspective(RIGHT[name]()), steps=4)
    assert len(looked) == 1


@pytest.mark.parametrize("kind", ["cam", "grad_cam"])
def test_a_batch_that_the_model_takes_in_parts_is_refused(kind):
    """Two images, which the layer is looked for with, are not parted."""
    objective = Introspective(Parts(Net(plain)), kind=kind, form="mixed")
    with pytest.raises(
        InputError, match="received in its last call 1 of 4 images; pass the model without"
    ):
        objective(images(), Y)


class Parts(nn.Module):
    """Runs a model on parts of a batch, as wrappers for little memory do."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return torch.cat([self.module(part) for part in x.split(3)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_precision_decides_nothing(dtype, autocast):
    if autocast and dtype is torch.float64:
        pytest.skip("autocast has lower precision only")
    own = torch.float32 if autocast else dtype
    context = functools.partial(torch.autocast, "cpu", dtype=dtype, enabled=autocast)
    for make in (RIGHT["plain"], RIGHT["dropout"], residual_net, lambda: ViT(read="mean")):
        with context():
            objective = Introspective(make().to(own))
            for step in range(2):
                assert objective(images(step, dtype=own), Y)["loss"].isfinite()
    for name in ("BNNeck", "LoRA", "scale of ones", "gate"):
        make, said = WRONG[name]
        with context(), pytest.raises(InputError, match=said):
            Introspective(make().to(own))(images(dtype=own), Y)


def test_float32_products_may_be_rounded_further():
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        walk(Introspective(Net(plain)))
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.spectral_norm,
        nn.utils.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.weight_norm,
    ],
)
@pytest.mark.parametrize("train", [True, False])
def test_a_head_with_a_computed_weight_is_left_as_found(norm, train):
    net = Net(plain, fc=norm(head())).train(train)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    attribute = vars(net.fc).get("weight")
    for kind in ("cam", "grad_cam", "gradient"):
        class_maps(net, images(), kind=kind)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert vars(net.fc).get("weight") is attribute
    # A step computes the weight as often as a step of plain training does.
    twin = copy.deepcopy(net) if attribute is None else None
    if twin is not None and train:
        twin(images())
        Introspective(net)(images(), Y)
        ours, theirs = dict(net.named_buffers()), dict(twin.named_buffers())
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", ["spectral norm", "weight norm"])
def test_maps_are_differentiable_in_what_a_weight_is_computed_from(name):
    net = RIGHT[name]().eval()
    class_maps(net, images(), create_graph=True).square().sum().backward()
    twin = RIGHT[name]().eval()
    twin.load_state_dict(net.state_dict())
    a = twin.features(images())
    torch.einsum("kf,bfhw->bkhw", twin.fc.weight, a).square().sum().backward()
    for ours, theirs in zip(
        net.fc.parametrizations.parameters(), twin.fc.parametrizations.parameters(), strict=True
    ):
        close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("make", "kind", "sizes"),
    [
        (residual_net, "cam", [(12, 12), (16, 16), (9, 13), (12, 20)]),
        (lambda: ViT(read="mean"), "cam", [(12, 12), (16, 16), (12, 20), (20, 12)]),
        (lambda: ViT(prefix=3), "grad_cam", [(20, 20), (24, 24), (12, 20), (20, 12), (20, 20)]),
    ],
)
def test_images_of_another_size_than_the_first(make, kind, sizes):
    net = make().eval()
    objective = Introspective(net, kind=kind, form="mixed").eval()
    for size in sizes:
        x = torch.randn(4, 3, *size)
        fresh = Introspective(net, kind=kind, form="mixed").eval()
        assert torch.equal(objective.soft_target(x, Y), fresh.soft_target(x, Y))


def test_images_of_a_size_that_cannot_be_explained_are_told_what_to_do():
    for net, small, said in (
        (residual_net(), 2, "single position: use larger images"),
        (ViT(read="mean"), 14, "not the spatial mean"),
    ):
        objective = Introspective(net.eval()).eval()
        objective(images(), Y)
        with pytest.raises(InputError, match=said):
            objective(images(size=small), Y)
    objective = Introspective(ViT(), kind="grad_cam", form="mixed")
    objective(images(), Y)
    with pytest.raises(InputError, match="a grid that fits images of 14 x 14 pixels"):
        objective(images(size=14), Y)


@pytest.mark.parametrize("kind", ["cam", "grad_cam"])
@pytest.mark.parametrize("make", [residual_net, ViT, RIGHT["plain"], WRONG["BNNeck"][0]])
def test_what_is_not_finite_is_called_that(make, kind):
    spoilt = images()
    spoilt[1, 0, 0, 0] = torch.nan
    for explain in (
        lambda net, x: class_maps(net, x, kind=kind),
        lambda net, x: Introspective(net, kind=kind, form="mixed")(x, Y),
    ):
        with pytest.raises(InputError, match=r"NaN or infinite pixels \(in image 1 of the batch"):
            explain(make(), spoilt)
        net = make()
        name, weight = list(net.named_parameters())[-2]
        with torch.no_grad():
            weight[0] = torch.inf
        with pytest.raises(
            InputError, match=f"the model's '{name}' contains NaN or infinite values"
        ):
            explain(net, images())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_called_that_after_the_layer_was_found(kind, value):
    net = residual_net()
    class_maps(net, images(), kind=kind)
    spoilt = images()
    spoilt[1, 0, 0, 0] = value
    with pytest.raises(InputError, match=r"NaN or infinite pixels \(in image 1 of the batch"):
        class_maps(net, spoilt, kind=kind)
    assert class_maps(net, images(), kind=kind).isfinite().all()
    name, weight = list(net.named_parameters())[-2]
    with torch.no_grad():
        weight[0] = value
    with pytest.raises(InputError, match=f"the model's '{name}' contains NaN or infinite values"):
        class_maps(net, images(), kind=kind)


def test_what_is_remembered_is_no_part_of_a_checkpoint():
    objective = Introspective(Net(plain))
    before = set(objective.state_dict())
    objective(images(), Y)
    assert set(objective.state_dict()) == before
    again = copy.deepcopy(objective)
    assert again(images(1), Y)["loss"] == objective(images(1), Y)["loss"]


def test_dropout_is_excused_only_where_it_is_looked_for() -> None:
    """A recorded step does not look for it until a false alarm has told of it."""
    torch.manual_seed(0)
    model, x = RIGHT["dropout"]().train(), torch.rand(64, 3, 6, 6)
    with capture(model, find_explained_layer(model, x, kind="cam")) as seen:
        logits_BK = model(x)
    broken = [
        bool(maps.disagreement(seen, logits_BK, strict=True, dropout=dropout))
        for dropout in (True, False)
    ]
    assert broken == [False, True]
