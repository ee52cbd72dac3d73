"""The demo's server on loopback: what it serves, what it refuses, and the same answers as predict."""

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.deploy.browser import demo
from edgekit.errors import ConfigError, InputError, UnsupportedOpError
from edgekit.tflite.interpreter import Model
from edgekit.workflows.predict import Predictor
from tests.unit.classifiers import image_classifier
from tests.unit.workflows.test_predict import asker, packed, tagger

TEXTS = ("a warm film", "dull", "", "🙂 naïve", "word " * 500)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Path:
    """As npm installs LiteRT.js, but for its content."""
    folder = tmp_path_factory.mktemp("npm")
    for name in demo.PACKAGES:
        (folder / "node_modules/@litertjs" / name / "dist").mkdir(parents=True)
        (folder / "node_modules/@litertjs" / name / "dist/index.js").write_text(f"// {name}")
    (folder / "node_modules/@litertjs/core/wasm").mkdir()
    (folder / "node_modules/secret.txt").write_text("not to be served")
    return folder


@pytest.fixture(scope="module")
def server(tiny_bert, runtime, tmp_path_factory) -> Iterator[demo.Server]:
    predictor = Predictor(packed(tiny_bert, tmp_path_factory.mktemp("demo")))
    with demo.Server(predictor, demo.find_runtime(runtime)) as found:
        threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield found
        found.shutdown()


