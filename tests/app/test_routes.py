"""What strangers ask of the app's server: every route of Gradio, with a stand-in for other hosts.

The stand-in is a server on the loopback interface that counts who comes. Gradio's own check of
addresses is set to take it for a public one, so that nothing but the app's own guards is tested.
"""

import asyncio
import contextlib
import doctest
import http.client
import importlib.util
import json
import os
import re
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from selfexplain.app import gate
from selfexplain.app.explain import Explainer
from selfexplain.app.explorer import Explorer
from selfexplain.app.gate import (
    Gate,
    OutgoingRefusedError,
    check_routes,
    connecting_nowhere,
    is_needed,
    names_elsewhere,
)
from selfexplain.app.serve import AppConfig, launch
from selfexplain.app.viewer import Viewer, read_examples
from selfexplain.errors import InputError

Runs = tuple[Path, Path]
with_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="Gradio (the extra app) is not installed"
)


class StandIn:
    """A host that somebody wants the app to reach: it sends a redirect to itself, then a file."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200 if "again" in self.path else 302)
                self.send_header("Location", "/again")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_POST = do_CONNECT = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class App:
    """An app that runs in this process, and whom it may have reached."""

    def __init__(self, page: Any, port: int, uploads: Path, stand_in: StandIn) -> None:
        self.page, self.port, self.uploads, self.stand_in = page, port, uploads, stand_in

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and beginning of an answer; what streams is not waited for."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        length = {"Content-Length": str(len(body))} if body else {}
        for name, value in {**length, **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders()
        # What is refused by its length is not waited for.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(body)
        answer = connection.getresponse()
        begun = b"" if "event-stream" in str(answer.getheader("content-type")) else answer.read()
        connection.close()
        return answer.status, begun

    def routes(self) -> set[tuple[str, str]]:
        """Method and path of all routes."""
        from fastapi.routing import iter_route_contexts

        found = iter_route_contexts(self.page.app.routes)
        return {(method, str(route.path)) for route in found for method in route.methods or []}


@pytest.fixture(scope="module")
def app(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    pytest.importorskip("gradio")
    import safehttpx

    async def resolved(hostname: str) -> str:
        return "127.0.0.1"

    stand_in, uploads = StandIn(), tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch, socket.socket() as free:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        proxy = f"http://127.0.0.1:{stand_in.port}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.setenv(name, proxy)
        patch.setattr(safehttpx, "async_validate_url", resolved)
        from selfexplain.app.page import build_page

        explainer = Explainer(runs[0])
        viewer = Viewer([explainer])
        explorer = Explorer(viewer.explainers, viewer.names())
        page = build_page(viewer, read_examples(runs[0], explainer.class_names), explorer)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        config = AppConfig(run=(runs[0],), port=port)
        # Not guarded as a whole process: what the gate and the closed functions let through counts.
        patch.setenv("NO_PROXY", "*")
        launch(page, config, uploads, explorer)
        for name in ("NO_PROXY", "no_proxy"):
            patch.delenv(name, raising=False)
        yield App(page, port, uploads, stand_in)
        page.close(verbose=False)
        stand_in.server.shutdown()


def spelt(host: str) -> list[str]:
    """The address of the stand-in, in the spellings that get past simple checks."""
    port = host.rpartition(":")[2]
    return [
        f"http://{host}/x",
        f"HTTP://{host}/x",
        f"http:/{host}/x",
        f"http:\\\\{host}\\x",
        f"//{host}/x",
        f"\\\\{host}\\x",
        f"%68ttp%3A%2F%2F{host}/x",
        f"%2568ttp://{host}/x",
        f"http://user@{host}/x",
        f"http://[::ffff:127.0.0.1]:{port}/x",
        f"http://2130706433:{port}/x",
        f"http://localhost:{port}/x",
        f" http://{host}/x",
        f"file://{host}/etc/passwd",
        f"https://{host}/x",
        f"/gradio_api/file=http://{host}/x",
    ]


def bodies(url: str) -> list[bytes]:
    """Where a URL may stand in what is sent."""
    file = {"path": url, "url": url, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    nested = {"data": [file, url, {"image": file, "is_stream": True}], "session_hash": "s"}
    more = {"fn_index": 0, "event_data": {"index": url}, "trigger_id": None, "event_id": url}
    named = {"component_id": 3, "fn_name": url, "prompt": url, "code": url, "bucket_id": url}
    only_url = {"data": [{**file, "path": "a.png"}, "cam", 10, ""], "session_hash": "s"}
    return [
        json.dumps(nested | more | named).encode(),
        json.dumps(only_url | {"fn_index": 0}).encode(),
        json.dumps(file).encode(),
    ]


def requests(
    method: str, path: str, urls: list[str]
) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Path, body and headers: the URL in each place of each."""
    for url in urls:
        quoted = urllib.parse.quote(url, safe="%/:\\@[]")
        whole = urllib.parse.quote(url, safe="")
        filled = re.sub(r"{[^}]*:path}", lambda _, quoted=quoted: quoted, path)
        filled = re.sub(r"{component_id}|{size}", "3", filled)
        yield re.sub(r"{\w+}", whole, filled), b"", {}
        if "{" in path:
            yield re.sub(r"{\w+(:path)?}", whole, path), b"", {}
    url, whole = urls[0], urllib.parse.quote(urls[0], safe="")
    plain = re.sub(r"{[^}]*}", "3", path)
    for name in ("url", "path", "session_hash", "upload_id", "deep_link", "page", "__sign", "q"):
        yield f"{plain}?{name}={whole}", b"", {}
    host = url.split("/")[2]
    for name in ("X-Forwarded-Host", "X-Gradio-Server", "Host", "Origin", "Referer", "Cookie"):
        yield plain, b"", {name: host if name in {"X-Forwarded-Host", "Host"} else url}
    if method == "POST":
        for body in bodies(url):
            yield plain, body, {"Content-Type": "application/json"}
        head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{url}"'
        form = f"{head}\r\n\r\n{url}\r\n--b--"
        yield plain, form.encode(), {"Content-Type": "multipart/form-data; boundary=b"}


