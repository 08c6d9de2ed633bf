"""What a run on photographs leaves for the report: mistakes, confused classes, mislabels, borders.

Files of a run's folder: `mistakes.safetensors`, `confused.safetensors`, `shortcuts.safetensors` at
its end, and `mislabels.safetensors` once frozen features are known. Each is left out where there is
nothing to tell. A few images are kept and explained, however many there are.

Shape suffixes: B images, C channels, H and W space, K classes, N scored or training images, F
features, V views, P pairs, R the true and the predicted class.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from selfexplain.data import ImageSet
from selfexplain.evaluation.mislabels import second_opinion
from selfexplain.explanations import class_maps
from selfexplain.explanations.hooks import preserved
from selfexplain.explanations.metrics.evidence import evidence_overlap, is_faint, ring_share
from selfexplain.files import write_tensors
from selfexplain.introspection import IntrospectiveOptions
from selfexplain.report.html import shrunk

PHOTOGRAPH = 64
"""Pixels of the shorter side from which a coloured image counts as a photograph."""
SIDE = 192
"""Most pixels of a side that are kept."""
MISTAKES, PAIRS, MISLABELS, SHORTCUTS = 24, 12, 24, 6
"""How many of each are kept, at most."""
OF_A_PAIR = 4
"""So many mistakes of a pair of classes are explained."""
BORDERS, BORDERS_BY_GRADIENT = 500, 100
"""So many scored images say where the evidence lies; fewer where a map takes a backward pass."""
JUDGED, WIDE = 20_000, 2048
"""So many training images are judged by heads; and so many where there are more features, as the
time grows by the cube of the smaller number."""
LONGEST = 200
"""Bytes of a name that are kept, from its end."""
TOGETHER = 32
"""Images that are explained in one pass."""


def are_photographs(shape_CHW: Sequence[int]) -> bool:
    """Whether images of a shape are coloured and large enough to be looked at.

    Example:
        >>> are_photographs((3, 128, 128)), are_photographs((3, 32, 32))
        (True, False)
    """
    channels, height, width = shape_CHW
    return channels == 3 and min(height, width) >= PHOTOGRAPH


# Which images and classes are told of.


def confident_mistakes(logits_NK: Tensor, labels_N: Tensor, most: int = MISTAKES) -> Tensor:
    """Places of the wrongly classified images, the surest of the predicted class first.

    Example:
        >>> logits = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 5.0]])
        >>> confident_mistakes(logits, torch.tensor([0, 0, 1]))
        tensor([1, 0])
    """
    sure_N, predicted_N = logits_NK.double().softmax(dim=1).max(dim=1)
    order_N = sure_N.argsort(descending=True, stable=True)
    return order_N[(predicted_N != labels_N)[order_N]][:most]


def confused_pairs(
    logits_NK: Tensor, labels_N: Tensor, most: int = PAIRS
) -> list[tuple[int, int, int, int]]:
    """Classes a and b, and how often a is taken for b and b for a, the most confused pairs first.

    The order is that of the share of both classes' images that are taken for the other one; a is
    the class that is mistaken more often. A pair with a single mistake is left out.

    Example:
        >>> logits = torch.eye(3)[[1, 1, 0, 2, 0]]
        >>> confused_pairs(logits, torch.tensor([0, 0, 1, 2, 2]))
        [(0, 1, 2, 1)]
    """
    k = logits_NK.shape[1]
    place_N = labels_N * k + logits_NK.argmax(dim=1)
    count_KK = torch.bincount(place_N, minlength=k * k).reshape(k, k)
    size_K = count_KK.sum(dim=1)
    found = []
    # Only the pairs that occur: of a thousand classes there are half a million.
    for pair in {(min(p), max(p)) for p in count_KK.nonzero().tolist() if p[0] != p[1]}:
        a, b = sorted(pair, key=lambda y: -int(count_KK[y, sum(pair) - y]))
        forth, back = int(count_KK[a, b]), int(count_KK[b, a])
        if forth + back > 1:
            share = (forth + back) / int(size_K[a] + size_K[b])
            found.append((-share, -(forth + back), a, b, forth, back))
    return [(a, b, forth, back) for _, _, a, b, forth, back in sorted(found)[:most]]


def mistakes_of_pair(
    logits_NK: Tensor, labels_N: Tensor, a: int, b: int, most: int = OF_A_PAIR
) -> Tensor:
    """Places of the images of a or b that are taken for the other one, the surest first.

    Example:
        >>> mistakes_of_pair(torch.eye(3)[[1, 0, 2]], torch.tensor([0, 1, 0]), 0, 1)
        tensor([0, 1])
    """
    places = confident_mistakes(logits_NK, labels_N, len(labels_N))
    said = logits_NK.argmax(dim=1)[places]
    given = labels_N[places]
    return places[((given == a) & (said == b)) | ((given == b) & (said == a))][:most]


def doubted_labels(
    features_NF: Tensor, labels_N: Tensor, num_classes: int, most: int = MISLABELS
) -> dict[str, Tensor]:
    """The labels that heads on frozen features, fitted to other images, believe least.

    Returns:
        "place" (B,), "given" and "suggested" class (B,), "probabilities" (B, 2) of both, and of all
        images "judged", how many were; "doubted", of how many another class is likelier.

    Example:
        >>> x = torch.cat([torch.zeros(6, 1), torch.ones(6, 1)]) + 0.01 * torch.arange(12)[:, None]
        >>> found = doubted_labels(x, torch.tensor([0] * 5 + [1] * 7), 2)
        >>> found["place"], found["suggested"], found["judged"]
        (tensor([5]), tensor([0]), tensor([12]))
    """
    p_NK = second_opinion(features_NF, labels_N, num_classes)
    # No head knows the class of an image that is its only one.
    known_N = torch.bincount(labels_N, minlength=num_classes)[labels_N] > 1
    own_N = p_NK.gather(1, labels_N[:, None])[:, 0]
    best_N, suggested_N = p_NK.max(dim=1)
    doubted_N = known_N & (suggested_N != labels_N)
    order_N = own_N.argsort(stable=True)
    place_B = order_N[doubted_N[order_N]][:most]
    return {
        "place": place_B,
        "given": labels_N[place_B],
        "suggested": suggested_N[place_B],
        "probabilities": torch.stack([own_N, best_N], dim=1)[place_B].float(),
        "judged": known_N.sum()[None],
        "doubted": doubted_N.sum()[None],
    }


# What is written.


Read = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From places (B,) to images as the model takes them, and labels."""


