"""The contract that every objective keeps, whichever it is."""

import copy
import functools
import io

import pytest
import torch
from torch import Tensor, nn

from selfexplain.errors import InputError
from selfexplain.experiments.objectives import OBJECTIVES, build_objective
from selfexplain.models.build import SmallCNN
from selfexplain.objectives import Choice, Mixing, Objective, ObjectiveContext, WithAuxiliaryHead
from selfexplain.objectives.options import ObjectiveOptions

pytestmark = pytest.mark.slow

CLASSES, WIDTH = 5, 16
SPECS = [
    *OBJECTIVES,
    "tf_kd:teacher=self,alpha=0.3",  # the teacher here is untrained: less of it
    "introspective:form=mixed,shape=softmax,similarity=cosine,mass=own,mass_value=0.5",
    "introspective:form=ce_kl,aggregation=class,temperature=2.0,uniform_share=0.2",
    "introspective:control=permuted",
    "own_mass",
    "own_mass:kappa=0",
    "own_mass:control=permuted",
    "own_mass:guard=true,rho=0.5",
    "own_mass:rho=0",
    "own_mass:aggregation=class",
    "own_mass:kappa=learned",
    "own_mass:mass_from=average,mirror=false",
    "introspective:similarity=votes,centre=true",
    "introspective:control=uniform",
    "introspective:control=logits",
    "introspective:control=weights",
    "introspective:kind=grad_cam,layer=block2,similarity=distance",
    "introspective:aggregation=class,map_interval=3,ramp_steps=4",
    "cgc:layer=block2",
    "icasc:layer=block2,inner_layer=block1",
    "auxiliary+icasc",
    "lsx:weight=20",
    "distil_part:part=permuted",
    "distil_part:part=class_mean",
    "distil_part:part=similarity",
    "auxiliary+standard",
    "auxiliary+introspective",
    "auxiliary+introspective:kind=grad_cam,layer=block2,similarity=distance",
    "auxiliary+introspective:aggregation=class,map_interval=3,ramp_steps=4",
    "dml:networks=3,weight=0.5",
    "auxiliary+dml",
    "byot:layers=halve/block2.0,alpha=0.5,hint_weight=0.01",
    "auxiliary+byot",
    "dense_places:control=shuffled",
    "dense_places:layers=halve/block2.0,weight=2,temperature=1",
    "mixup+byot",
    "mixup+standard",
    "mixup+dml",
    "cutmix+label_smoothing",
    "cutmix:labels=explanation+standard",
    "cutmix:probability=0.5+mixup:alpha=0.3+confidence_penalty",
]

TWO_FORWARDS = {
    # A masked copy of the images, or another view of them, takes a training forward of its own.
    "saliency_guided",
    "cgc",
}
LAST_BATCH_AGAIN = {
    # By its nature: the last step's images go through the model again, after this step's.
    "dlb",
}


class TwoHeaded(SmallCNN):
    """A small CNN with a second head on its second block, which runs in training alone."""

    def __init__(self) -> None:
        super().__init__(CLASSES, in_channels=1, width=WIDTH)
        self.auxiliary = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * WIDTH, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.block2(self.halve(self.block1(x)))
        if self.training:
            self.auxiliary(h)
        return self.head(self.pool(self.block3(self.halve(h))).flatten(1))


def make_model() -> nn.Module:
    return SmallCNN(CLASSES, in_channels=1, width=WIDTH)