@with_gradio
def test_no_route_fetches_a_url(app: App) -> None:
    """Each route of this very Gradio, the URL in its path, query, headers and body."""
    routes = app.routes()
    assert len(routes) > 80
    urls = spelt(f"127.0.0.1:{app.stand_in.port}")
    for method, path in sorted(routes):
        for target, body, headers in requests(method, path, urls):
            status, _ = app.ask(method, target, body, headers)
            assert status != 500, (method, target)
    # The queue works off what was joined before it answers one more.
    assert answered(app, [None, "cam", 10, ""])["success"]
    assert app.stand_in.asked == []


def answered(app: App, data: list[Any], **more: Any) -> dict[str, Any]:
    """What comes of a choice that is sent as the page sends it."""
    body = {"data": data, "fn_index": 0, "session_hash": "page", **more}
    headers = {"Content-Type": "application/json"}
    status, said = app.ask("POST", "/gradio_api/queue/join", json.dumps(body).encode(), headers)
    assert status == 200, said
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=60)
    connection.request("GET", "/gradio_api/queue/data?session_hash=page")
    for line in connection.getresponse():
        if b"process_completed" in line:
            connection.close()
            return dict(json.loads(line.removeprefix(b"data: ")))
    raise AssertionError("the queue ended without an answer")


def uploaded(app: App, content: bytes) -> dict[str, Any]:
    """An upload as the page makes it, as the payload that it then sends."""
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    status, said = app.ask(
        "POST", "/gradio_api/upload?upload_id=u1", head + content + b"\r\n--b--", headers
    )
    assert status == 200, said
    path = json.loads(said)[0]
    url = f"http://127.0.0.1:{app.port}/gradio_api/file={path}"
    return {"path": path, "url": url, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}


