"""The page itself, in Gradio. This file alone imports it, when an app is built."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from selfexplain.app.board import Board, Fitted
from selfexplain.app.examples import Example
from selfexplain.app.images import open_upload
from selfexplain.app.view import error_html
from selfexplain.errors import InputError
from selfexplain.explanations import MapKind

FIRST_MAPS = 12
"""Class maps that are drawn before one asks for more."""
MAP_COUNTS = (FIRST_MAPS, 48)
THUMBNAIL = 96
"""Least side of an example's thumbnail, in pixels."""

from gradio.events import Dependency

class Upload(gr.File):  # type: ignore[misc]
    """A file field that takes uploaded files alone: Gradio's own would fetch a URL for a client."""

    async def async_move_resource_to_block_cache(self, url_or_file_path: Any) -> str | None:
        """Keep an uploaded file; a URL in its place is refused."""
        if "://" in str(url_or_file_path):
            raise gr.Error("A URL was sent in place of a file; upload a file.")
        kept: str | None = await super().async_move_resource_to_block_cache(url_or_file_path)
        return kept

    def get_block_name(self) -> str:
        """What the browser draws it as."""
        return "file"
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

def build_page(board: Board, examples: Sequence[Example]) -> gr.Blocks:
    """The page for one or two runs; examples are images of the first one.

    Example:
        >>> build_page(Board([]), [])
        Traceback (most recent call last):
        ...
        ValueError: a page needs a run
    """
    if not board.explainers:
        raise ValueError("a page needs a run")
    # Uploaded files are deleted an hour after they came, at the latest when the app ends.
    with gr.Blocks(
        title="selfexplain", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True
    ) as page:
        gr.HTML(f'<h1 class="sx-title">What a classifier sees</h1>{board.heading()}')
        with gr.Row():
            with gr.Column(scale=1, min_width=290):
                controls = _controls(board, examples)
            with gr.Column(scale=3, min_width=290):
                message = gr.HTML(elem_id="message")
                with gr.Row():
                    layers, views = _columns(board, controls["kind"])
        _connect(board, examples, controls, message, layers, views)
    return page

def _controls(board: Board, examples: Sequence[Example]) -> dict[str, Any]:
    """The left column: the image, the kind of map, the number of maps."""
    file = Upload(type="binary", label="Image", elem_id="file", height=150)
    gallery = gr.Gallery(
        [(_thumbnail(example), example.class_name) for example in examples],
        label="or one that the first run was scored on",
        columns=4,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=bool(examples),
        elem_id="examples",
    )
    kinds = board.kinds
    kind = gr.Radio(kinds, value=board.explainers[0].own[0], label="Kind of map", elem_id="kind")
    counts = [(f"the first {n}", n) for n in MAP_COUNTS if n < board.most_classes]
    count = gr.Radio(
        [*counts, ("all", board.most_classes)],
        value=min(FIRST_MAPS, board.most_classes),
        label="Maps",
        visible=bool(counts),
        elem_id="count",
    )
    return {"file": file, "gallery": gallery, "kind": kind, "count": count}

def _columns(board: Board, kind: Any) -> tuple[list[Any], list[Any]]:
    """One column a run: its name, its layer, what it says."""
    layers, views = [], []
    for run, (name, explainer) in enumerate(zip(board.names(), board.explainers, strict=True)):
        with gr.Column(min_width=290):
            layers.append(
                gr.Dropdown(
                    board.layers(run, kind.value),
                    value=board.own_layer(run, kind.value),
                    label=f"{name} ({explainer.spec}): layer of the maps",
                    elem_id=f"layer-{run}",
                )
            )
            views.append(gr.HTML(board.view(run, None, kind.value, "", 0), elem_id=f"view-{run}"))
    return layers, views

def _connect(
    board: Board,
    examples: Sequence[Example],
    controls: dict[str, Any],
    message: Any,
    layers: list[Any],
    views: list[Any],
) -> None:
    """What happens when something is dropped, picked or switched."""
    fitted = gr.State(None, time_to_live=3600)
    chosen = [controls["kind"], controls["count"], *layers]

    def look(image: Fitted | None, kind: MapKind, count: int, *names: str) -> list[str]:
        return [board.view(run, image, kind, name, count) for run, name in enumerate(names)]

    def upload(content: bytes | None, *choice: Any) -> list[Any]:
        image, sentence = None, ""
        try:
            image = None if content is None else board.fit(open_upload(content))
        except InputError as error:
            sentence = error_html(_capital(str(error)))
        return [image, sentence, *look(image, *choice)]

    def pick(event: gr.SelectData, *choice: Any) -> list[Any]:
        image = board.fit(examples[event.index].image())
        return [image, "", *look(image, *choice), None]

    def switch(image: Fitted | None, kind: MapKind, count: int) -> list[Any]:
        own = [board.own_layer(run, kind) for run in range(len(views))]
        fields = [gr.Dropdown(board.layers(run, kind), value=name) for run, name in enumerate(own)]
        return [*fields, *look(image, kind, count, *own)]

    answer = [fitted, message, *views]
    _on(controls["file"].upload, upload, [controls["file"], *chosen], answer)
    _on(controls["file"].clear, lambda *choice: upload(None, *choice), chosen, answer)
    _on(controls["gallery"].select, pick, chosen, [*answer, controls["file"]])
    _on(controls["kind"].input, switch, [fitted, *chosen[:2]], [*layers, *views])
    for field in (controls["count"], *layers):
        _on(field.input, look, [fitted, *chosen], views)

def _on(event: Any, answer: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    """One answer at a time, whoever asks: the models are shared."""
    event(
        answer,
        inputs,
        outputs,
        concurrency_limit=1,
        concurrency_id="models",
        api_visibility="private",
        show_progress="minimal",
    )

def _thumbnail(example: Example) -> Any:
    """Small images are enlarged without smoothing."""
    image = example.image()
    times = max(1, -(-THUMBNAIL // min(image.size)))
    return image.resize((image.width * times, image.height * times), resample=0)

def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
