"""Take a trained classifier away: weights and configuration, ONNX, torch.export, plain source.

Every file that computes is run once and its logits are compared with the model's own.
"""

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfexplain.errors import InputError, first_line, import_failure
from selfexplain.experiments.fit.given import load_given
from selfexplain.experiments.fit.model import is_derived
from selfexplain.experiments.fit.pretrained import (
    CONFIG,
    WEIGHTS,
    PixelClassifier,
    classifier_of,
    pixel_classifier,
    without_places,
    write_config,
)
from selfexplain.experiments.read_records import TRAINED, read_result
from selfexplain.experiments.reading_options import ExportConfig, Format
from selfexplain.experiments.run_dir import FinishedRun, read_finished
from selfexplain.files import atomic_file, cannot_write, read_json, tensor_bytes
from selfexplain.models.hub import lies_in_folder
from selfexplain.report.model_card import model_card
from selfexplain.spaces import load_genotype
from selfexplain.spaces.standalone import source_of

# Upload to the Hugging Face hub.


def push_folder(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a folder to a model repository, which is made if there is none; return its address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Export of selfexplain"
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise InputError(
            f"{folder} is written, but could not be uploaded to {name} ({first_line(error)}); log "
            "in with: hf auth login, and pass --push again"
        ) from error
    return str(commit.repo_url)


LARGEST_DIFFERENCE = 1e-3
"""Between logits of a file and of the model, relative to the largest logit (or to 1)."""


def export_run(config: ExportConfig) -> list[Path]:
    """Export a run; return the files that were written.

    Raises:
        InputError: the run is not finished, a format does not fit it or lacks its package, or the
            upload fails.
    """
    run, given = load_given(config) if config.run is None else (read_finished(config.run), None)
    if lies_in_folder(run.config.get("model")):
        raise InputError(
            f"the model of {run.folder} is described in a folder of this machine, "
            f"{run.config['model']}, which others "
            "lack; upload that to the hub, and train from there"
        )
    classifier = classifier_of(run) if given is None else pixel_classifier(run, given)
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(config.out, error) from error
    weights, digest = tensor_bytes(classifier.model.state_dict())
    contents = {WEIGHTS: weights, "README.md": _card(run, given).encode(errors="backslashreplace")}
    for form in dict.fromkeys(config.formats):
        contents[FORMATS[form][0]] = _made(form, run, classifier)
    for name, content in contents.items():
        with atomic_file(config.out / name) as file:
            file.write(content)
    write_config(config.out / CONFIG, run, digest)
    if config.push is not None:
        push_folder(config.out, config.push, private=config.private)
    return [config.out / name for name in (*contents, CONFIG)]


def _card(run: FinishedRun, given: nn.Module | None = None) -> str:
    if given is not None:
        return model_card(run.config, {}, {}, run.class_names, run.shape_CHW)
    result = read_result(run.folder / "result.json")
    environment = read_json(run.folder / "run.json", TRAINED).get("environment", {})
    return model_card(
        without_places(run.config), result, environment, run.class_names, run.shape_CHW
    )


def _made(form: Format, run: FinishedRun, classifier: PixelClassifier) -> bytes:
    """Content of a format's file; InputError, with the formats that work, if torch fails."""
    try:
        return _content(form, run, classifier)
    except InputError:
        raise
    except Exception as error:  # a model that cannot be traced may end in anything
        others = [other for other in FORMATS if _works(other, run, classifier)]
        instead = f"pass --formats {' '.join(others)}, or" if others else "no other does, so"
        raise InputError(
            f"format {form} does not fit this model ({_reason(error)}); {instead} leave --formats "
            "out: weights and configuration can be written of every model"
        ) from error


def _works(form: Format, run: FinishedRun, classifier: PixelClassifier) -> bool:
    try:
        _content(form, run, classifier)
    except Exception:
        return False
    return True


def _content(form: Format, run: FinishedRun, classifier: PixelClassifier) -> bytes:
    with redirect_stderr(io.StringIO()):  # torch prints the graph of a model that it gives up
        return FORMATS[form][1](run, classifier)


def _reason(error: BaseException) -> str:
    """First line of what went wrong first, which exporters wrap in advice of many lines."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _onnx(run: FinishedRun, classifier: PixelClassifier) -> bytes:
    """The classifier of pixels as an ONNX model with any batch size."""
    del run
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - what torch writes ONNX with
    except Exception as error:  # a package that is broken may raise anything
        packages = "onnx onnxruntime onnxscript onnx_ir"
        install = "install it with: pip install 'selfexplain[onnx]'"
        raise import_failure(error, "format onnx", packages, install) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            classifier,
            (_example(classifier, 2),),
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    graphs: list[Any] = [program.model.graph, *program.model.functions.values()]
    for graph in graphs:
        for node in graph.all_nodes():  # files and lines of this machine's code
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    model = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    _check(
        lambda x: torch.from_numpy(np.asarray(session.run(None, {"pixels": x.numpy()})[0])),
        classifier,
        "ONNX",
    )
    return bytes(model)


def _torch_export(run: FinishedRun, classifier: PixelClassifier) -> bytes:
    """The classifier of pixels as a program of torch.export with any batch size."""
    del run
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        classifier, (_example(classifier, 2),), dynamic_shapes=({0: batch},)
    )
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # files and lines of this machine's code
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    _check(torch.export.load(buffer).module(), classifier, "torch.export")
    return buffer.getvalue()


def _source(run: FinishedRun, classifier: PixelClassifier) -> bytes:
    """The network of a genotype as plain PyTorch."""
    if not is_derived(run.config):
        raise InputError(
            f"format source writes the network of a genotype, and this is the model "
            f"{run.config['model']}; pass another format"
        )
    source = source_of(
        load_genotype(run.config["genotype"]),
        num_classes=run.num_classes,
        in_channels=run.shape_CHW[0],
        channels=run.config["init_channels"],
        cells=run.config["cells"],
        form=run.config["form"],
    )
    scope: dict[str, type[nn.Module]] = {}
    exec(compile(source, "network.py", "exec"), scope)  # noqa: S102 - written by ourselves
    network = scope["Network"]().eval()
    own = network.state_dict().keys()
    state = classifier.model.state_dict()
    network.load_state_dict({name: value for name, value in state.items() if name in own})
    plain = PixelClassifier(
        network,
        run.mean_C,
        run.std_C,
        run.class_names,
        run.shape_CHW,
    ).eval()
    _check(plain, classifier, "source")
    return source.encode()


FORMATS: dict[Format, tuple[str, Callable[[FinishedRun, PixelClassifier], bytes]]] = {
    "onnx": ("model.onnx", _onnx),
    "torch_export": ("model.pt2", _torch_export),
    "source": ("network.py", _source),
}
"""Format -> name of its file, and what makes its content."""


def _example(classifier: PixelClassifier, count: int) -> Tensor:
    """Random pixels, the same every time."""
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, *classifier.shape_CHW, generator=generator)


@torch.no_grad()
def _check(written: Callable[[Tensor], Tensor], classifier: PixelClassifier, name: str) -> None:
    """Raise InputError if what was written has other logits, for one of two batch sizes."""
    for count in (1, 3):
        pixels_BCHW = _example(classifier, count)
        try:
            logits_BK = written(pixels_BCHW)
        except Exception as error:
            raise InputError(
                f"this model cannot be written as {name} ({first_line(error)}); pass another format"
            ) from error
        expected_BK = classifier(pixels_BCHW)
        scale = max(1.0, float(expected_BK.abs().max()))
        difference = float((logits_BK - expected_BK).abs().max()) / scale
        if not difference <= LARGEST_DIFFERENCE:
            raise InputError(
                f"what was written as {name} gives other logits than the model (by {difference:.1e}"
                " of the largest); pass another format"
            )
