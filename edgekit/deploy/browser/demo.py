"""The demo's server: loopback only, its files from the package and from an installed LiteRT.js, nothing from the network."""

import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, DatasetError, EdgekitError, InputError, UnsupportedOpError
from edgekit.system import rooms
from edgekit.system.environment import home
from edgekit.system.serial import parse_json
from edgekit.tasks.base import Prediction
from edgekit.workflows.predict import Predictor

ADDRESS = "127.0.0.1"
VERSION = "2.5.3"
# LiteRT.js is an npm package: the browser's part of the runtime, 38 MB of WebAssembly that the wheel does not carry.
PACKAGES = ("core", "wasm-utils")
_SCOPE = "@litertjs"
_VARIABLE = "EDGEKIT_LITERTJS"
_DTYPES = ("float32", "int32", "uint8")
_LARGEST_BODY = 32 * 2**20
_MOST_ROWS = 16
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
}


def find_runtime(given: Path | None) -> Path:
    """The folder that holds LiteRT.js's packages: `given`, $EDGEKIT_LITERTJS, ./node_modules or the user's own.

    Raises `InputError` with the command that installs it if none of them has it."""
    named = given or (Path(os.environ[_VARIABLE]) if os.environ.get(_VARIABLE) else None)
    places = [named] if named else [Path.cwd(), home()]
    for place in places:
        for folder in (place, place / _SCOPE, place / "node_modules" / _SCOPE):
            if all((folder / name / "dist/index.js").is_file() for name in PACKAGES) and (folder / "core/wasm").is_dir():
                return folder.resolve()
    where = f"{named}: holds no LiteRT.js" if named else "LiteRT.js is not installed"
    raise InputError(f"{where}; run npm install --prefix {home()} {_SCOPE}/core@{VERSION}, the one step that needs a network")


def check_runs(predictor: Predictor) -> None:
    """Raise `UnsupportedOpError` if LiteRT.js cannot feed the file or read it."""
    signature = predictor.signature
    if predictor.task.columns.choices:
        raise UnsupportedOpError(
            f"{predictor.path}: task {predictor.task.name}: the page runs one input, and an answer compares several; "
            "use edgekit predict"
        )
    for spec, option in [*((spec, "--inputs") for spec in signature.inputs), *((spec, "--outputs") for spec in signature.outputs)]:
        if spec.dtype not in _DTYPES:
            raise UnsupportedOpError(
                f"{predictor.path}: {spec.name} is {spec.dtype}, and LiteRT.js takes {', '.join(_DTYPES)}; "
                f"convert again with {option} float32 or uint8"
            )


def describe(predictor: Predictor) -> dict[str, Any]:
    """What the page has to know of the file."""
    return {
        "file": predictor.path.name,
        "size_bytes": predictor.path.stat().st_size,
        "kind": "text" if predictor.is_text else "image",
        "task": predictor.task.name,
        "halves": predictor.halves,
        "inputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in predictor.signature.inputs],
    }


def shown(prediction: Prediction) -> dict[str, Any]:
    """An answer as the page shows it."""
    return {name: getattr(prediction, name) for name in ("answer", "score", "fields", "milliseconds", "remark")}


