"""Which column of a table holds the images, and which the labels."""

from collections.abc import Mapping
from typing import Any

import datasets

from selfexplain.errors import InputError

Features = Mapping[str, Any]


def image_column(features: Features, named: str | None = None) -> str:
    """Find the column of images: the named one, or the only one of type `datasets.Image`.

    Args:
        features: Column names and their Hugging Face types.
        named: The user's choice; a column of encoded bytes will do, too.

    Raises:
        InputError: There is no such column, or several.

    Example:
        >>> image_column({"img": datasets.Image(), "label": datasets.Value("int64")})
        'img'
    """
    if named is not None:
        _check_exists(features, named, "image_column")
        if not _holds_images(features[named]):
            raise InputError(
                f"image_column '{named}' holds {features[named]}, which is no image; "
                f"pass one of {_listed(features)}"
            )
        return named
    found = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"{len(found) or 'no'} columns are marked as images; "
        f"pass --image-column (image_column) as one of {_listed(found or features)}"
    )


def label_column(features: Features, named: str | None = None) -> str:
    """Find the column of labels.

    The named one, or the only candidate, or `label`, or `fine_label`. Candidates are the columns
    of type `ClassLabel`; where there are none, those of whole numbers or strings.

    Args:
        features: Column names and their Hugging Face types.
        named: The user's choice.

    Raises:
        InputError: There is no such column, or several.

    Example:
        >>> label_column({"img": datasets.Image(), "label": datasets.Value("int64")})
        'label'
    """
    if named is not None:
        _check_exists(features, named, "label_column")
        if not _may_hold_labels(features[named]):
            raise InputError(
                f"label_column '{named}' holds {features[named]}, which is neither whole numbers "
                f"nor strings; pass one of {_listed(features)}"
            )
        return named
    found = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    found = found or [name for name, kind in features.items() if _may_hold_labels(kind)]
    preferred = [name for name in ("label", "fine_label") if name in found] or found
    if len(found) == 1 or preferred is not found:
        return preferred[0]
    raise InputError(
        f"{len(found) or 'no'} columns could be the labels; "
        f"pass --label-column (label_column) as one of {_listed(found or features)}"
    )


def _check_exists(features: Features, named: str, argument: str) -> None:
    if named not in features:
        raise InputError(f"{argument} '{named}' does not exist; pass one of {_listed(features)}")


def _holds_images(kind: Any) -> bool:
    if isinstance(kind, datasets.Value):
        return kind.dtype in {"binary", "large_binary"}
    return isinstance(kind, datasets.Image) or (
        isinstance(kind, dict) and set(kind) == {"bytes", "path"}
    )


def _may_hold_labels(kind: Any) -> bool:
    if isinstance(kind, datasets.Value):
        return kind.dtype in {"string", "large_string"} or kind.dtype.startswith(("int", "uint"))
    return isinstance(kind, datasets.ClassLabel)


def _listed(names: Any) -> str:
    return ", ".join(names)
