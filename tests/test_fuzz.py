"""Texts and files of strangers, at random: used, or refused in a sentence; nothing else happens."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from selfexplain.errors import InputError
from selfexplain.experiments.nas_study_options import NASStudyConfig, search_of
from selfexplain.experiments.objectives import OBJECTIVES, build_objective, resolve
from selfexplain.experiments.options import DataOptions
from selfexplain.files import read_json, read_tensors
from selfexplain.models.build import SmallCNN
from selfexplain.objectives import ObjectiveContext
from selfexplain.objectives.options import ObjectiveOptions
from selfexplain.spaces.genotype_io import from_string, to_string
from selfexplain.training.checkpoint import load_checkpoint
from selfexplain.training.log import EpochLog

DARTS = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), "
    "('max_pool_3x3', 1), ('dil_conv_5x5', 2), ('sep_conv_3x3', 0), ('skip_connect', 0), "
    "('avg_pool_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
NASBENCH201 = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
ODD = [
    "",
    "\0",
    "\n",
    "\ud800",
    "é",
    "\u0661",
    "9" * 400,
    "-1",
    "1e999",
    "nan",
    "(",
    "[" * 99,
    "__",
    "%s",
]
"""What a text may meet: no character, no number, too large a one, an open bracket."""


def changed(text: str, rng: random.Random) -> str:
    """The text with a few places cut, doubled, swapped or replaced."""
    for _ in range(rng.randint(1, 4)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        b = min(b, a + 12)
        part = rng.choice(["", text[a:b] * 2, text[a:b][::-1], rng.choice(text or "x"), *ODD])
        text = text[:a] + part + text[b:]
    return text


def tried(use: Callable[[], object]) -> bool:
    """Whether the input was used; refused it is in one line, and anything else raises."""
    try:
        use()
    except InputError as error:
        said = str(error)
    else:
        return True
    assert said
    assert "\n" not in said
    return False


@pytest.mark.parametrize("whole", [DARTS, NASBENCH201], ids=["darts", "nasbench201"])
def test_genotypes(whole: str) -> None:
    rng = random.Random(0)
    assert tried(lambda: from_string(whole))
    texts = [changed(whole, rng) for _ in range(400)]
    # What is read is written again as what reads the same.
    used = [tried(lambda t=t: from_string(to_string(from_string(t)))) for t in texts]
    assert used.count(False) > 200
    assert any(used)


def test_objectives() -> None:
    rng, options = random.Random(0), ObjectiveOptions()
    specs = [
        *OBJECTIVES,
        "introspective:form=mixed,shape=softmax,mass=own,mass_value=0.5,every=3",
        "cutmix:probability=0.5+mixup:alpha=0.3+confidence_penalty",
        "dml:networks=3,weight=0.5",
        "byot:layers=halve/block2.0,alpha=0.5,hint_weight=0.01",
    ]
    context = ObjectiveContext(
        num_classes=3,
        image_shape=(1, 8, 8),
        num_images=10,
        make_model=lambda: SmallCNN(3, 1, width=2),
        teacher=SmallCNN(3, 1, width=2),
    )

    def use(spec: str) -> None:
        resolve(spec, options)
        if spec.count("9") < 5:  # what is asked for is made: not millions of networks
            build_objective(spec, SmallCNN(3, 1, width=2), options, context)

    used = [tried(lambda: use(changed(rng.choice(specs), rng))) for _ in range(400)]
    assert used.count(False) > 200
    assert any(used)


def test_search_methods() -> None:
    rng = random.Random(0)
    specs = [
        "lease:coupling=normalised,share=1,momentum=0.5",
        "darts1:base=beta_darts,beta_weight=3",
        "random_search:lr=0.1",
        "darts2:mode=inner_product,stop_at_skips=2,warmup_epochs=3",
    ]
    study = NASStudyConfig(data=DataOptions(data="digits"), methods=("random",), table="t")

    def use(spec: str) -> None:
        search_of(study, spec, budget=50, seed=0)

    assert all(tried(lambda spec=spec: use(spec)) for spec in specs)
    used = [tried(lambda: use(changed(rng.choice(specs), rng))) for _ in range(200)]
    assert used.count(False) > 100


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The bytes with some cut off, or a few of them others."""
    if rng.random() < 0.2:
        return content[: rng.randrange(len(content))]
    spoilt = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
    return bytes(spoilt)


def checkpoint() -> bytes:
    file = io.BytesIO()
    torch.save({"identity": "a", "epochs_done": 2, "model": {"w": torch.arange(6.0)}}, file)
    return file.getvalue()


def log() -> bytes:
    lines = [{"epoch": epoch, "loss": 0.5, "name": "a\u2028b"} for epoch in (1, 2, 3)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


FILES: dict[str, tuple[Callable[[], bytes], Callable[[Path], object]]] = {
    "checkpoint.pt": (checkpoint, load_checkpoint),
    "model.safetensors": (lambda: save({"w": torch.arange(6.0)}), read_tensors),
    "run.json": (lambda: b'{"config": {"lr": 0.5, "names": ["a", null]}}', read_json),
    "metrics.jsonl": (log, lambda path: EpochLog(path.parent).read()),
}


@pytest.mark.parametrize("name", FILES)
def test_bytes_of_files(name: str, tmp_path: Path) -> None:
    make, read = FILES[name]
    rng, whole, path = random.Random(0), make(), tmp_path / name
    path.write_bytes(whole)
    assert tried(lambda: read(path))
    refused = 0
    for _ in range(300):
        path.write_bytes(damaged(whole, rng))
        refused += not tried(lambda: read(path))
    assert refused > 50
