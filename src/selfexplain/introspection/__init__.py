"""Introspective Learning: similarity of explanations -> soft target -> objective."""

from typing import TYPE_CHECKING

from selfexplain.lazy import lazily

if TYPE_CHECKING:
    from selfexplain.introspection.objective import Introspective
    from selfexplain.introspection.options import IntrospectiveOptions
    from selfexplain.introspection.own_mass import OwnMass
    from selfexplain.introspection.target import attribution_cosine, similarity_to_true

__all__ = [
    "Introspective",
    "IntrospectiveOptions",
    "OwnMass",
    "attribution_cosine",
    "similarity_to_true",
]

lazily(
    __name__,
    {
        "objective": "Introspective",
        "options": "IntrospectiveOptions",
        "own_mass": "OwnMass",
        "target": "attribution_cosine similarity_to_true",
    },
)