class Findings:
    """Writes what a finished model gets wrong, and where it looks.

    Args:
        folder: of the run.
        scored: images that the model was scored on.
        read: how they are given to the model.
        model: classifier.
        options: which maps explain it.

    Example:
        >>> import tempfile
        >>> from selfexplain.data import MemoryImages
        >>> from selfexplain.models import build_model
        >>> images = MemoryImages(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.arange(2))
        >>> model = build_model("small_cnn", num_classes=2, in_channels=3)
        >>> folder = Path(tempfile.mkdtemp())
        >>> findings = Findings(
        ...     folder,
        ...     images,
        ...     lambda place_B: (images.read(place_B) / 255, images.labels_N[place_B]),
        ...     model,
        ...     IntrospectiveOptions(),
        ... )
        >>> findings.write_mistakes(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.arange(2))
        >>> [path.name for path in folder.iterdir()]
        ['mistakes.safetensors']
    """

    def __init__(
        self,
        folder: Path,
        scored: ImageSet,
        read: Read,
        model: nn.Module,
        options: IntrospectiveOptions,
    ) -> None:
        self.folder, self.scored, self.read = folder, scored, read
        self.model, self.options = model, options

    def write_mistakes(self, logits_NK: Tensor, labels_N: Tensor) -> None:
        """Write the surest mistakes with the maps of their true and of their predicted class."""
        place_B = confident_mistakes(logits_NK, labels_N)
        if len(place_B):
            self._write("mistakes", self._explained(place_B, logits_NK, labels_N))

    def write_confused(self, logits_NK: Tensor, labels_N: Tensor) -> None:
        """Write the classes that are confused most, an example of each pair, and what they share.

        "looked" mistakes of a pair are looked at; in "explained" of them there is evidence for
        both classes, and "overlap" is its mean, 0 where there are none.
        """
        pairs = confused_pairs(logits_NK, labels_N)
        if not pairs:
            return
        places = [mistakes_of_pair(logits_NK, labels_N, a, b) for a, b, _, _ in pairs]
        explained = self._explained(torch.cat(places), logits_NK, labels_N)
        overlap_B = evidence_overlap(explained["maps"][:, 0], explained["maps"][:, 1])
        both_B = ~is_faint(explained["maps"]).any(dim=1)
        sizes = [len(mine) for mine in places]
        first = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])
        self._write(
            "confused",
            {name: values[first] for name, values in explained.items()}
            | {
                "pairs": torch.tensor([pair[:2] for pair in pairs]),
                "counts": torch.tensor([pair[2:] for pair in pairs]),
                "overlap": torch.stack(
                    [
                        part[both].mean() if both.any() else torch.tensor(0.0)
                        for part, both in zip(
                            torch.split(overlap_B, sizes), torch.split(both_B, sizes), strict=True
                        )
                    ]
                ),
                "explained": torch.stack([both.sum() for both in torch.split(both_B, sizes)]),
                "looked": torch.tensor(sizes),
            },
        )

    def write_shortcuts(self, logits_NK: Tensor) -> None:
        """Write how much of the evidence for the predicted class lies at the border, by class.

        "share" (K,) is a mean over "count" images, "error" its standard error; both 0 where there
        are fewer than two. Images with more evidence against their class than for it do not count:
        what little speaks for it may lie anywhere. Of the classes with most at the border, "images"
        are those with most.
        """
        most = BORDERS if self.options.kind == "cam" else BORDERS_BY_GRADIENT
        count = min(most, len(logits_NK))
        place_B = torch.linspace(0, len(logits_NK) - 1, count).round().long()
        said_B = logits_NK.argmax(dim=1)[place_B]
        map_BHW = self._maps(place_B, said_B[:, None])[:, 0]
        if min(map_BHW.shape[1:]) < 3:
            return  # no place of the map lies inside
        share_B = ring_share(map_BHW).where(map_BHW.sum(dim=(1, 2)) > 0, torch.nan)
        found = border_statistics(share_B, said_B, logits_NK.shape[1])
        shown = [k for k in found["share"].argsort(descending=True).tolist() if found["count"][k]]
        rows = [
            int(share_B.nan_to_num(-1).where(said_B == k, -2).argmax()) for k in shown[:SHORTCUTS]
        ]
        if rows:
            example = {
                "images": pictures(self.scored, place_B[rows]),
                "classes": said_B[rows],
                "maps": map_BHW[rows],
                "shares": share_B[rows],
            }
            self._write("shortcuts", found | example)

    def _explained(self, place_B: Tensor, logits_NK: Tensor, labels_N: Tensor) -> dict[str, Tensor]:
        classes_BR = torch.stack([labels_N[place_B], logits_NK[place_B].argmax(dim=1)], dim=1)
        p_BK = logits_NK[place_B].float().softmax(dim=1)
        return {
            "images": pictures(self.scored, place_B),
            "names": names(self.scored, place_B),
            "classes": classes_BR,
            "probabilities": p_BK.gather(1, classes_BR),
            "maps": self._maps(place_B, classes_BR),
        }

    def _maps(self, place_B: Tensor, classes_BR: Tensor) -> Tensor:
        """Maps (B, R, H, W) of each image's own classes; images of the same classes together."""
        maps: dict[int, Tensor] = {}
        for classes_R in torch.unique(classes_BR, dim=0):
            rows = (classes_BR == classes_R).all(dim=1).nonzero()[:, 0]
            for part in torch.split(rows, TOGETHER):
                x_BCHW, _ = self.read(place_B[part])
                with preserved(self.model, x_BCHW, eval_mode=True):
                    found = class_maps(
                        self.model,
                        x_BCHW,
                        kind=self.options.kind,
                        layer=self.options.layer,
                        classes=classes_R.tolist(),
                    )
                maps |= dict(zip(part.tolist(), found.detach().float().cpu(), strict=True))
        return torch.stack([maps[row] for row in range(len(place_B))])

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        write_tensors(
            self.folder / f"{name}.safetensors",
            {key: values.contiguous() for key, values in tensors.items()},
        )