@functools.cache
def make_teacher() -> nn.Module:
    """A teacher that knows the first batch; one that knows nothing would hold its student back."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        teacher = make_model()
        optimizer = torch.optim.SGD(teacher.parameters(), lr=0.05)
        for _ in range(40):
            x, y = batch()
            optimizer.zero_grad()
            nn.functional.cross_entropy(teacher(x), y).backward()
            optimizer.step()
    return teacher


def build(spec: str, model: nn.Module) -> Objective:
    context = ObjectiveContext(
        num_classes=CLASSES,
        image_shape=(1, 8, 8),
        num_images=40,
        make_model=make_model,
        teacher=copy.deepcopy(make_teacher()),
    )
    return build_objective(spec, model, ObjectiveOptions(), context)


def make(spec: str) -> Objective:
    """The objective of a spec; `auxiliary+SPEC` for one beside an auxiliary head.

    It stands in the second of four epochs, in which objectives that look back have something to
    look back at.
    """
    torch.manual_seed(0)
    if spec.startswith("auxiliary+"):
        objective: Objective = WithAuxiliaryHead(
            build(spec.removeprefix("auxiliary+"), TwoHeaded())
        )
    else:
        objective = build(spec, make_model())
    for epoch in range(2):
        objective.begin_epoch(epoch, 4)
    return objective


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 1, 8, 8, generator=generator)
    return x, torch.randint(0, CLASSES, (8,), generator=generator)


def arguments(objective: Objective, seed: int = 0) -> tuple[Tensor, ...]:
    """What a training loop calls the objective with; images 0 to 39 in turn, 8 a batch."""
    index = torch.arange(8) + 8 * (seed % 5)
    return (*batch(seed), index) if objective.wants_indices else batch(seed)


def steps(objective: Objective, count: int, first: int = 0) -> list[float]:
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05)
    losses = []
    for i in range(first, first + count):
        out = objective(*arguments(objective, i))
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        losses.append(out["loss"].item())
    return losses


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> str:
    return request.param


def test_gives_a_scalar_loss_and_the_models_logits(spec: str) -> None:
    objective = make(spec).eval()
    x, *rest = arguments(objective)
    out = objective(x, *rest)
    assert out["loss"].ndim == 0
    assert out["loss"].isfinite()
    torch.testing.assert_close(out["output"], objective.model(x))
    for name in out.keys() - {"loss", "output"}:
        assert out[name].ndim == 0
        assert not out[name].requires_grad


def test_every_parameter_gets_a_gradient(spec: str) -> None:
    objective = make(spec)
    objective(*arguments(objective))["loss"].backward()
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:  # a teacher's
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_training_lowers_the_loss_of_one_batch(spec: str) -> None:
    objective = make(spec)
    x, y, *rest = arguments(objective)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05)
    before = nn.functional.cross_entropy(objective.model(x), y).item()
    for _ in range(30):
        optimizer.zero_grad()
        objective(x, y, *rest)["loss"].backward()
        optimizer.step()
    after = nn.functional.cross_entropy(objective.model(x), y).item()
    assert after < 0.5 * before


def test_state_dict_continues_the_same_training(spec: str) -> None:
    unbroken, other = make(spec), make(spec)
    all_losses = steps(unbroken, 10)
    steps(other, 5)
    file = io.BytesIO()
    torch.save(other.state_dict(), file)
    file.seek(0)
    fresh = make(spec)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert steps(fresh, 5, first=5) == all_losses[5:]


def test_forward_leaves_no_hooks_gradients_or_modes_behind(spec: str) -> None:
    objective = make(spec)
    objective.model.get_submodule("block2").eval()
    modes = [m.training for m in objective.modules()]
    rng = torch.get_rng_state()
    objective(*arguments(objective))
    assert [m.training for m in objective.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None for p in objective.parameters())
    for module in objective.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_batch_norm_sees_each_batch_once(spec: str) -> None:
    if spec.partition(":")[0] in TWO_FORWARDS:
        pytest.skip("two forwards a step; tested below")
    if spec in LAST_BATCH_AGAIN:
        pytest.skip("the last batch passes once more; tested with that objective")
    objective, plain = make(spec), make("standard")
    given: list[Tensor] = []
    objective.model.register_forward_pre_hook(lambda _model, inputs: given.append(inputs[0]))
    for i in range(3):
        objective(*arguments(objective, i))
        x, y = batch(i)
        # Partners make other images of a batch; it must be these that are seen once.
        plain(given[-1] if isinstance(objective, Mixing) else x, y)
    ours, theirs = dict(objective.model.named_buffers()), dict(plain.model.named_buffers())
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("name", sorted(TWO_FORWARDS))
def test_batch_norm_sees_the_batch_and_its_other_view(name: str) -> None:
    objective = make(name)
    x, *rest = arguments(objective)
    seen: list[Tensor] = []
    first = objective.model.get_submodule("block1")
    first.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    objective(x, *rest)
    plain = make("standard")
    for images in seen[-2:]:
        plain.model(images)
    assert torch.equal(seen[-2], x)
    ours, theirs = dict(objective.model.named_buffers()), dict(plain.model.named_buffers())
    for key in theirs:
        assert torch.equal(ours[key], theirs[key]), key


def test_works_without_gradients_and_then_learns_nothing(spec: str) -> None:
    objective = make(spec).eval()
    before = copy.deepcopy(objective.state_dict())
    with torch.no_grad():
        out = objective(*arguments(objective))
    assert not out["loss"].requires_grad
    assert not out["output"].requires_grad
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_label_out_of_range_is_named(spec: str) -> None:
    objective = make(spec)
    x, y, *rest = arguments(objective)
    with pytest.raises(InputError, match="label 7 is outside the model's 5 classes"):
        objective(x, y.index_fill(0, torch.tensor([2]), 7), *rest)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_labels_of_another_type_are_refused(spec: str, dtype: torch.dtype) -> None:
    """Of all types that cross_entropy or indexing knows, one means class indices to both."""
    objective = make(spec)
    x, y, *rest = arguments(objective)
    with pytest.raises(InputError, match=r"labels are torch\.\w+; pass class indices"):
        objective(x, y.to(dtype), *rest)


def test_soft_labels_are_taken_or_refused_as_declared(spec: str) -> None:
    objective = make(spec)
    x, y, *rest = arguments(objective)
    soft = nn.functional.one_hot(y, CLASSES).float()
    if not objective.takes_soft_labels:
        with pytest.raises(InputError, match="labels"):
            objective(x, soft, *rest)
        return
    torch.testing.assert_close(objective(x, soft, *rest)["loss"], make(spec)(x, y, *rest)["loss"])
    with pytest.raises(InputError, match="soft labels"):
        objective(x, soft[:, 1:], *rest)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_can_be_tuned_is_an_option_and_both_ends_are_accepted(name: str) -> None:
    for option, values in OBJECTIVES[name].tunable.items():
        ends = values.values if isinstance(values, Choice) else (values.low, values.high)
        for end in ends:
            make(f"{name}:{option}={str(end).lower() if isinstance(end, bool) else end}")


class Pyramid(nn.Module):
    """Returns a tuple, as some detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.convolution(x)
        return h.mean((2, 3)), h