@with_gradio
def test_what_the_page_needs_is_answered(app: App) -> None:
    file = uploaded(app, b"only text")
    end = answered(app, [file, "cam", 10, ""])
    assert end["success"]
    assert "is not an image in a supported format" in json.dumps(end)
    assert app.ask("GET", f"/gradio_api/file={file['path']}")[1] == b"only text"
    for path in ("/", "/config", "/theme.css", "/gradio_api/heartbeat/abc123"):
        assert app.ask("GET", path)[0] == 200
    page = app.ask("GET", "/")[1].decode()
    assert not re.search(r"""(src|href)=["']?(https?:)?//(?!127\.0\.0\.1)""", page)


@with_gradio
def test_thumbnails_are_pictures_or_refused(app: App) -> None:
    status, content = app.ask("GET", "/thumbnail/358")
    assert (status, content[1:4]) == (200, b"PNG")
    for path in ("359", "-1", "1.5", "1/2", "", "0/../1", "1?url=http://127.0.0.1/", "9999999999"):
        status, said = app.ask("GET", f"/thumbnail/{path}")
        assert status == 404, path
        assert b"Traceback" not in said
    assert app.ask("POST", "/thumbnail/1", b"{}")[0] == 404


@with_gradio
@pytest.mark.parametrize("place", [359, -1, "0", [0], None, {}, 1.0, True])
def test_a_picked_image_that_is_not_there(place: Any, app: App) -> None:
    config = json.loads(app.ask("GET", "/config")[1])
    # Of the examples, of the thumbnails, of the tab.
    picks = [each for each in config["dependencies"] if each["targets"][0][1] == "select"]
    data = ["cam", 10, ""]
    for event_data in ({"place": place}, place):
        end = answered(app, data, fn_index=picks[1]["id"], event_data=event_data)
        assert not end["success"]
    assert answered(app, data, fn_index=picks[1]["id"], event_data={"place": 3})["success"]


@with_gradio
@pytest.mark.parametrize("index", [99, -1, "0", [0], None, {}])
def test_an_example_that_is_not_there(index: Any, app: App) -> None:
    config = json.loads(app.ask("GET", "/config")[1])
    pick = next(each for each in config["dependencies"] if each["targets"][0][1] == "select")
    shown = next(each for each in config["components"] if each["id"] == pick["targets"][0][0])
    thumbnails = [each["image"]["path"] for each in shown["props"]["value"]]
    assert all(app.ask("GET", f"/gradio_api/file={path}")[0] == 200 for path in thumbnails)
    more = {"fn_index": pick["id"], "event_data": {"index": index, "value": None}}
    end = answered(app, ["cam", 10, ""], **more)
    assert not end["success"]
    assert "There is no such example" in json.dumps(end)


@with_gradio
@pytest.mark.parametrize(
    ("data", "more"),
    [
        (["cam", 10, ""], {"event_data": {"index": 0}}),  # without its `value`
        (["cam", 10, ""], {"event_data": {}}),
        (["cam", 11, ""], {}),  # a number of maps that is not offered
        ([[], {}, None], {}),
        ([], {}),
    ],
)
def test_a_choice_that_a_client_made_up_is_a_line_in_the_terminal(
    data: list[Any], more: dict[str, Any], app: App, capfd: pytest.CaptureFixture[str]
) -> None:
    config = json.loads(app.ask("GET", "/config")[1])
    pick = next(each for each in config["dependencies"] if each["targets"][0][1] == "select")
    assert not answered(app, data, fn_index=pick["id"], **more)["success"]
    said = capfd.readouterr().err
    assert "A request failed (" in said
    assert "Traceback" not in said


@with_gradio
@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("cancel", b'{"data": 1e999}', "application/json"),
        ("upload", b"--" + b"a" * 300 + b"--", "multipart/form-data; boundary=" + "a" * 300),
        (
            "upload",
            b'--a\r\nContent-Disposition: form-data; name="files"\r\n\r\nabc\r\n--a--\r\n',
            "multipart/form-data; boundary=a",
        ),
    ],
)
def test_a_request_that_gradio_cannot_read_is_refused(
    path: str, body: bytes, kind: str, app: App, capfd: pytest.CaptureFixture[str]
) -> None:
    status, answer = app.ask("POST", f"/gradio_api/{path}", body, {"Content-Type": kind})
    assert (status, b"is malformed" in answer) == (400, True)
    assert "Traceback" not in capfd.readouterr().err


