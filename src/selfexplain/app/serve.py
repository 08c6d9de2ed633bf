"""The app as a program: runs are loaded, the page is built, a local server shows it."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from selfexplain.errors import InputError, import_failure
from selfexplain.experiments.reading_options import GivenModel
from selfexplain.limits import Limits, check_options

if TYPE_CHECKING:
    from selfexplain.app.explorer import Explorer
    from selfexplain.app.viewer import Viewer


MOST_WAITING = 100
"""Choices of all visitors that wait for an answer; further ones are told to try again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AppConfig(GivenModel):
    """Show a run's prediction, class maps and soft target for any image in a browser."""

    run: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Folder of a finished run (of train, of retrain, of a recorder, or one of a comparison's
    runs/); given twice, two runs side by side."""
    images: Path | None = None
    """Folder of images to choose from; None for those that the first run has kept."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 accepts other machines."""
    port: Annotated[int, Limits(least=1, most=65535)] = 7860
    """Port to listen on."""

    def __post_init__(self) -> None:
        """Refuse what cannot be shown."""
        if len(self.run) > 2:
            raise InputError(f"run names {len(self.run)} folders; pass one, or two to compare")
        check_options(self)
        self.check_given(bool(self.run))


def serve(config: AppConfig) -> None:
    """Show the page until the program is interrupted or terminated; uploads are deleted then.

    To be called in the main thread, which alone receives signals.

    Raises:
        InputError: a run cannot be read, Gradio is missing, or the port cannot be listened on.
    """
    # Not above: the command line reads AppConfig without torch.
    from selfexplain.app.explain import Explainer

    explainers = [Explainer(folder) for folder in config.run] or [Explainer(config)]

    # Here, as they draw with Matplotlib, which is not to hold up a refusal.
    from selfexplain.app.explorer import explorer_of
    from selfexplain.app.gate import connecting_nowhere
    from selfexplain.app.viewer import Viewer, examples_below, read_examples

    viewer = Viewer(explainers)
    first = viewer.explainers[0]
    if config.images is not None:
        examples = examples_below(config.images, first.shape_CHW, first.ranges)
    else:
        examples = read_examples(config.run[0], first.class_names) if config.run else []
    with (
        _ending_like_ctrl_c(),
        tempfile.TemporaryDirectory(prefix="selfexplain-app-") as uploads,
    ):
        # Gradio reads both when it is imported.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = uploads
        explorer = explorer_of(viewer)
        page = _page(viewer, examples, explorer)
        with connecting_nowhere(config.host, config.port):
            launch(page, config, Path(uploads), explorer)
            print(f"Page: http://{config.host}:{config.port} (stop with Ctrl-C)", flush=True)
            page.block_thread()


@contextmanager
def _ending_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, which otherwise ends the process at once, run the clean-up."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _page(viewer: "Viewer", examples: list[Any], explorer: "Explorer | str") -> Any:
    try:
        from selfexplain.app.page import build_page
    except Exception as error:  # a package that is broken may raise anything
        if isinstance(error, InputError):
            raise
        install = "install it with: pip install 'selfexplain[app]'"
        raise import_failure(error, "the app", "gradio", install) from error
    return build_page(viewer, examples, explorer)


def launch(page: Any, config: AppConfig, uploads: Path, explorer: "Explorer | str" = "") -> None:
    """Let Gradio serve the page behind the gate; no files but those in `uploads` are served."""
    from gradio.themes import Base
    from starlette.middleware import Middleware

    from selfexplain.app.explain import MAX_BYTES
    from selfexplain.app.gate import Gate
    from selfexplain.app.page import check_version

    thumbnails = None if isinstance(explorer, str) else explorer.thumbnail
    gate = Middleware(Gate, uploads=uploads, thumbnails=thumbnails)
    fonts = ["system-ui", "sans-serif"]  # as names they come from the system, not from Google
    try:
        page.queue(max_size=MOST_WAITING).launch(
            server_name=config.host,
            server_port=config.port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            # Twice what is read, so that a file a little too large gets our own sentence.
            max_file_size=2 * MAX_BYTES,
            state_session_capacity=200,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            num_workers=0,  # workers would serve files that bypass the gate
            app_kwargs={"middleware": [gate]},
            theme=Base(font=fonts, font_mono=["ui-monospace", "monospace"]),
            css=resources.files("selfexplain.app").joinpath("style.css").read_text(),
        )
        check_version(page)
    except OSError as error:
        raise InputError(
            f"{config.host}:{config.port} is not available; pass another --port or --host"
        ) from error
    except InputError:
        page.close(verbose=False)
        raise
