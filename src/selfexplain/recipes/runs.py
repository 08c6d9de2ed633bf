"""The single runs that a comparison is made of."""

from dataclasses import fields
from pathlib import Path

from selfexplain.recipes.folder import run_name
from selfexplain.recipes.options import CompareConfig, TrainConfig
from selfexplain.recipes.teacher_chain import given_teacher


def run_folder(out: Path, spec: str, seed: int) -> Path:
    """Folder of one run of a comparison.

    Example:
        >>> run_folder(Path("out"), "introspective:weight=0.1", 2).as_posix()
        'out/runs/introspective_weight-0.1-seed2'
    """
    return out / "runs" / run_name(spec, seed)


def train_config(config: CompareConfig, spec: str, seed: int, out: Path) -> TrainConfig:
    """The run of one objective and one seed, in `out`/runs; it continues what it finds there.

    Example:
        >>> from selfexplain.recipes.options import DataOptions
        >>> config = CompareConfig(data=DataOptions(data="digits"))
        >>> train_config(config, "standard", 2, Path("out")).out.as_posix()
        'out/runs/standard-seed2'
    """
    names = {field.name for field in fields(config)} & {field.name for field in fields(TrainConfig)}
    shared = {name: getattr(config, name) for name in names - {"out"}}
    shared["teacher"] = given_teacher(config, spec)
    folder = run_folder(out, spec, seed)
    return TrainConfig(**shared, objective=spec, seed=seed, out=folder, resume=True)
