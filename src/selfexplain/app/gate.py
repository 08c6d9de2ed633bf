"""What strangers may ask of the app's server: the page's own routes, and nothing by a URL.

Gradio's server has some eighty routes, of which the page needs a dozen; others fetch URLs, proxy,
or open files. Three things keep it from reaching out: `Gate` lets through what the page needs,
`check_routes` refuses a Gradio whose routes are not known, and `connecting_nowhere` refuses
connections in the whole process, however they are asked for. Nothing here imports Gradio.
"""

import asyncio
import json
import os
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from selfexplain.app.explain import MAX_BYTES
from selfexplain.errors import InputError, first_line

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Thumbnails = Callable[[int], tuple[str, bytes]]
"""From the place of an image to media type and bytes."""
Server = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
"""An ASGI application."""

TESTED = "6.31.0"
"""The version of Gradio whose routes these are."""
API = "/gradio_api"
THUMBNAIL = "/thumbnail/"
"""Before the place of a scored image."""
FILE = f"{API}/file="
"""Before the path of an uploaded file or of a thumbnail."""
NEEDED = {
    "GET": re.compile(
        rf"/|/thumbnail/\d{{1,9}}|/config|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(static|assets)/.+"
        rf"|{API}/(theme\.css|startup-events|queue/data|upload_progress|heartbeat/\w+)"
    ),
    "HEAD": re.compile("/"),
    "POST": re.compile(rf"{API}/(queue/join|cancel|upload)"),
}
"""Method -> paths that the page requests, other than files."""
KNOWN = frozenset(
    resources.files("selfexplain.app").joinpath("gradio_routes.txt").read_text().splitlines()
)
"""Method and path of all routes of the tested version, those that stay closed too."""

MAX_PATH = 1_000
"""Characters of a path and of a query."""
MAX_CHOICE = 100_000
"""Bytes of a request that is no upload: a few choices as JSON."""
MAX_UPLOAD = 2 * MAX_BYTES + 100_000
"""Bytes of an upload: of a file that Gradio takes, and of what is written around it."""
MAX_HELD = 4_000_000_000
"""Bytes of all uploads that are held at a time; each is deleted after an hour or a little more."""
HELD_SECONDS = 4_200
URL = re.compile(r"\s*([a-z][a-z0-9+.-]*:[/\\]|[/\\]{2})", re.IGNORECASE)
HOST = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", re.IGNORECASE | re.ASCII)
DROPPED = {b"range", b"x-gradio-server"}
"""Headers that the page does not send, and that Gradio reads as offsets and as a URL."""

NO_PICTURE = "The image cannot be read; the terminal of the app says why."
UNREADABLE = "The request is malformed."
REFUSED = "This address is closed: the app answers only requests from its own page."
NO_FILE = "A URL or a path was sent instead of a file; upload the file itself."


def tell_of(error: BaseException | None) -> None:
    """Say in the terminal, in one line, that a request could not be answered."""
    if error is not None:
        said = first_line(error).encode("ascii", "backslashreplace").decode()[:300]
        said = "".join(letter if letter.isprintable() else "?" for letter in said)
        print(f"A request failed ({type(error).__name__}: {said})", file=sys.stderr)


def check_routes(routes: Iterable[str], version: str) -> None:
    """Refuse a Gradio with routes (method and path) that were not tested."""
    unknown = sorted(
        {route if route.endswith(" /") else route.rstrip("/") for route in routes} - KNOWN
    )
    if unknown:
        raise InputError(
            f"Gradio {version} has routes that selfexplain does not know "
            f"({', '.join(unknown[:3])}) and that might open files or connections; "
            f"install the tested version with: pip install 'gradio=={TESTED}'"
        )


def is_needed(method: str, path: str, uploads: Path) -> bool:
    """Whether the page sends such requests; `path` is decoded and has no query."""
    if len(path) > MAX_PATH or not path.isprintable():
        return False
    if path.startswith(FILE):
        return method in {"GET", "HEAD"} and _is_inside(path.removeprefix(FILE), uploads)
    # Gradio checks this too; no path of its own files has two dots or a backslash.
    if ".." in path or "//" in path or "\\" in path:
        return False
    return method in NEEDED and NEEDED[method].fullmatch(path) is not None