@pytest.mark.parametrize("name", OBJECTIVES)
def test_model_without_logits_is_refused(name: str) -> None:
    def first_step(model: nn.Module) -> None:
        objective = build(name, model)
        objective(*arguments(objective))

    for model in (Pyramid(), nn.Conv2d(1, 3, 3)):
        with pytest.raises(InputError, match="logits"):
            first_step(model)


def test_bad_options_are_named() -> None:
    for spec, message in {
        "label_smoothing:smoothing=2": "label_smoothing: smoothing is 2; pass a number from 0 to 1",
        "cs_kd:temperature=inf": "cs_kd: temperature is inf; pass a finite number of at least 0.01",
        "cs_kd:weight=nan": "cs_kd: weight is nan; pass a finite number of at least 0",
        "zipf:exponent=-1": "zipf: exponent is -1; pass a number of at least 0",
        "zipf:exponent=inf": "zipf: exponent is inf; pass a finite number of at least 0",
        "zipf:exponent=nan": "zipf: exponent is nan",
        "introspective:exponent=-1": "introspective: exponent is -1",
        "introspective:exponent=nan": "introspective: exponent is nan; pass a finite number",
        "mixup:alpha=0+standard": "mixup: alpha is 0; pass a number above 0",
        "mixup+kd:alpha=2": "kd: alpha is 2; pass a number from 0 to 1",
        "confidence_penalty:beta=-1": "beta is -1; pass a number of at least 0",
        "introspective:weigth=0.1": "pass weight",
        "introspective:weight=high": "pass a number",
        "introspective:centre=yes": "pass true or false",
        "introspective:tau=0": "tau is 0",
        "introspective:map_interval=0": "map_interval is 0",
        "introspective:form=sum": "form is 'sum'; pass one of mixed, ce_kl, non_true",
        "kd:alpha=2": "alpha is 2; pass a number from 0 to 1",
        "kd:temperature=0": "temperature is 0",
        "dkd:beta=-1": "beta is -1",
        "dkd:warmup=2": "warmup is 2",
        "born_again:generations=0": "generations is 0; pass a whole number from 1 to 100",
        "distil_part:part=half": "part is 'half'; pass one of full, true_only",
        "distil_part:confidence=2": "confidence is 2",
        "born_again:generations=two": "pass a whole number",
        "standard:weight=1": "no options",
        "byot:layers=blok2": "layer 'blok2' is not in the model; pass a name",
        "byot:temperature=0": "temperature is 0; pass a number above 0",
        "dml:networks=1": "networks is 1; pass a whole number from 2 to 100",
        "label_smooting": "pass label_smoothing",
    }.items():
        with pytest.raises(InputError) as raised:
            make(spec)
        assert message in str(raised.value)


def test_whose_option_it_is_is_said_once() -> None:
    for spec, message in {
        "kd:alpha=high": "alpha of kd is 'high'; pass a number",
        "tf_kd:alpha=2": "tf_kd: alpha is 2; pass a number from 0 to 1",
    }.items():
        with pytest.raises(InputError) as raised:
            make(spec)
        assert str(raised.value) == message


def test_zipf_without_an_exponent_is_uniform() -> None:
    assert make("zipf:exponent=0").exponent == 0
