"""The house keeps its floors: nothing imports from a floor above, and no circles."""

import ast
from pathlib import Path

import selfexplain

ROOT = Path(selfexplain.__file__).parent
LOWER = {"training/optimizers": "optimizers", "training/options": "optimizers"}
"""Modules with a floor of their own, below their package's: searches make optimizers, too."""
FLOORS = (
    {"errors", "lazy"},
    {"limits", "records", "distributed", "seeding"},
    {"files", "optimizers"},
    {"models", "data", "launchers"},
    {"hypergradients", "explanations", "spaces"},
    {"objectives", "evaluation"},
    {"introspection", "lease"},
    {"training", "report"},
    {"experiments"},
    {"app", "adapters"},
    {"cli"},
    {"__main__"},
)


def floor(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def room_of(path: Path) -> str:
    module = path.relative_to(ROOT).with_suffix("")
    return LOWER.get(module.as_posix(), module.parts[0])


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == "selfexplain":
                names = [f"selfexplain.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "selfexplain" and len(parts) > 1:
                found.add(LOWER.get("/".join(parts[1:3]), parts[1]))
    return found


def test_nothing_reaches_up() -> None:
    files = list(ROOT.rglob("*.py"))
    assert len(files) > 30
    for path in files:
        room = room_of(path)
        if room == "__init__":  # the front door shows what is inside
            continue
        for other in imported_rooms(path) - {room}:
            assert floor(other) < floor(room), f"{path} imports selfexplain.{other}"


def test_every_public_function_has_an_example() -> None:
    """Public: named in the `__all__` of a room."""
    missing = []
    for init in ROOT.glob("*/__init__.py"):
        module = __import__(f"selfexplain.{init.parent.name}", fromlist=["*"])
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            documented = callable(thing) and getattr(thing, "__module__", "").startswith("self")
            if documented and ">>>" not in (thing.__doc__ or ""):
                missing.append(f"{init.parent.name}.{name}")
    assert missing == []