def names_elsewhere(value: Any, uploads: Path, key: str = "") -> bool:
    """Whether the JSON of a request names a URL, or a file outside the folder of uploads."""
    if isinstance(value, dict):
        return any(names_elsewhere(each, uploads, name) for name, each in value.items())
    if isinstance(value, list):
        return any(names_elsewhere(each, uploads, key) for each in value)
    if not isinstance(value, str):
        return False
    if key == "path":
        return not _is_inside(value, uploads)
    # The page sends back the address at which its upload is served; Gradio does not read it.
    return key != "url" and URL.match(unquote_plus(value)) is not None


def _is_inside(path: str, folder: Path) -> bool:
    """Whether a file lies in a folder, links followed; no relative path does."""
    try:
        return Path(path).is_absolute() and Path(path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # a null byte, a name that is too long, a loop of links
        return False


class Gate:
    """ASGI middleware before the server: requests that the page does not need end here."""

    def __init__(self, app: Any, *, uploads: Path, thumbnails: Thumbnails | None = None) -> None:
        self.app: Server = app
        self.uploads = uploads
        self.thumbnails = thumbnails
        self._held: deque[tuple[float, int]] = deque()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            scope, refusal = self._checked(scope)
            if refusal is None and self._is_choice(scope):
                receive, refusal = await self._checked_choice(receive)
            if refusal is not None:
                await _answer(*refusal, send)
            elif _path(scope).startswith(THUMBNAIL):
                await self._thumbnail(int(_path(scope).removeprefix(THUMBNAIL)), send)
            else:
                await self._passed_on(scope, receive, send)

    async def _thumbnail(self, place: int, send: Send) -> None:
        """Answer with a small picture of one of the scored images; Gradio is not asked."""
        try:
            if self.thumbnails is None:
                raise InputError("no images are explored")
            kind, content = await asyncio.to_thread(self.thumbnails, place)
        except Exception as error:  # data sets of all kinds may have gone since
            tell_of(error)
            await _answer(404, NO_PICTURE, send)
            return
        await _send(200, kind.encode(), content, send, (b"cache-control", b"private, max-age=3600"))

    async def _passed_on(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Let the server answer; on input it cannot read it may raise anything."""
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            tell_of(error)
            if not begun:
                await _answer(400, UNREADABLE, send)

    def _checked(self, scope: dict[str, Any]) -> tuple[dict[str, Any], tuple[int, str] | None]:
        """The request without misleading headers, and the refusal, if any."""
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        kept = [header for header in headers if _is_harmless(*header)]
        scope = {**scope, "headers": kept}
        query = scope.get("query_string", b"").decode("latin-1")
        host = dict(headers).get(b"host", b"localhost").decode("latin-1")
        if not HOST.fullmatch(host) or not is_needed(scope["method"], _path(scope), self.uploads):
            return scope, (404, REFUSED)
        if len(query) > MAX_PATH or _has_url(query):
            return scope, (404, REFUSED)
        return scope, self._too_large(scope, dict(headers))

    def _too_large(
        self, scope: dict[str, Any], headers: Mapping[bytes, bytes]
    ) -> tuple[int, str] | None:
        if b"transfer-encoding" in headers:  # of no length that is known before the end
            return 411, "The request has no Content-Length; send one."
        length = int(headers.get(b"content-length", b"0"))  # the server has checked the digits
        if not _path(scope).endswith("/upload"):
            most = f"{MAX_CHOICE / 1e3:g} kB"
            return (413, f"The request exceeds {most}.") if length > MAX_CHOICE else None
        if length > MAX_UPLOAD:
            most = f"{MAX_BYTES / 1e6:g} MB"
            return 413, f"The file exceeds the maximum allowed size; pass one of at most {most}."
        return self._no_room(length)

    def _no_room(self, length: int) -> tuple[int, str] | None:
        now = time.monotonic()
        while self._held and self._held[0][0] < now - HELD_SECONDS:
            self._held.popleft()
        if sum(size for _, size in self._held) + length > MAX_HELD:
            return 503, "The uploads of the last hour have reached the limit; try again later."
        self._held.append((now, length))
        return None

    def _is_choice(self, scope: dict[str, Any]) -> bool:
        return scope["method"] == "POST" and not _path(scope).endswith("/upload")

    async def _checked_choice(self, receive: Receive) -> tuple[Receive, tuple[int, str] | None]:
        """Read the JSON of a request; hand it on as it was."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return receive, (400, "The connection ended before the whole request had arrived.")
            body, more = body + message.get("body", b""), message.get("more_body", False)
        try:
            elsewhere = names_elsewhere(json.loads(body), self.uploads)
        except (ValueError, RecursionError):
            return receive, (400, "The body of the request is not valid JSON.")
        if elsewhere:
            return receive, (400, NO_FILE)
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again, None


def _path(scope: Mapping[str, Any]) -> str:
    """What the routes are compared with: without the folder that a proxy serves the app at."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _is_harmless(name: bytes, value: bytes) -> bool:
    """Whether Gradio may see a header: it builds addresses from what it takes for its own host."""
    if name == b"x-forwarded-host":
        return all(HOST.fullmatch(host.strip()) for host in value.decode("latin-1").split(","))
    return name not in DROPPED


def _has_url(query: str) -> bool:
    return any(URL.match(unquote_plus(value)) for value in re.split("[=&]", query))


async def _answer(status: int, sentence: str, send: Send) -> None:
    body = json.dumps({"detail": sentence}).encode()
    # What is left of the request is not read.
    await _send(status, b"application/json", body, send, (b"connection", b"close"))


async def _send(
    status: int, kind: bytes, body: bytes, send: Send, *more: tuple[bytes, bytes]
) -> None:
    length = str(len(body)).encode()
    headers = [(b"content-type", kind), (b"content-length", length), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class OutgoingRefusedError(PermissionError):
    """Something in this process tried to reach another machine while the app runs."""


_reachable: dict[str, Any] = {}
"""What may be reached while an app runs: `names`, `addresses` and `port`; empty if none runs."""
_LOOK_UPS = {
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "socket.getnameinfo",
}
_SENDS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


@contextmanager
def connecting_nowhere(host: str, port: int) -> Iterator[None]:
    """Refuse connections and name look-ups in this process, except to the app itself.

    This holds for every library: Python announces each before it is made. Proxies from the
    environment are left aside, as Gradio would ask them for its own page.
    """
    addresses = {"127.0.0.1", "::1", *_addresses(host)}
    names = {host, "localhost", *addresses}
    proxies = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    if not _reachable.get("hooked"):
        sys.addaudithook(_refuse_outgoing)  # it cannot be taken away, but it rests with the app
    _reachable.update(hooked=True, names=names, addresses=addresses, port=port)
    os.environ.update(dict.fromkeys(proxies, "*"))
    try:
        yield
    finally:
        for name in ("names", "addresses", "port"):
            _reachable.pop(name)
        for name, value in proxies.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _addresses(host: str) -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:  # it cannot be listened on either, which is told then
        return set()


def _refuse_outgoing(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: called with each event of the interpreter, so most are dismissed at once."""
    if not event.startswith("socket.") or "names" not in _reachable:
        return
    if event in _LOOK_UPS:
        host = args[0][0] if isinstance(args[0], tuple) else args[0]
        allowed = host is None or _text(host) in _reachable["names"]
    elif event in _SENDS:
        address = args[1]
        # A text is a socket's file on this machine, None a partner that was connected before.
        allowed = not isinstance(address, tuple) or (
            _text(address[0]) in _reachable["addresses"] and address[1] == _reachable["port"]
        )
    else:
        return
    if not allowed:
        raise OutgoingRefusedError(
            "while the app runs, this process may connect only to the app itself"
        )


def _text(host: str | bytes | bytearray) -> str:
    return host if isinstance(host, str) else bytes(host).decode("latin-1")