def ask(server: demo.Server, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection(demo.ADDRESS, server.server_port, timeout=10)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def posted(server: demo.Server, path: str, content: object) -> tuple[int, Any]:
    status, _, body = ask(server, "POST", path, json.dumps(content).encode())
    return status, json.loads(body)


def predict(server: demo.Server, content: object) -> tuple[int, Any]:
    return posted(server, "/predict/text", content)


def test_a_page_script_style_and_the_very_file_are_served(server):
    status, headers, page = ask(server, "GET", "/")
    assert status == 200 and server.predictor.path.name in page.decode()
    assert "http" not in page.decode().replace("http-equiv", "")
    nonce = page.decode().split('nonce="')[1].split('"')[0]
    assert f"'nonce-{nonce}'" in headers["Content-Security-Policy"]
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert ask(server, "GET", "/model.tflite")[2] == server.predictor.path.read_bytes()
    for path, kind in (("/demo.js", "javascript"), ("/demo.css", "css"), ("/litertjs/core/dist/index.js", "javascript")):
        status, headers, content = ask(server, "GET", path)
        assert status == 200 and kind in headers["Content-Type"] and content
    told = json.loads(ask(server, "GET", "/model.json")[2])
    assert told["kind"] == "text" and told["task"] == "text-classification"


@pytest.mark.parametrize("text", TEXTS)
def test_its_answer_is_that_of_predict(server, text):
    status, found = predict(server, {"text": text})
    expected = server.predictor(text)
    assert status == 200
    assert (found["predict"]["answer"], found["predict"]["remark"]) == (expected.answer, expected.remark)
    assert found["predict"]["fields"]["scores"] == pytest.approx(dict(expected.fields["scores"]))
    row, _ = server.predictor.fed(server.predictor.encode(text)[0])
    assert {name: array["values"] for name, array in found["inputs"].items()} == {
        name: values.ravel().tolist() for name, values in row.items()
    }
    outputs = {name: values.ravel().tolist() for name, values in Model(server.predictor.path).run(row).items()}
    status, read = posted(server, "/read", {"row": found["row"], "outputs": outputs})
    assert (status, read["answer"]) == (200, expected.answer)
    assert read["fields"]["scores"] == pytest.approx(dict(expected.fields["scores"]))


@pytest.mark.parametrize("content", ([], {}, {"row": 10**9, "outputs": {}}, {"row": 1, "outputs": []}))
def test_outputs_of_no_row_get_a_reason(server, content):
    status, told = posted(server, "/read", content)
    assert status == 400 and told["error"]


@pytest.mark.parametrize("outputs", ({}, {"logits": [1.0]}, {"logits": ["x", "y"]}, {"logits": None}))
def test_outputs_that_are_not_the_files_get_a_reason(server, outputs):
    row = predict(server, {"text": "a film"})[1]["row"]
    status, told = posted(server, "/read", {"row": row, "outputs": outputs})
    assert status == 400 and "output logits [1, 2] is not there" in told["error"]


@pytest.mark.parametrize(
    "path",
    (
        "/litertjs/core/../../secret.txt",
        "/litertjs/../secret.txt",
        "/litertjs/core/%2e%2e/%2e%2e/secret.txt",
        "/litertjs/%00",
        "/no",
        "/litertjs/",
    ),
)
def test_nothing_else_is_served(server, path):
    assert ask(server, "GET", path)[0] == 404


def test_other_hosts_and_other_sites_are_refused(server):
    assert ask(server, "GET", "/model.json", Host="example.org")[0] == 403
    body = json.dumps({"text": "a"}).encode()
    assert ask(server, "POST", "/predict/text", body, Origin="https://example.org")[0] == 403


@pytest.mark.parametrize(
    "body", (b"", b"{", b"[]", b'{"text": 1}', b'{"text": "a", "pair": "b"}', b'{"text": "\\ud800"}', b"[" * 100_000)
)
def test_a_bad_question_gets_a_reason_and_the_server_goes_on(server, body):
    status, _, told = ask(server, "POST", "/predict/text", body)
    assert status == 400 and json.loads(told)["error"]
    assert predict(server, {"text": "still here"})[0] == 200


def test_a_question_that_is_too_large_is_not_read(server):
    for length in (str(10**9), "-1", "x"):
        assert ask(server, "POST", "/predict/text", b"", **{"Content-Length": length})[0] == 413


def test_an_image_is_judged_as_predict_does(server, runtime, tmp_path):
    status, _, told = ask(server, "POST", "/predict/image", b"no image")
    assert status == 400 and "takes texts" in json.loads(told)["error"]
    model, picture = tmp_path / "image.tflite", tmp_path / "picture.png"
    model.write_bytes(image_classifier())
    Image.fromarray(np.arange(108, dtype=np.uint8).reshape(6, 6, 3)).save(picture)
    with demo.Server(Predictor(model, task="image-classification"), demo.find_runtime(runtime)) as images:
        threading.Thread(target=images.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        status, _, told = ask(images, "POST", "/predict/image", picture.read_bytes())
        scores = images.predictor(picture).fields["scores"]
        assert status == 200 and json.loads(told)["predict"]["fields"]["scores"] == pytest.approx(scores)
        assert ask(images, "POST", "/predict/image", b"no image")[0] == 400
        images.shutdown()


def test_entities_are_read_from_what_the_browser_gives(tiny_bert, runtime, tmp_path):
    predictor = Predictor(tagger(tiny_bert, tmp_path / "tagger"))
    with demo.Server(predictor, demo.find_runtime(runtime)) as tags:
        threading.Thread(target=tags.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        found = predict(tags, {"text": "a lovely film"})[1]
        row = {name: np.array(array["values"], array["dtype"]).reshape(array["shape"]) for name, array in found["inputs"].items()}
        outputs = {name: values.ravel().tolist() for name, values in Model(predictor.path).run(row).items()}
        read = posted(tags, "/read", {"row": found["row"], "outputs": outputs})[1]
        assert read["fields"]["entities"] == found["predict"]["fields"]["entities"] != []
        tags.shutdown()


def test_of_several_windows_the_first_is_shown(tiny_bert, runtime, tmp_path):
    predictor = Predictor(asker(tiny_bert, tmp_path))
    with demo.Server(predictor, demo.find_runtime(runtime)) as questions:
        found = questions.answer("film", "a lovely film with a dull plot " * 8)
        row = {name: np.array(array["values"], array["dtype"]).reshape(array["shape"]) for name, array in found["inputs"].items()}
        outputs = {name: values.ravel().tolist() for name, values in Model(predictor.path).run(row).items()}
        assert "windows, and this page runs the first alone" in found["predict"]["remark"]
        assert questions.read(found["row"], outputs)["fields"] == found["predict"]["fields"]


def test_a_port_in_use_is_one_line(server, runtime):
    with pytest.raises(ConfigError, match=r"--port \d+: .*choose another"):
        demo.Server(server.predictor, demo.find_runtime(runtime), server.server_port)
    with socket.socket() as free:
        free.bind((demo.ADDRESS, 0))
        free.listen()
        with pytest.raises(ConfigError, match="choose another"):
            demo.Server(server.predictor, demo.find_runtime(runtime), free.getsockname()[1])


def test_without_litertjs_the_line_says_how_to_install_it(tmp_path, runtime, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("EDGEKIT_LITERTJS", raising=False)
    with pytest.raises(InputError, match=r"not installed; run npm install --prefix .* @litertjs/core@"):
        demo.find_runtime(None)
    with pytest.raises(InputError, match=f"{tmp_path}: holds no LiteRT.js"):
        demo.find_runtime(tmp_path)
    shutil.copytree(runtime, tmp_path / "edgekit")
    assert demo.find_runtime(None) == (tmp_path / "edgekit/node_modules/@litertjs").resolve()
    monkeypatch.setenv("EDGEKIT_LITERTJS", str(runtime))
    assert demo.find_runtime(None) == (runtime / "node_modules/@litertjs").resolve()


def test_dtypes_that_litertjs_lacks_are_refused(server, monkeypatch):
    spec = server.predictor.signature.outputs[0]
    signature = replace(server.predictor.signature, outputs=(replace(spec, dtype="int8"),))
    monkeypatch.setattr(Predictor, "signature", property(lambda self: signature))
    with pytest.raises(UnsupportedOpError, match=f"{spec.name} is int8, and LiteRT.js takes float32, int32, uint8"):
        demo.check_runs(server.predictor)