def pictures(images: ImageSet, place_B: Tensor) -> Tensor:
    """Images (B, C, H, W) as they are kept: uint8, of at most `SIDE` pixels a side."""
    read_BCHW = images.read(place_B).cpu()
    return torch.stack([shrunk(image.float(), SIDE).round().byte() for image in read_BCHW])


def names(images: ImageSet, place_B: Tensor) -> Tensor:
    """Names (B, L) of images as uint8: file and folder in UTF-8, the shorter ones filled with 0.

    Example:
        >>> from selfexplain.data import MemoryImages
        >>> zeros = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
        >>> images = MemoryImages(zeros, torch.zeros(1), ["/photos/cat/1.png"])
        >>> bytes(names(images, torch.tensor([0]))[0].tolist())
        b'cat/1.png'
    """
    paths = [Path(images.name(place)) for place in place_B.tolist()]
    # Where the folder lies is nobody's business: a report is mailed.
    told = ["/".join(path.parts[-2:]).encode(errors="replace")[-LONGEST:] for path in paths]
    longest = max(1, *map(len, told))
    return torch.tensor([list(name.ljust(longest, b"\0")) for name in told], dtype=torch.uint8)


def border_statistics(share_B: Tensor, class_B: Tensor, classes: int) -> dict[str, Tensor]:
    """Mean share (K,) of each class, its standard error, and how many images have one.

    Example:
        >>> found = border_statistics(torch.tensor([0.2, 0.4, 0.9]), torch.tensor([0, 0, 1]), 2)
        >>> found["share"], found["count"]
        (tensor([0.3000, 0.0000]), tensor([2, 0]))
    """
    share_K, error_K = torch.zeros(classes), torch.zeros(classes)
    count_K = torch.zeros(classes, dtype=torch.int64)
    for k in torch.unique(class_B).tolist():
        mine = share_B[(class_B == k) & share_B.isfinite()]
        if len(mine) > 1:
            count_K[k] = len(mine)
            share_K[k] = mine.mean()
            error_K[k] = mine.std() / len(mine) ** 0.5
    return {"share": share_K, "error": error_K, "count": count_K}