@with_gradio
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "{uploads}/../../../../../../../../etc/passwd",
        "{uploads}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "file:///etc/passwd",
        "~/.bashrc",
        "/proc/self/environ",
        "data:text/html,x",
        "{cwd}/pyproject.toml",
        "{uploads}/link",
        "{uploads}/a%00b",
        "{uploads}",
    ],
)
def test_no_file_of_the_machine_is_served(path: str, app: App) -> None:
    link = app.uploads / "link"
    if not link.is_symlink():
        link.symlink_to("/etc/passwd")
    path = path.format(uploads=app.uploads, cwd=Path.cwd())
    for start in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/"):
        for method in ("GET", "HEAD"):
            status, said = app.ask(method, start + path)
            assert status in {403, 404, 405}, start
            assert b"root:" not in said


@with_gradio
def test_what_is_too_large_or_of_no_length_is_refused(app: App) -> None:
    join, upload = "/gradio_api/queue/join", "/gradio_api/upload"
    assert app.ask("POST", join, b" " * 100_001)[0] == 413
    assert app.ask("POST", upload, headers={"Content-Length": str(10**11)})[0] == 413
    assert app.ask("POST", upload, b"0\r\n\r\n", {"Transfer-Encoding": "chunked"})[0] == 411
    assert app.ask("POST", join, b"[" * 90_000)[0] == 400
    assert app.ask("POST", join, b"{")[0] == 400
    assert app.ask("GET", "/gradio_api/upload_progress?upload_id=" + "u" * 2_000)[0] == 404
    assert app.ask("GET", "/" + "a" * 2_000)[0] == 404


@with_gradio
def test_a_foreign_host_is_not_taken_for_the_apps_own(app: App) -> None:
    for name in ("X-Forwarded-Host", "X-Gradio-Server"):
        for value in ("http://stranger.invalid/x", "a/b@c", "["):
            status, said = app.ask("GET", "/config", headers={name: value})
            assert status == 200
            assert b"stranger" not in said
    assert app.ask("GET", "/config", headers={"Host": "[::"})[0] in {400, 404}


@with_gradio
def test_a_websocket_is_closed(app: App) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x" * 22 + "==",
    }
    assert app.ask("GET", "/gradio_api/queue/join", headers=upgrade)[0] in {403, 404}

    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    app_behind: Any = None  # it would fail if it were called
    asyncio.run(Gate(app_behind, uploads=app.uploads)({"type": "websocket"}, app_behind, send))
    assert said == [{"type": "websocket.close", "code": 1008}]


