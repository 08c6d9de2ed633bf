"""A frozen model stays what it was, whatever is done with the objective that holds it."""

import torch
from torch import nn

from selfexplain.models import build_model
from selfexplain.objectives.shared.teacher import FrozenTeacher

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(2, 2)
        self.teacher = FrozenTeacher(build_model("small_cnn", num_classes=3, in_channels=1))


def test_training_mode_passes_it_by() -> None:
    holder = Holder().train()
    assert holder.student.training
    assert not any(module.training for module in holder.teacher.modules())
    before = {name: t.clone() for name, t in holder.teacher.state_dict().items()}
    holder.teacher(X)
    for name, value in holder.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_its_logits_are_the_models_and_carry_no_graph() -> None:
    model = build_model("small_cnn", num_classes=3, in_channels=1)
    logits_BK = FrozenTeacher(model)(X.clone().requires_grad_())
    assert not logits_BK.requires_grad
    torch.testing.assert_close(logits_BK, model.eval()(X))
    assert not any(parameter.requires_grad for parameter in model.parameters())
