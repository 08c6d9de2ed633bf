"""Several views of which a slider shows one."""

from collections.abc import Sequence

from selfexplain.report.html.text import escape


def slider(label: str, frames: Sequence[str], captions: Sequence[str]) -> str:
    """A range input that shows one of several HTML fragments; at first, the last.

    Without JavaScript the last one is shown and the input stays hidden. The caption is announced to
    screen readers when it changes.

    Args:
        label: what the slider goes through, as text.
        frames: HTML fragments, at least one.
        captions: one for each frame, as text.

    Raises:
        ValueError: there is no frame, or there are not as many captions as frames.

    Example:
        >>> html = slider("epoch", ["<p>a</p>", "<p>b</p>"], ["first", "second"])
        >>> html.count(' hidden data-caption="first"'), '<p aria-live="polite">second</p>' in html
        (1, True)
    """
    if not frames:
        raise ValueError("there are no frames; pass at least one")
    shown = [
        f'<div class="frame"{"" if i == len(frames) else " hidden"} '
        f'data-caption="{escape(caption)}">{frame}</div>'
        for i, (frame, caption) in enumerate(zip(frames, captions, strict=True), start=1)
    ]
    return (
        '<div class="slider">'
        f'<label hidden><span>{escape(label)}</span><input type="range" min="1" '
        f'max="{len(frames)}" value="{len(frames)}" step="1" autocomplete="off"></label>'
        f'<p aria-live="polite">{escape(captions[-1])}</p>{"".join(shown)}</div>'
    )