@with_gradio
def test_uploads_of_an_hour_have_a_bound(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MAX_HELD", 0)
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    status, said = app.ask("POST", "/gradio_api/upload", b"--b--", headers)
    assert status == 503
    assert b"try again later" in said
    monkeypatch.setattr(gate, "HELD_SECONDS", -1)
    monkeypatch.setattr(gate, "MAX_HELD", 10)
    assert app.ask("POST", "/gradio_api/upload", b"--b--", headers)[0] != 503


@with_gradio
def test_a_version_of_other_routes_does_not_start(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradio.routes import App as GradioApp

    from selfexplain.app.page import build_page

    create = GradioApp.create_app

    def with_another(*args: Any, **options: Any) -> Any:
        made = create(*args, **options)
        made.add_api_route("/gradio_api/fetch", lambda url: url)
        return made

    monkeypatch.setattr(GradioApp, "create_app", staticmethod(with_another))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = build_page(Viewer([Explainer(runs[1])]), [])
    message = r"GET /gradio_api/fetch.*pip install 'gradio==6\.31\.0'"
    with connecting_nowhere("127.0.0.1", port), pytest.raises(InputError, match=message):
        launch(page, AppConfig(run=(runs[1],), port=port), tmp_path)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@with_gradio
def test_functions_that_fetch_are_closed_or_the_app_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import gradio as gr

    from selfexplain.app import page

    for module, name in page.FETCHING:
        monkeypatch.setattr(module, name, getattr(module, name))
    page.refuse_urls()
    for module, name in page.FETCHING:
        with pytest.raises(gr.Error, match="instead of a file"):
            asyncio.run(getattr(module, name)("http://127.0.0.1:9/x", "cache"))
    monkeypatch.delattr(*page.FETCHING[-1])
    with pytest.raises(InputError, match="pip install 'gradio=="):
        page.refuse_urls()


def test_known_routes_are_compared_by_method() -> None:
    check_routes(gate.KNOWN, "6.31.0")
    for route in ("POST /", "GET /gradio_api/fetch", "Mount /files", "WebSocketRoute /ws"):
        with pytest.raises(InputError, match=route):
            check_routes([*gate.KNOWN, route], "6.32.0")


def test_no_connection_leaves_the_process() -> None:
    """By whatever function; proxies are left aside; afterwards all is as before."""
    import httpx

    stand_in = StandIn()
    elsewhere = ("127.0.0.1", stand_in.port)
    before = dict(os.environ)
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        port = own.getsockname()[1]
        with (
            connecting_nowhere("127.0.0.1", port),
            socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        ):
            for attempt in (
                lambda: socket.create_connection(elsewhere),
                lambda: socket.getaddrinfo("stranger.invalid", 80),
                lambda: socket.gethostbyname(b"stranger.invalid"),
                lambda: datagrams.sendto(b"x", elsewhere),
                lambda: asyncio.run(asyncio.open_connection(*elsewhere)),
            ):
                with pytest.raises(OutgoingRefusedError):
                    attempt()
            with pytest.raises((httpx.TransportError, OutgoingRefusedError)):
                httpx.get(f"http://127.0.0.1:{stand_in.port}/again")
            socket.create_connection(("127.0.0.1", port)).close()
            assert os.environ["NO_PROXY"] == "*"
    assert dict(os.environ) == before
    assert stand_in.asked == []
    socket.create_connection(elsewhere).close()
    stand_in.server.shutdown()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get", ""])
def test_methods_and_paths_that_are_not_the_pages(method: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    own = {"/", "/static/img/logo.svg", f"/gradio_api/file={tmp_path}/a.png"}
    for path in own:
        reads = method in ({"GET"} if "static" in path else {"GET", "HEAD"})
        assert is_needed(method, path, tmp_path) == reads
    for path in (
        "/gradio_api/proxy=http://127.0.0.1/x",
        "/static/../../etc/passwd",
        "/static/a\\b",
        "/static/a\nb",
        "/gradio_api/queue/join/../../x",
        "/gradio_api//upload",
        "/GRADIO_API/upload",
        "//127.0.0.1/x",
        f"/gradio_api/file={tmp_path}x/a.png",
    ):
        assert not is_needed(method, path, tmp_path)


def test_urls_are_found_wherever_they_stand(tmp_path: Path) -> None:
    inside = str(tmp_path / "a.png")
    assert not names_elsewhere({"data": [{"path": inside, "url": "http://me/a"}, "b:c"]}, tmp_path)
    for url in spelt("127.0.0.1:80"):
        if not url.startswith("/gradio_api"):
            # What is quoted twice is no URL to anybody who reads JSON.
            assert names_elsewhere({"data": [None, {"a": [url]}]}, tmp_path) == ("%25" not in url)
        assert names_elsewhere({"data": [{"path": url}]}, tmp_path)
        assert names_elsewhere({"data": [{"path": [url]}]}, tmp_path)


def test_examples(app: App) -> None:
    """Here, as doctest's own collection would import Gradio in every worker (conftest.py)."""
    from selfexplain.app import page

    found = doctest.testmod(page, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0
