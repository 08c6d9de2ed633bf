"""The page itself, in Gradio; imported only when an app is built, as Gradio is an extra."""

import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import fastapi.routing
import gradio as gr
from gradio import processing_utils, queueing, routes

from selfexplain.app.explain import open_upload
from selfexplain.app.gate import NO_FILE, TESTED, check_routes, tell_of
from selfexplain.app.view import error_html, run_html
from selfexplain.app.viewer import Example, Fitted, Viewer
from selfexplain.errors import InputError
from selfexplain.explanations import MapKind

FIRST_MAPS = 12
"""Class maps that are drawn before one asks for more."""
MAP_COUNTS = (FIRST_MAPS, 48)
FETCHING = (
    (processing_utils, "async_ssrf_protected_download"),
    (processing_utils, "async_ssrf_protected_get"),
    (processing_utils, "unsafe_download"),
    (routes, "secure_url_stream_response"),
)
"""Modules of Gradio and their functions that fetch the URLs that a client sends."""
THUMBNAIL = 96
"""Least side of an example's thumbnail, in pixels."""


def refuse_urls() -> None:
    """Keep Gradio from fetching what a client names by a URL in place of a file, in this process.

    Gradio does so for any field, if only from public addresses; nothing here needs it.
    """
    if not all(hasattr(module, name) for module, name in FETCHING):
        raise InputError(
            f"Gradio {gr.__version__} downloads URLs in a way that selfexplain does not know; "
            f"install the tested version with: pip install 'gradio=={TESTED}'"
        )
    for module, name in FETCHING:
        setattr(module, name, _refuse)


def tell_in_a_line() -> None:
    """Keep Gradio from printing a traceback for each malformed request, in this process.

    Its queue prints all that is raised there. One line is printed instead.
    """
    if hasattr(queueing, "traceback"):
        told = SimpleNamespace(print_exc=lambda: tell_of(sys.exc_info()[1]))
        setattr(queueing, "traceback", told)  # noqa: B010 - a module has no such attribute to mypy


def check_version(page: gr.Blocks) -> None:
    """Refuse a launched Gradio whose server has routes that are not known."""
    # A FastAPI that nests routers lists their routes by this function alone.
    flat = getattr(fastapi.routing, "iter_route_contexts", iter)
    routes = [
        f"{method} {getattr(route, 'path', route)}"
        for route in flat(page.app.routes)
        for method in getattr(route, "methods", None) or [type(route).__name__]
    ]
    check_routes(routes, gr.__version__)


async def _refuse(*_: Any, **__: Any) -> str:
    raise gr.Error(NO_FILE, print_exception=False)


def build_page(viewer: Viewer, examples: Sequence[Example]) -> gr.Blocks:
    """The page for one or two runs; examples are images of the first one.

    Example:
        >>> build_page(Viewer([]), [])
        Traceback (most recent call last):
        ...
        ValueError: a page needs a run
    """
    if not viewer.explainers:
        raise ValueError("a page needs a run")
    refuse_urls()
    tell_in_a_line()
    # Uploaded files are deleted an hour after they came, at the latest when the app ends.
    with gr.Blocks(
        title="selfexplain", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True
    ) as page:
        gr.HTML(viewer.heading())
        with gr.Row():
            with gr.Column(scale=1, min_width=290):
                controls = _controls(viewer, examples)
            with gr.Column(scale=3, min_width=290), gr.Row():
                layers, views = _columns(viewer, controls["kind"])
        _connect(viewer, examples, controls, layers, views)
    return page


def _controls(viewer: Viewer, examples: Sequence[Example]) -> dict[str, Any]:
    """The left column: the image, the kind of map, the number of maps."""
    file = gr.File(type="binary", label="Image", elem_id="file", height=150)
    message = gr.HTML(elem_id="message")
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
    kinds = viewer.kinds
    kind = gr.Radio(kinds, value=viewer.explainers[0].own[0], label="Kind of map", elem_id="kind")
    counts = [(f"the first {n}", n) for n in MAP_COUNTS if n < viewer.most_classes]
    count = gr.Radio(
        [*counts, ("all", viewer.most_classes)],
        value=min(FIRST_MAPS, viewer.most_classes),
        label="Maps",
        visible=bool(counts),
        elem_id="count",
    )
    return {"file": file, "message": message, "gallery": gallery, "kind": kind, "count": count}


def _columns(viewer: Viewer, kind: Any) -> tuple[list[Any], list[Any]]:
    """One column a run: its name, its layer, what it says."""
    layers, views = [], []
    for run, (name, explainer) in enumerate(zip(viewer.names(), viewer.explainers, strict=True)):
        with gr.Column(min_width=290):
            gr.HTML(run_html(name, explainer.spec))
            layers.append(
                gr.Dropdown(
                    viewer.layers(run, kind.value),
                    value=viewer.own_layer(run, kind.value),
                    label="Layer of the maps",
                    elem_id=f"layer-{run}",
                )
            )
            views.append(gr.HTML(viewer.view(run, None, kind.value, "", 0), elem_id=f"view-{run}"))
    return layers, views


def _connect(
    viewer: Viewer,
    examples: Sequence[Example],
    controls: dict[str, Any],
    layers: list[Any],
    views: list[Any],
) -> None:
    """What happens when something is dropped, picked or switched."""
    fitted = gr.State(None, time_to_live=3600)
    chosen = [controls["kind"], controls["count"], *layers]

    def look(image: Fitted | None, kind: MapKind, count: int, *names: str) -> list[str]:
        return [viewer.view(run, image, kind, name, count) for run, name in enumerate(names)]

    def upload(content: bytes | None, *choice: Any) -> list[Any]:
        image, sentence = None, ""
        try:
            image = None if content is None else viewer.fit(open_upload(content))
        except InputError as error:
            sentence = error_html(_capital(str(error)))
        return [image, sentence, *look(image, *choice)]

    def pick(event: gr.SelectData, *choice: Any) -> list[Any]:
        if event.index not in range(len(examples)):  # of no page, but of a client of its own
            raise gr.Error("There is no such example; pick one.", print_exception=False)
        image = viewer.fit(examples[event.index].image())
        return [image, "", *look(image, *choice), None]

    def switch(image: Fitted | None, kind: MapKind, count: int) -> list[Any]:
        own = [viewer.own_layer(run, kind) for run in range(len(views))]
        fields = [gr.Dropdown(viewer.layers(run, kind), value=name) for run, name in enumerate(own)]
        return [*fields, *look(image, kind, count, *own)]

    answer = [fitted, controls["message"], *views]
    _on(controls["file"].upload, upload, [controls["file"], *chosen], answer)
    _on(controls["file"].clear, lambda *choice: upload(None, *choice), chosen, answer)
    _on(controls["gallery"].select, pick, chosen, [*answer, controls["file"]])
    _on(controls["kind"].input, switch, [fitted, *chosen[:2]], [*layers, *views])
    for field in (controls["count"], *layers):
        _on(field.input, look, [fitted, *chosen], views)


def _on(event: Any, answer: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    """One answer at a time for all users: the models are shared."""
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
