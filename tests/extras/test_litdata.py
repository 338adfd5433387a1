"""A server that speaks S3, LitData and WebDataset themselves: each reads what the other wrote, and what fails is said.

None of these packages is needed to train; they are here to hold dynvid against.
"""

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from pyarrow.fs import FileSystem

from dynvid.data import ShardDataModule, VideoFolderDataModule, index_shards, pack
from dynvid.data.members import member_of, source_of
from dynvid.data.synthetic import write_clip
from dynvid.data.video import open_listed
from dynvid.errors import InputError, VideoError

pytestmark = pytest.mark.extra
litdata = pytest.importorskip("litdata")
wds = pytest.importorskip("webdataset")
pytest.importorskip("moto.server")

SMALL = {"num_frames": 4, "size": 32, "batch_size": 4, "num_workers": 2}
ME = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture(scope="module", autouse=True)
def credentials():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ME.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """24 training clips of two classes, and 4 each to validate and test on."""
    folder, draw = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    for split, clips in {"train": 12, "val": 2, "test": 2}.items():
        for name in ("jump", "wave"):
            for i in range(clips):
                path = folder / split / name / f"{name} {i}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_clip(path, draw.integers(0, 255, (6, 32, 32, 3), np.uint8))
    return folder


def free_port():
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return each.getsockname()[1]


@pytest.fixture
def server():
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.1)
    yield run, port
    run.kill()
    run.wait()


def options(port):
    return f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


@pytest.fixture
def bucket(server, source):
    """The address of a bucket that holds the clips, in a server process of its own."""
    _, port = server
    system, _ = FileSystem.from_uri(f"s3://corpus/?{options(port)}&allow_bucket_creation=true")
    system.create_dir("corpus")
    for path in source.rglob("*.mp4"):
        with system.open_output_stream(f"corpus/videos/{path.relative_to(source)}") as file:
            file.write(path.read_bytes())
    return f"s3://corpus/{{}}?{options(port)}"


def seeded(loader):
    torch.manual_seed(7)
    return list(loader)


def assert_same(ours, theirs):
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for one, two in zip(seeded(getattr(ours, loader)()), seeded(getattr(theirs, loader)()), strict=True):
            assert torch.equal(one["video"], two["video"])
            assert torch.equal(one["label"], two["label"])


def test_loaders_of_forked_processes_read_files_and_shards_from_a_server(bucket, source):
    files = VideoFolderDataModule(source, **SMALL)
    there = VideoFolderDataModule(bucket.format("videos"), **SMALL)
    assert_same(there, files)
    for format in ("webdataset", "litdata"):
        packed = bucket.format(f"packed/{format}")
        counts = pack(there, packed, format, 10_000)
        assert sum(count.packed for count in counts.values()) == 32
        assert pack(there, packed, format, 10_000) == counts
        assert_same(ShardDataModule(packed, **SMALL), files)


