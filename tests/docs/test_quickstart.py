"""The notebook of the documentation runs from its first cell to its last, and was saved clean."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

NOTEBOOK = Path(__file__).parents[2] / "docs" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def notebook() -> dict[str, Any]:
    return dict(json.loads(NOTEBOOK.read_text()))


def test_every_cell_runs(
    notebook: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert names["scores"].accuracy > 80  # ten classes: it has learned
    assert names["maps"].shape[:2] == (3, 10)
    torch.testing.assert_close(names["target"].sum(1), torch.ones(3))
    assert (Path(names["folder"]) / "result.json").exists()
    assert "accuracy" in capsys.readouterr().out


def test_it_is_saved_without_outputs(notebook: dict[str, Any]) -> None:
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert {cell["cell_type"] for cell in notebook["cells"]} == {"code", "markdown"}
    identities = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identities)) == len(identities)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_its_links_lead_somewhere(notebook: dict[str, Any]) -> None:
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    assert targets
    assert all((NOTEBOOK.parent / target).exists() for target in targets)
