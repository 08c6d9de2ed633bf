"""The corrupted images that are scored: the same for any number of processes, however they lie."""

import dataclasses
from pathlib import Path

import torch
from tests.helpers.two_processes import in_two_processes
from torch import Tensor, nn

from selfexplain.data import CORRUPTIONS
from selfexplain.data.decode import Arrays, Decoding, StreamedImages
from selfexplain.experiments.data import Prepared, load, predict_together, prepare
from selfexplain.experiments.options import DataOptions

HALF = DataOptions(data="digits", validation=0.5)  # more images than one batch holds


def streamed(prepared: Prepared) -> Prepared:
    """The same images, decoded when they are asked for."""
    held = prepared.scored
    pixels_NHW = held.read(torch.arange(len(held)))[:, 0].numpy()
    rule = Decoding(shape_CHW=held.shape_CHW, image_size=None, example="number 0")
    images = StreamedImages(Arrays(pixels_NHW), torch.arange(len(held)), held.labels_N, rule)
    return dataclasses.replace(prepared, scored=images)


def scored_images(rank: int, stream: bool) -> dict[str, Tensor]:
    """What a model is shown under each corruption: this one's logits are the images."""
    prepared = prepare(load(HALF), HALF, seed=0)
    if stream:
        prepared = streamed(prepared)
    return {
        name: predict_together(
            nn.Flatten(), prepared, device=torch.device("cpu"), workers=0, corruption=name
        )[0]
        for name in CORRUPTIONS
    }


def scored_both_ways(rank: int) -> dict[str, Tensor]:
    """The same of images in memory, and of images that are read when they are needed."""
    return {
        f"{name}, stream {stream}": images
        for stream in (False, True)
        for name, images in scored_images(rank, stream).items()
    }


def test_two_processes_score_the_images_that_one_scores(tmp_path: Path) -> None:
    alone = scored_images(0, stream=False)
    for together in in_two_processes(scored_both_ways, tmp_path):
        assert len(together) == 2 * len(CORRUPTIONS)
        for name in CORRUPTIONS:
            assert len(alone[name]) > 500
            for stream in (False, True):
                assert torch.equal(together[f"{name}, stream {stream}"], alone[name]), name


def test_streamed_images_are_corrupted_alike() -> None:
    held, read = scored_images(0, stream=False), scored_images(0, stream=True)
    assert all(torch.equal(held[name], read[name]) for name in CORRUPTIONS)
