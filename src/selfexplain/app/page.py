"""The page itself, in Gradio; imported only when an app is built, as Gradio is an extra."""

import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import fastapi.routing
import gradio as gr
from gradio import processing_utils, queueing, routes

from selfexplain.app.explain import open_upload
from selfexplain.app.explorer import ANY, MOST, Explorer, Filter, Order, Which
from selfexplain.app.gate import NO_FILE, NO_PICTURE, TESTED, check_routes, tell_of
from selfexplain.app.view import error_html, note_html, reading_html, tabs_html
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
ONE, MANY = "one", "many"
"""The tabs."""
ANYONES = 100_000
"""Thumbnails that are listed at the most, whatever a client sends."""
PICKED = """element.addEventListener("click", (event) => {
  const tile = event.target.closest("button[data-place]");
  if (!tile) return;
  trigger("select", {place: Number(tile.dataset.place)});
  window.scrollTo({top: 0});
});"""
"""Tells the server which thumbnail was clicked."""
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


def build_page(
    viewer: Viewer, examples: Sequence[Example], explorer: Explorer | str = ""
) -> gr.Blocks:
    """The page for one or two runs; it opens on the first example.

    Args:
        viewer: of the runs.
        examples: images to choose from.
        explorer: of the images that the first run was scored on, or the sentence why there is
            none.

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
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("One image", id=ONE), gr.Row():
                with gr.Column(scale=1, min_width=290):
                    controls = _controls(viewer, examples)
                with gr.Column(scale=3, min_width=290):
                    first = viewer.fit(examples[0].image()) if examples else None
                    fitted = gr.State(first, time_to_live=3600)
                    runs = _runs(viewer, first, controls)
            with gr.Tab("Many images", id=MANY) as tab:
                many = _explorer_page(explorer)
        one = {"fitted": fitted, **controls, **runs}
        _connect(viewer, examples, one)
        if many is not None and isinstance(explorer, Explorer):
            _connect_explorer(viewer, explorer, many, one, tabs)
            # The data are loaded when they are first asked for, which may take a while.
            trouble = many["trouble"]
            _on(tab.select, lambda: _noted(explorer.trouble()), [], [trouble], turn="images")
    return page


def _controls(viewer: Viewer, examples: Sequence[Example]) -> dict[str, Any]:
    """The left column: the image, the kind of map, the number of maps."""
    file = gr.File(type="binary", label="Image", elem_id="file", height=150)
    message = gr.HTML(elem_id="message")
    gallery = gr.Gallery(
        [(_thumbnail(example), example.class_name) for example in examples],
        label="or one of these",
        columns=4,
        height="auto",
        allow_preview=False,
        interactive=False,
        selected_index=0 if examples else None,
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


def _runs(viewer: Viewer, first: Fitted | None, controls: dict[str, Any]) -> dict[str, list[Any]]:
    """One column a run: its heading, its layer, what it says of the first example."""
    kind, count = controls["kind"].value, controls["count"].value
    own = [viewer.own_layer(run, kind) for run in range(len(viewer.explainers))]
    said = viewer.views(first, kind, own, count)
    layers, views = [], []
    gr.HTML(tabs_html(viewer.names()), visible=len(own) > 1)
    with gr.Row():
        for run, heading in enumerate(viewer.headings()):
            with gr.Column(min_width=290, elem_id=f"run-{run}"):
                gr.HTML(heading)
                layers.append(
                    gr.Dropdown(
                        viewer.layers(run, kind),
                        value=own[run],
                        label="Layer of the maps",
                        elem_id=f"layer-{run}",
                    )
                )
                views.append(gr.HTML(said[run], elem_id=f"view-{run}"))
    return {"layers": layers, "views": views}


def _explorer_page(explorer: Explorer | str) -> dict[str, Any] | None:
    """The filters, and the thumbnails that are left by them."""
    if isinstance(explorer, str):
        gr.HTML(_noted(_capital(explorer or "there are no images to explore.")))
        return None
    start = explorer.start()
    classes = [("any", ANY), *((name, k) for k, name in enumerate(explorer.class_names))]
    with gr.Row(elem_id="filters"):
        which = gr.Dropdown(
            explorer.choices(), value=start.which, label="Answers", scale=2, min_width=220
        )
        true = gr.Dropdown(classes, value=ANY, label="True class", min_width=150)
        predicted = gr.Dropdown(classes, value=ANY, label="Predicted class", min_width=150)
        least = gr.Slider(0, 100, 0, step=1, label="Confidence from, %", min_width=220)
        most = gr.Slider(0, 100, 100, step=1, label="Confidence to, %", min_width=220)
        order = gr.Dropdown(
            [("surest first", "surest"), ("least sure first", "unsurest"), ("as given", "given")],
            value=start.order,
            label="Order",
            min_width=150,
        )
    trouble = gr.HTML(reading_html(), elem_id="trouble")
    thumbs = gr.HTML(
        explorer.html(explorer.select(start), MOST), elem_id="thumbs", js_on_load=PICKED
    )
    listed = gr.State(MOST, time_to_live=3600)
    more = gr.Button(f"List {MOST} more", elem_id="more", visible=_is_cut(explorer, start, MOST))
    return {
        "filters": [which, true, predicted, least, most, order],
        "thumbs": thumbs,
        "listed": listed,
        "more": more,
        "trouble": trouble,
    }


def _noted(sentence: str) -> str:
    return note_html(sentence) if sentence else ""


def _is_cut(explorer: Explorer, wanted: Filter, listed: int) -> bool:
    return len(explorer.select(wanted)) > listed


def _connect(viewer: Viewer, examples: Sequence[Example], one: dict[str, Any]) -> None:
    """What happens when something is dropped, picked or switched."""
    fitted, layers, views = one["fitted"], one["layers"], one["views"]
    chosen = [one["kind"], one["count"], *layers]

    def look(image: Fitted | None, kind: MapKind, count: int, *names: str) -> list[str]:
        return viewer.views(image, kind, names, count)

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

    answer = [fitted, one["message"], *views]
    _on(one["file"].upload, upload, [one["file"], *chosen], answer)
    _on(one["file"].clear, lambda *choice: upload(None, *choice), chosen, answer)
    _on(one["gallery"].select, pick, chosen, [*answer, one["file"]])
    _on(one["kind"].input, switch, [fitted, *chosen[:2]], [*layers, *views])
    for field in (one["count"], *layers):
        _on(field.input, look, [fitted, *chosen], views)


def _connect_explorer(
    viewer: Viewer, explorer: Explorer, many: dict[str, Any], one: dict[str, Any], tabs: Any
) -> None:
    """What happens when thumbnails are filtered or picked."""

    def show(listed: int, *fields: Any) -> list[Any]:
        wanted = _filter(*fields)
        places = explorer.select(wanted)
        return [explorer.html(places, listed), gr.Button(visible=len(places) > listed), listed]

    def pick(event: gr.EventData, *choice: Any) -> list[Any]:
        place = getattr(event, "place", None)
        if type(place) is not int or place not in range(len(explorer.labels_N)):
            raise gr.Error("There is no such image; pick one.", print_exception=False)
        kind, count, *names = choice
        try:
            image = viewer.fit(explorer.example(place).image())
        except Exception as error:  # data sets of all kinds may have gone since
            tell_of(error)
            raise gr.Error(NO_PICTURE, print_exception=False) from error
        views = viewer.views(image, kind, names, count)
        return [image, "", *views, None, gr.Gallery(selected_index=None), gr.Tabs(selected=ONE)]

    shown = [many["thumbs"], many["more"], many["listed"]]
    for field in many["filters"]:
        event = field.release if isinstance(field, gr.Slider) else field.input
        _on(event, lambda *fields: show(MOST, *fields), many["filters"], shown)
    _on(
        many["more"].click,
        lambda listed, *fields: show(min(listed, ANYONES) + MOST, *fields),
        [many["listed"], *many["filters"]],
        shown,
    )
    _on(
        many["thumbs"].select,
        pick,
        [one["kind"], one["count"], *one["layers"]],
        [one["fitted"], one["message"], *one["views"], one["file"], one["gallery"], tabs],
    )


def _filter(
    which: Which, true: int, predicted: int, least: float, most: float, order: Order
) -> Filter:
    """What the fields say."""
    return Filter(
        which=which,
        true=true,
        predicted=predicted,
        least=least / 100,
        most=most / 100,
        order=order,
    )


def _on(
    event: Any,
    answer: Callable[..., Any],
    inputs: list[Any],
    outputs: list[Any],
    *,
    turn: str = "models",
) -> None:
    """One answer at a time for all users: what it waits its turn for is shared, as models are."""
    event(
        answer,
        inputs,
        outputs,
        concurrency_limit=1,
        concurrency_id=turn,
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
