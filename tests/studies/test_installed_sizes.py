"""Which packages an extra adds, and how large they are."""

from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from studies.installed_sizes import installed, megabytes, needed, table


@dataclass
class Package:
    name: str
    requires: list[str] = field(default_factory=list)
    files: list[Any] = field(default_factory=list)
    extras: tuple[str, ...] = ()

    @property
    def metadata(self) -> Message:
        message = Message()
        for extra in self.extras:
            message["Provides-Extra"] = extra
        return message


@dataclass
class File:
    path: Path

    def locate(self) -> Path:
        return self.path


@pytest.fixture
def there(tmp_path: Path) -> dict[str, Any]:
    def file(name: str, size: int) -> list[File]:
        (tmp_path / name).write_bytes(bytes(size))
        return [File(tmp_path / name), File(tmp_path / "gone")]

    return {
        "selfexplain": Package(
            "selfexplain",
            [
                "torch",
                "web_page>=1; extra == 'app'",
                "absent; extra == 'rare'",
                "x; extra == 'dev'",
            ],
            extras=("app", "rare", "dev"),
        ),
        "torch": Package("torch", ["old; python_version < '3'"], file("t", 3_000_000)),
        "web-page": Package("Web_Page", ["torch", "net[fast]"], file("w", 2_000_000)),
        "net": Package("net", ["loops; extra == 'fast'", "web_page"], file("n", 1_000_000)),
        "loops": Package("loops", [], file("l", 4_000_000)),
    }


def test_what_an_extra_adds(there: dict[str, Any]) -> None:
    assert needed("selfexplain", (), there) == {"selfexplain", "torch"}
    found = needed("selfexplain", ("app",), there)
    assert found == {"selfexplain", "torch", "web-page", "net", "loops"}
    assert megabytes(found, there) == pytest.approx(10)
    with pytest.raises(KeyError):
        needed("selfexplain", ("rare",), there)
    assert table(there).splitlines()[2:] == [
        "| none | 2 | 3 | torch 3, selfexplain 0 |",
        "| `app` | 3 | 7 | loops 4, web-page 2, net 1 |",
    ]


def test_installed_packages_are_found_by_their_normalised_names() -> None:
    import sys

    found = installed(sys.path)
    assert "torch" in found
    assert "torch" in needed("lightning-fabric", (), found)
