"""Models by name: fetched from a hub that this test serves, and nothing else is asked or fetched."""

import hashlib
import http.server
import json
import threading
from contextlib import contextmanager

import pytest
from huggingface_hub import HfApi, constants

from dynvid import UnifiedExitNet
from dynvid.checkpoint import fingerprint, read_checkpoint
from dynvid.errors import DynvidError, InputError, MissingFileError
from dynvid.folder import local
from dynvid.folder.hub import fetch
from dynvid.inference import Recognizer
from dynvid.policy import ThresholdPolicy

SHA = "a" * 40


@pytest.fixture(scope="module")
def folder(scramble_net, tmp_path_factory):
    net = scramble_net(UnifiedExitNet, input_size=32)
    folder = tmp_path_factory.mktemp("hub") / "model"
    Recognizer(net, ThresholdPolicy(thresholds=[0.5, 0.5, 0.5, 0.0]), list("abcde")).save(folder)
    (folder / "onnx").mkdir()
    for k in range(1, 5):
        (folder / "onnx" / f"step_{k}.onnx").write_bytes(b"graph")
    config = json.loads((folder / "config.json").read_text())
    weights = fingerprint(read_checkpoint(folder)["state_dict"])
    (folder / "config.json").write_text(json.dumps(config | {"graphs_of": weights}))
    (folder / "onnx" / "run.py").write_text("never fetched")
    (folder / "malware.py").write_text("never fetched")
    return folder


@contextmanager
def serving(folder, asked, status=200, code=""):
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        def answer(self, with_body):
            asked.append(self.path)
            path, body = self.path.partition("?")[0], b""
            headers = {"X-Repo-Commit": SHA}
            found = status
            if status != 200:
                headers |= {"X-Error-Code": code, "X-Error-Message": "no"}
            elif path in ("/api/models/user/name", "/api/models/user/name/revision/main"):
                about = {"id": "user/name", "sha": SHA, "siblings": [{"rfilename": name} for name in files]}
                body = json.dumps(about).encode()
            elif path.startswith("/api/models/user/name/tree/"):
                entries = [
                    {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": name}
                    for name, content in files.items()
                ]
                body = json.dumps(entries).encode()
            elif path.startswith(f"/user/name/resolve/{SHA}/"):
                body = files[path.removeprefix(f"/user/name/resolve/{SHA}/")]
                headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
            else:
                found = 404
                headers |= {"X-Error-Code": "RepoNotFound"}
            self.send_response(found)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """Serve, and use a cache of its own; gives what was asked."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    asked = []

    @contextmanager
    def serve(**options):
        with serving(folder, asked, **options) as address:
            template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
            monkeypatch.setattr(constants, "ENDPOINT", address)
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            yield asked

    return serve


def test_a_name_is_a_model_of_the_hub_and_only_its_own_files_come(hub, folder):
    with hub() as asked:
        recognizer = Recognizer.load("user/name", precision="float32")
        assert recognizer.class_names == list("abcde")
        assert recognizer.policy.thresholds.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.0])
        fetched = {path.rpartition("/")[2] for path in asked if "/resolve/" in path}
        assert fetched == {"config.json", "model.safetensors", "README.md"}
        place = local("user/name", "onnx")
        assert (place / "onnx" / "step_1.onnx").read_bytes() == b"graph"
        assert not [path for path in asked if path.endswith(".py")]
    assert Recognizer.from_pretrained(str(place)).class_names == list("abcde")
    assert local("user/name") == place  # nobody serves any more: from the cache


def test_paths_are_asked_of_nobody(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "name").mkdir()
    with hub() as asked:
        for path in ("user/name", "runs/best.ckpt", "/user/name", "a/b/c", "../name", "name", "user/../name", "a/b.pt"):
            assert str(local(path)) == path
        assert asked == []


@pytest.mark.parametrize(
    ("status", "code", "kind", "reason"),
    [
        (404, "RepoNotFound", MissingFileError, "no such file or folder here, and no such model on http"),
        (401, "RepoNotFound", MissingFileError, "no such file or folder here, and no such model on http"),
        (403, "GatedRepo", InputError, "gives it to those only who asked for access"),
        (404, "RevisionNotFound", MissingFileError, "has no such revision"),
        (400, "", InputError, "does not give it now"),
    ],
)
def test_a_hub_that_refuses_is_said_in_one_line(hub, status, code, kind, reason):
    with hub(status=status, code=code), pytest.raises(kind, match=reason) as caught:
        Recognizer.load("user/name")
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith("user/name: ")


def test_a_hub_that_nobody_serves_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        InputError, match=r"^user/name: no such file or folder here, and http\S+ does not give it now \(.+\)$"
    ):
        Recognizer.load("user/name")


def test_another_kind_of_model_is_refused(hub, folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with hub() as asked, serving(tmp_path / "other", asked) as address:
        constants.ENDPOINT = address  # put back by the fixture
        constants.HUGGINGFACE_CO_URL_TEMPLATE = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        with pytest.raises(InputError, match=r"no model of dynvid: http\S+ has no model.safetensors of it"):
            fetch("user/name")


def test_push_uploads_the_folder_and_nothing_else(folder, monkeypatch, tmp_path):
    seen = {}

    class Repo:
        repo_id = "user/mine"

    def upload_folder(self, *, repo_id, folder_path, **options):
        seen[repo_id] = {path.name: path.read_bytes() for path in folder_path.rglob("*") if path.is_file()}
        return "address"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, **_: Repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    recognizer = Recognizer.load(folder)
    assert recognizer.push_to_hub("user/mine") == "address"
    assert {"model.safetensors", "config.json", "README.md"} <= seen["user/mine"].keys()
    assert seen["user/mine"]["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert "malware.py" not in seen["user/mine"]
    assert "run.py" not in seen["user/mine"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("somebody's own")
    with pytest.raises(DynvidError, match="mine: holds files already"):
        recognizer.save_pretrained(mine)
    assert (mine / "config.json").read_text() == "somebody's own"
    assert recognizer.save_pretrained(tmp_path / "new") is None
    assert Recognizer.from_pretrained(tmp_path / "new").class_names == list("abcde")