def test_a_server_that_fails_now_and_then_is_asked_again(bucket, server, source):
    _, port = server
    asked = []

    class Flaky(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append(self.path)
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request(self.command, self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            fails = len(asked) % 3 == 1
            self.send_response(503 if fails else answer.status)
            for name, value in () if fails else answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server", "content-length"):
                    self.send_header(name, value)
            length = answer.headers["Content-Length"] if self.command == "HEAD" and not fails else len(content)
            self.send_header("Content-Length", "0" if fails else str(length))
            self.end_headers()
            if self.command == "GET" and not fails:
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        root = f"s3://corpus/videos?{options(proxy.server_port)}"
        alone = SMALL | {"num_workers": 0}
        assert_same(VideoFolderDataModule(root, **alone), VideoFolderDataModule(source, **alone))
        assert len(asked) > 30
        proxy.shutdown()


def test_what_a_server_refuses_is_one_line(bucket, server, monkeypatch):
    run, _ = server
    nowhere = bucket.replace("corpus", "nowhere")
    with pytest.raises(FileNotFoundError, match=r"^s3://nowhere/x\?.* does not exist"):
        VideoFolderDataModule(nowhere.format("x"), **SMALL).videos("train")
    with pytest.raises(InputError, match=r"^s3://nowhere/x/begun\.txt\?\S*: cannot be written \([^\n]*\)$"):
        pack(VideoFolderDataModule(bucket.format("videos"), **SMALL), nowhere.format("x"))
    gone = bucket.format("videos/train/jump/gone.mp4")
    with pytest.raises(VideoError, match=rf"^{re.escape(gone)}: cannot open \([^\n]*\)$"):
        open_listed(gone)
    clip = bucket.format("videos/train/jump/jump 0.mp4")
    assert len(open_listed(clip)) == 6
    run.kill()
    run.wait()
    began = time.monotonic()
    with pytest.raises(VideoError, match=rf"^{re.escape(clip)}: cannot open \([^\n]*NETWORK_CONNECTION[^\n]*\)$"):
        open_listed(clip)
    assert time.monotonic() - began < 60


def test_litdata_and_webdataset_read_what_is_packed(source, tmp_path):
    data = VideoFolderDataModule(source, **SMALL)
    expected = [(video.label, Path(video.path).read_bytes()) for video in data.videos("train")]
    pack(data, tmp_path / "lit", "litdata", 10_000)
    theirs = litdata.StreamingDataset(str(tmp_path / "lit/train"), shuffle=False)
    assert [(item["class"], item["video"]) for item in theirs] == expected
    assert theirs[17]["video"] == expected[17][1]
    assert theirs[3]["path"] == "train/jump/jump 11.mp4"
    pack(data, tmp_path / "wds", "webdataset", 10_000)
    shards = sorted(map(str, (tmp_path / "wds").glob("train-*.tar")))
    assert len(shards) > 2
    theirs = wds.WebDataset(shards, shardshuffle=False).decode()
    assert [(item["cls"], item["mp4"]) for item in theirs] == expected
    assert all(hashlib.sha256(item["mp4"]).hexdigest() == item["json"]["sha256"] for item in theirs)


def item(path):
    path = Path(path)
    return {"label": path.parent.name, "video": path.read_bytes(), "n": 3, "path": path.name, "group": "tape"}


def pickled(path):
    return {"label": {1, 2}, "video": Path(path).read_bytes()}


def test_what_litdata_and_webdataset_write_is_read(source, tmp_path):
    paths = [str(path) for path in sorted((source / "train").rglob("*.mp4"))]
    code = "import sys, json, litdata\nsys.path.insert(0, sys.argv[1])\nimport test_litdata as made\n"
    code += "if __name__ == '__main__':\n    paths = json.loads(sys.argv[2])\n"
    code += "    litdata.optimize(made.item, paths, sys.argv[3] + '/train', chunk_size=7, num_workers=1)\n"
    code += "    litdata.optimize(made.pickled, paths, sys.argv[4] + '/train', chunk_size=7, num_workers=1)\n"
    (tmp_path / "write.py").write_text(code)
    here = str(Path(__file__).parent)
    outs = [str(tmp_path / name) for name in ("lit", "pickled")]
    subprocess.run([sys.executable, tmp_path / "write.py", here, json.dumps(paths), *outs], check=True, timeout=300)
    with pytest.raises(
        InputError, match=r"pickled/train/index\.json: no shard of clips .*data_format .*pickle.*: shards of"
    ):
        index_shards(tmp_path / "pickled")
    with wds.ShardWriter(str(tmp_path / "wds-%d.tar").replace("wds-", "train-"), maxcount=7) as sink:
        for n, path in enumerate(paths):
            sink.write({"__key__": f"{n:05d}", "mp4": Path(path).read_bytes(), "json": {"label": item(path)["label"]}})
    (tmp_path / "wds").mkdir()
    for shard in tmp_path.glob("train-*.tar"):
        shard.rename(tmp_path / "wds" / shard.name)
    for name in ("lit", "wds"):
        index_shards(tmp_path / name)
        data = ShardDataModule(tmp_path / name, **SMALL)
        videos = data.videos("train") + data.videos("val")
        assert data.class_names == ["jump", "wave"]
        assert sorted(source_of(video.path).read() for video in videos) == sorted(
            Path(path).read_bytes() for path in paths
        )
        for video in videos:
            content = source_of(video.path).read()
            (path,) = (path for path in paths if Path(path).read_bytes() == content)
            assert data.class_names[video.label] == Path(path).parent.name
            assert video.group == ("tape" if name == "lit" else "")
            assert name == "wds" or member_of(video.path).name == Path(path).name


SEEN = """
import os
import pytorch_lightning as pl


class Seen(pl.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        with open(f"seen {trainer.global_rank}.txt", "a") as file:
            print(os.environ["RUN"], trainer.current_epoch, os.getpid(), *batch["path"], sep="\\t", file=file)
"""
TWO = """
trainer:
  accelerator: cpu
  devices: 2
  strategy: ddp
  max_epochs: %d
  default_root_dir: run
  callbacks:
    - class_path: seen.Seen
data:
  class_path: ShardDataModule
  init_args: {num_frames: 4, size: 32, batch_size: 3, num_workers: 1}
model:
  net: {class_path: UnifiedExitNet, init_args: {backbone: test_resnet, pretrained: false}}
"""


def seen(folder):
    """What each process trained on: `{run: {epoch: {rank: paths}}}`, and the last process of each rank."""
    found, pids = defaultdict(lambda: defaultdict(lambda: defaultdict(list))), {}
    for rank in (0, 1):
        file = folder / f"seen {rank}.txt"
        for line in file.read_text().splitlines() if file.exists() else ():
            run, epoch, pid, *paths = line.split("\t")
            found[run][int(epoch)][rank] += paths
            pids[rank] = int(pid)
    return found, pids


def test_two_processes_one_of_which_is_killed(bucket, source, tmp_path):
    packed = bucket.format("packed")
    pack(VideoFolderDataModule(source, **SMALL), packed, shard_size=10_000)
    everything = sorted(video.path for video in ShardDataModule(packed, **SMALL).videos("train"))
    (tmp_path / "seen.py").write_text(SEEN)
    (tmp_path / "train.py").write_text("from dynvid.cli import main\nif __name__ == '__main__':\n    main()\n")

    def begin(run, epochs, *more):
        (tmp_path / "two.yaml").write_text(TWO % epochs)
        command = [sys.executable, "train.py", "fit", "--config", "folder.yaml", "--config", "two.yaml"]
        search = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [*command, "--data.root", packed, *more],
            cwd=tmp_path,
            env=os.environ | {"RUN": run, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
            stdout=(tmp_path / f"{run}.out").open("w"),
            stderr=(tmp_path / f"{run}.err").open("w"),
            start_new_session=True,
        )

    first = begin("first", 500)
    try:
        for _ in range(1200):
            found, pids = seen(tmp_path)
            if max(found["first"], default=0) >= 3 and len(pids) == 2:
                break
            assert first.poll() is None, (tmp_path / "first.err").read_text()
            time.sleep(0.1)
        os.kill(pids[1], signal.SIGKILL)
        code = first.wait(120)
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    assert code != 0
    assert f"Child process with PID {pids[1]} terminated" in (tmp_path / "first.err").read_text()
    (last,) = tmp_path.rglob("last.ckpt")
    done = torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    assert done >= 3
    second = begin("second", done + 2, "--ckpt_path", "last")
    assert second.wait(300) == 0, (tmp_path / "second.err").read_text()
    found, _ = seen(tmp_path)
    assert sorted(found["second"]) == [done, done + 1]
    for run, epochs in (("first", range(done)), ("second", (done, done + 1))):
        for epoch in epochs:
            one, two = (found[run][epoch][rank] for rank in (0, 1))
            assert len(one) == len(two) == 12
            assert sorted(one + two) == everything
    state = torch.load(last, weights_only=True)
    assert state["global_step"] == 4 * (done + 2)