class Server(ThreadingHTTPServer):
    """Serves one file's demo at `url`. Inferences run one after the other, since a predictor is no shared thing."""

    daemon_threads = True

    def __init__(self, predictor: Predictor, runtime: Path, port: int = 0) -> None:
        """Listen on loopback; port 0 takes a free one. Raises `ConfigError` for a port that is in use or not allowed."""
        self.predictor, self.runtime = predictor, runtime
        self.turn = threading.Lock()
        # Rows whose outputs a page still has to bring, by number.
        self.rows: dict[int, Samples] = {}
        self.asked = 0
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror or error}; choose another, or leave it out for a free one") from None

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"

    def answer(self, first: str | Path, second: str | None = None) -> dict[str, Any]:
        """What `edgekit predict` says, and the arrays that it fed, for the browser to feed alike. Raises `DatasetError`."""
        started = time.perf_counter()
        samples, remark = self.predictor.encode(first, second)
        if len(samples) > 1:
            remark = f"the text takes {len(samples)} windows, and this page runs the first alone"
            samples = samples.span(slice(0, 1))
        prediction = replace(self.predictor.answer(samples, started), remark=remark)
        row, signature = self.predictor.fed(samples)
        inputs = {
            name: {"dtype": str(values.dtype), "shape": list(values.shape), "values": np.ravel(values).tolist()}
            for name, values in row.items()
        }
        self.asked += 1
        self.rows = {number: self.rows[number] for number in list(self.rows)[1 - _MOST_ROWS :]} | {self.asked: samples}
        return {"predict": shown(prediction), "inputs": inputs, "signature": signature, "row": self.asked}

    def read(self, row: object, outputs: object) -> dict[str, Any]:
        """The answer in what the browser's inference gave for a row, raw by name. Raises `DatasetError`."""
        if not isinstance(row, int) or row not in self.rows or not isinstance(outputs, Mapping):
            raise DatasetError("there is no such row any more; run it again")
        return shown(self.predictor.read(outputs, self.rows[row]))


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    # A client that stops in the middle of a request does not keep a thread.
    timeout = 30

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if not self._is_ours():
            return
        if path == "/":
            self._page()
        elif path == "/model.json":
            self._json(describe(self.server.predictor))
        elif path == "/model.tflite":
            self._file(self.server.predictor.path, "application/octet-stream")
        elif path in ("/demo.js", "/demo.css"):
            content = files("edgekit.deploy.browser").joinpath(path[1:]).read_bytes()
            self._send(200, content, _TYPES[Path(path).suffix])
        elif path.startswith("/litertjs/"):
            self._runtime_file(path.removeprefix("/litertjs/"))
        else:
            self._send(404, b"not found\n", "text/plain")

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > _LARGEST_BODY:
            self.close_connection = True
            self._json({"error": "the request is too large, or does not say how long it is"}, 413)
            return
        body = self.rfile.read(int(length))
        answers = {"/predict/text": self._text, "/predict/image": self._image, "/read": self._outputs}
        if (reply := answers.get(self.path)) is None:
            self._send(404, b"not found\n", "text/plain")
            return
        try:
            with self.server.turn:
                content = reply(body)
        except (EdgekitError, ValueError, OSError) as error:
            self._json({"error": str(error)}, 400)
        else:
            self._json(content)

    def _text(self, body: bytes) -> dict[str, Any]:
        question = parse_json(body)
        if not isinstance(question, Mapping) or not isinstance(question.get("text"), str):
            raise ValueError('the body is not {"text": …}')
        pair = question.get("pair")
        return self.server.answer(question["text"], str(pair) if pair is not None else None)

    def _outputs(self, body: bytes) -> dict[str, Any]:
        run = parse_json(body)
        if not isinstance(run, Mapping):
            raise ValueError('the body is not {"row": …, "outputs": …}')
        return self.server.read(run.get("row"), run.get("outputs"))

    def _image(self, body: bytes) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile(dir=rooms.rooms()) as room:
            room.write(body)
            room.flush()
            return self.server.answer(Path(room.name))

    def _is_ours(self) -> bool:
        """Pages of other sites may reach loopback under a name of their own, but not read what is refused."""
        hosts = {f"{name}:{self.server.server_port}" for name in (ADDRESS, "localhost")}
        allowed = {f"http://{host}" for host in hosts}
        ours = self.headers.get("Host") in hosts and self.headers.get("Origin", next(iter(allowed))) in allowed
        if not ours:
            self.close_connection = True
            self._send(403, b"only for pages of this server\n", "text/plain")
        return ours

    def _page(self) -> None:
        from jinja2 import Environment, StrictUndefined

        environment = Environment(autoescape=True, undefined=StrictUndefined)
        template = environment.from_string(files("edgekit.deploy.browser").joinpath("page.html.j2").read_text(encoding="utf-8"))
        nonce = secrets.token_urlsafe(16)
        content = template.render(**describe(self.server.predictor), nonce=nonce).encode()
        policy = (
            f"default-src 'self'; script-src 'self' 'nonce-{nonce}' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
            "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._send(200, content, _TYPES[".html"], {"Content-Security-Policy": policy})

    def _runtime_file(self, name: str) -> None:
        allowed = [(self.server.runtime / package).resolve() for package in PACKAGES]
        file = (self.server.runtime / name.replace("\0", "")).resolve()
        if any(file.is_relative_to(folder) for folder in allowed) and file.is_file():
            self._file(file, _TYPES.get(file.suffix, "application/octet-stream"))
        else:
            self._send(404, b"not found\n", "text/plain")

    def _file(self, path: Path, kind: str) -> None:
        with path.open("rb") as stream:
            self._head(200, os.fstat(stream.fileno()).st_size, kind, {})
            shutil.copyfileobj(stream, self.wfile, 2**20)

    def _json(self, content: Mapping[str, Any], status: int = 200) -> None:
        self._send(status, json.dumps(content, ensure_ascii=False).encode(), _TYPES[".json"])

    def _send(self, status: int, content: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self._head(status, len(content), kind, headers or {})
        self.wfile.write(content)

    def _head(self, status: int, length: int, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        # The last two let the page start WebAssembly with threads.
        usual = {
            "Content-Type": kind,
            "Content-Length": str(length),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Embedder-Policy": "require-corp",
        }
        for name, value in (usual | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()

    def handle(self) -> None:
        # A browser that leaves a page closes its connections whenever it likes.
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