def write_mislabels(folder: Path, train: ImageSet, features_NF: Tensor, num_classes: int) -> None:
    """Write the doubted labels of the training images, unless the run has them already.

    Args:
        folder: of the run.
        train: its training images.
        features_NF: of these, frozen.
        num_classes: K.

    Example:
        >>> import tempfile
        >>> from selfexplain.data import MemoryImages
        >>> images = torch.zeros(12, 3, 64, 64, dtype=torch.uint8)
        >>> train = MemoryImages(images, torch.tensor([0] * 5 + [1] * 7))
        >>> x = torch.cat([torch.zeros(6, 1), torch.ones(6, 1)]) + 0.01 * torch.arange(12)[:, None]
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_mislabels(folder, train, x, num_classes=2)
        >>> [path.name for path in folder.iterdir()]
        ['mislabels.safetensors']
    """
    path = folder / "mislabels.safetensors"
    if path.exists():
        return
    count = min(JUDGED if features_NF.shape[1] <= WIDE else WIDE, len(train))
    judged = torch.linspace(0, len(train) - 1, count).round().long()
    found = doubted_labels(
        features_NF[judged.to(features_NF.device)].cpu(), train.labels_N[judged], num_classes
    )
    if len(found["place"]):
        found["place"] = judged[found["place"]]
        place_B = found.pop("place")
        kept = {"images": pictures(train, place_B), "names": names(train, place_B)}
        write_tensors(path, found | kept)
