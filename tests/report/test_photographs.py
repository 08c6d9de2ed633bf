"""What the page says of a run on photographs, word for word."""

import html
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.helpers.photographs import findings_of, left_behind, record_of
from torch import Tensor

from selfexplain.errors import InputError
from selfexplain.explanations.metrics.evidence import evidence_overlap
from selfexplain.report.sections import photographs_section, plain_summary
from selfexplain.report.sections.photographs import shared, shared_by_pair

NAMES = ("cat", "dog", "emu")


def text(body: str) -> str:
    """The words of a piece of HTML."""
    words = html.unescape(re.sub(r"<[^>]*>", " ", body)).replace("\N{NO-BREAK SPACE}", " ")
    return " ".join(words.split())


def left(name: str, **changed: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
    files = left_behind(3)
    return {name: files[name] | changed}


def body_of(files: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The section on a run that left these files."""
    section = photographs_section([record_of(NAMES, files)])
    assert section is not None
    return section.body


def test_a_run_without_records_has_no_section() -> None:
    assert photographs_section([record_of(NAMES, {})]) is None


@pytest.mark.parametrize("name", ["mistakes", "confused", "mislabels", "shortcuts"])
def test_each_part_stands_alone(name: str) -> None:
    section = photographs_section([record_of(NAMES, left(name))])
    assert section is not None
    assert section.body.count("<h3>") == 1
    assert section.body.count('type="range"') == 1


def test_the_first_run_that_has_records_is_told_of() -> None:
    section = photographs_section([record_of(NAMES, {}), record_of(NAMES, left("mistakes"))])
    assert section is not None
    assert "standard, seed 0." in text(section.body)


@pytest.mark.parametrize(
    ("right", "of", "photographs", "begins", "ends"),
    [
        (71, 80, True, "Of 80 photographs", "71 are classified correctly (88.8 %)."),
        (1, 3, False, "Of 3 images", "1 is classified correctly (33.3 %)."),
        (5, 5, True, "Of 5 photographs", "all are classified correctly (100.0 %)."),
        (0, 1, True, "Of 1 photograph", "0 are classified correctly (0.0 %)."),
    ],
)
def test_the_first_sentence(right: int, of: int, photographs: bool, begins: str, ends: str) -> None:
    record: Any = record_of(NAMES, {})
    logits_NK = torch.eye(3)[torch.tensor([0] * right + [1] * (of - right))]
    object.__setattr__(record.predictions, "logits_NK", logits_NK)
    object.__setattr__(record.predictions, "labels_N", torch.zeros(of, dtype=torch.int64))
    object.__setattr__(record, "photographs", photographs)
    assert plain_summary(record) == f"{begins} that it was not trained on, {ends}"


def test_mistakes_say_how_sure_and_what_is_shared() -> None:
    files = left("mistakes")
    said = text(body_of(files))
    assert "cat, taken for dog" in said
    assert "The model is 97 % sure of dog, and gives cat less than 1 %." in said
    maps = files["mistakes"]["maps"]
    for i, overlap in enumerate(evidence_overlap(maps[:, 0], maps[:, 1]).tolist()):
        assert f"overlap {overlap:.2f}." in said
        assert f"b/{i}.jpg" in said
    assert "2 more mistakes" in said


def test_both_maps_of_a_mistake_share_a_scale() -> None:
    """The weaker map is drawn paler: its strongest pixel has a lower opacity."""
    import base64
    import io

    import numpy as np
    from PIL import Image

    maps = torch.ones(8, 2, 4, 5)
    maps[:, 0] *= 0.25
    body = body_of(left("mistakes", maps=maps))
    uris = re.findall(r'src="data:image/png;base64,([^"]*)"', body)[:2]
    alphas = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))))[..., 3].max() for uri in uris
    ]
    assert alphas == [round(0.25 * 204), 204]


@pytest.mark.parametrize(
    ("overlap", "words"),
    [
        (1.0, "Both read the same place: overlap 1.00."),
        (0.5, "Both read partly the same place: overlap 0.50."),
        (0.0, "They read different places: overlap 0.00."),
    ],
)
def test_overlaps_in_words(overlap: float, words: str) -> None:
    a = torch.tensor([[1.0, 0.0]])
    b = torch.tensor([[overlap, 1 - overlap]])
    assert shared(torch.stack([a, b]), NAMES[:2]) == words


def test_classes_without_evidence_share_nothing() -> None:
    one = torch.ones(2, 2)
    assert shared(torch.stack([-one, one]), NAMES[:2]) == "Hardly anything in it speaks for cat."
    both = shared(torch.stack([-one, -one]), NAMES[:2])
    assert both == "Hardly anything in it speaks for cat or dog."


def test_pairs_say_how_often_and_what_is_shared() -> None:
    said = text(body_of(left("confused")))
    assert "Of 10 photographs of cat, 3 are taken for dog; of 10 photographs of dog, 1 for" in said
    assert "partly the same place: overlap 0.50, the mean of 2 mistakes; in 2 more, hardly" in said
    assert shared_by_pair(0.0, 0, 2).startswith("In all 2 mistakes looked at, hardly anything")
    assert shared_by_pair(0.9, 1, 1) == "Both read the same place: overlap 0.90, in one mistake."


def test_doubted_labels_are_told_with_care() -> None:
    said = text(body_of(left("mislabels")))
    assert "For 12 of 100 training photographs another class is likelier than the label" in said
    assert "the 8 most doubtful are shown" in said
    assert "look before you change anything" in said
    assert said.count("cat (1 %) rather dog (90 %)") == 8


def test_features_that_tell_nothing_apart_doubt_nothing() -> None:
    body = body_of(left("mislabels", doubted=torch.tensor([60])))
    assert "too poorly to doubt labels" in text(body)
    assert "<figure" not in body


def test_borders_are_told_with_care() -> None:
    said = text(body_of(left("shortcuts")))
    assert "covers 44 % of a photograph" in said
    assert "Clearly more lies there for cat. This may be a shortcut" in said
    assert "or the object may fill the picture" in said
    assert said.count("called") == 1  # of the class with much there alone
    assert "emu" not in said  # nothing is known of it


def test_no_border_stands_out() -> None:
    files = left("shortcuts", share=torch.tensor([0.5, 0.3, 0.0]))  # 0.44 lies within two errors
    body = body_of(files)
    assert "For no answer does clearly more" in text(body)
    assert '<div class="photo' not in body
    assert '<div class="borders"></div>' in body  # which the style leaves out where it is empty


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("mistakes", "classes", torch.tensor([[0, 3]] * 8)),
        ("confused", "pairs", torch.tensor([[-1, 0]] * 8)),
        ("mislabels", "suggested", torch.full((8,), 3)),
        ("shortcuts", "classes", torch.tensor([0, 9])),
        ("mistakes", "maps", torch.rand(8, 3, 2, 2)),
    ],
)
def test_class_numbers_are_checked(name: str, key: str, value: Tensor) -> None:
    with pytest.raises(InputError, match=rf"{name}\.safetensors is damaged: {key}"):
        photographs_section([record_of(NAMES, left(name, **{key: value}))])


def test_names_of_classes_and_files_are_escaped() -> None:
    files = {name: dict(tensors) for name, tensors in left_behind(3).items()}
    evil = list(b'"<b>\x07')
    for tensors in files.values():
        if "names" in tensors:
            tensors["names"] = torch.tensor([evil] * len(tensors["names"]), dtype=torch.uint8)
    section = photographs_section([record_of(("<script>", '"&', "emu"), files)])
    assert section is not None
    assert "<script>" not in section.body
    assert "<b>?" not in section.body
    assert "&#34;&lt;b&gt;?" in section.body


def test_a_photograph_is_in_the_page_once_for_all_its_pictures() -> None:
    body = findings_of(NAMES).body
    assert body.count("data:image/jpeg") == 8 + 8 + 8 + 1  # of borders, that of the class told of
