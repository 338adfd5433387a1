"""Training heads on features of a frozen backbone: the same answers as the whole net, and never features of others."""

import itertools
import os
import subprocess
import sys
import time
from contextlib import suppress
from copy import deepcopy

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from dynvid import DepthExitNet, ExitNet, InputExitNet, UnifiedExitNet
from dynvid.callbacks import Calibration
from dynvid.cli import main
from dynvid.data import ShardDataModule, Video, VideoFolderDataModule, pack
from dynvid.data.features import FeatureDataset, Features, digest_of_video
from dynvid.data.manifest import Manifest, Packed
from dynvid.data.members import Member
from dynvid.errors import InputError, VideoError
from dynvid.frozen import compute_features, key_of
from dynvid.module import DynamicInferenceModule

SMALL = {"num_frames": 4, "size": 32, "batch_size": 4, "num_workers": 0}
VIT = {
    "backbone": "vit_small_patch14_dinov2",
    "backbone_args": {"img_size": 28, "depth": 4, "embed_dim": 48, "num_heads": 4},
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory, write_noise):
    """Six training and four validation clips of two classes; nothing writes into it."""
    root = tmp_path_factory.mktemp("clips")
    for split, count in (("train", 3), ("val", 2)):
        for label in ("walk", "run"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for clip in range(count):
                write_noise(folder / f"{clip}.mp4", seed=len(split) * 100 + len(label) * 10 + clip, frames=8)
    return root


@torch.no_grad()
def make(kind=UnifiedExitNet, backbone="test_resnet", **arguments):
    """A net whose values are all drawn: of a fresh one, residual branches give nothing."""
    torch.manual_seed(1)
    net = kind(backbone, num_classes=2, num_frames=4, input_size=arguments.pop("size", 32), **arguments)
    for name, x in net.state_dict().items():
        if x.is_floating_point() and name not in ("mean", "std"):
            x.uniform_(0.5, 1.5) if name.endswith("running_var") else x.add_(torch.randn_like(x) * 0.05)
    return net.eval()


def fit(net, data, folder, epochs=1, **arguments):
    arguments.setdefault("freeze_backbone", True)
    module = DynamicInferenceModule(net, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), **arguments)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        enable_checkpointing=False,
        callbacks=[Calibration(budget=100.0)],
        accelerator="cpu",
        **quiet,
    )
    trainer.fit(module, datamodule=data)
    return module


NETS = {
    "unified, shifted": {},
    "in order, shifted": {"frame_order": "chronological"},
    "depth-wise": {"kind": DepthExitNet, "shift": "none"},
    "input-wise": {"kind": InputExitNet},
    "TSM": {"kind": ExitNet, "shift": "bidirectional"},
    "vision transformer": VIT | {"size": 28},
}


@pytest.mark.parametrize("arguments", NETS.values(), ids=NETS)
def test_what_a_fit_validates_is_what_the_whole_net_answers(tree, tmp_path, arguments):
    """In one pass, and walking the route, which is how inference runs."""
    data = VideoFolderDataModule(tree, **SMALL | {"size": arguments.get("size", 32)})
    module = fit(make(**arguments), data, tmp_path).eval()
    (batch,) = data.val_dataloader()
    assert len(batch["video"]) == len(data.videos("val")) == 4
    with torch.no_grad():
        whole = module.net(batch["video"])
        stream = module.net.stream(batch["video"])
        walked = torch.stack([stream.advance() for _ in module.net.route])
    cached = module.curve.logits
    assert cached.std(1).min() > 1e-3  # else equality says nothing
    torch.testing.assert_close(cached, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cached, walked, atol=1e-5, rtol=1e-5)


def test_only_heads_are_trained(tree, tmp_path):
    net = make(dropout=0.5)
    before = deepcopy(net.state_dict())
    fit(net, VideoFolderDataModule(tree, **SMALL), tmp_path, epochs=2)
    changed = {name for name, x in net.state_dict().items() if not torch.equal(x, before[name])}
    assert changed
    assert all(name.startswith("heads.") for name in changed)
    assert {name for name, _ in net.heads.named_parameters(prefix="heads")} <= changed


def test_loaders_of_other_kinds_train_heads_too(tmp_path):
    net = make()
    before = deepcopy(net.state_dict())
    batch = {"video": torch.randint(0, 256, (4, 4, 3, 32, 32), dtype=torch.uint8), "label": torch.arange(4) % 2}
    module = DynamicInferenceModule(net, freeze_backbone=True)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    pl.Trainer(max_steps=2, enable_checkpointing=False, default_root_dir=tmp_path, **quiet).fit(
        module, DataLoader([batch], batch_size=None)
    )
    changed = {name for name, x in net.state_dict().items() if not torch.equal(x, before[name])}
    assert changed
    assert all(name.startswith("heads.") for name in changed)


def test_features_are_those_of_the_video_and_of_its_mirror_image(tree, tmp_path):
    data, net = VideoFolderDataModule(tree, **SMALL), make()
    compute_features(net, data, tmp_path)
    for split, mirrors in (("train", (False, True)), ("val", (False,))):
        for video in data.videos(split):
            (item,) = next(iter(data.frames([video.path])))
            for mirrored in mirrors:
                shown = item["video"].flip(-1) if mirrored else item["video"]
                with torch.no_grad():
                    expected = net.embedded(shown[None])
                found = data.features.read(video.path, mirrored)
                assert found.keys() == expected.keys()
                for depth, x in found.items():
                    torch.testing.assert_close(x, expected[depth][:, 0], atol=1e-5, rtol=1e-5)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2 * 6 + 4


def test_left_and_right_stay_apart_without_hflip(tree, tmp_path):
    data = VideoFolderDataModule(tree, hflip=False, **SMALL)
    compute_features(make(), data, tmp_path)
    assert not list(tmp_path.rglob("*mirrored*"))
    seen = data.train_dataloader().dataset
    assert all(torch.equal(seen[0]["features"][4], seen[0]["features"][4]) for _ in range(8))
    mirroring = VideoFolderDataModule(tree, **SMALL)
    compute_features(make(), mirroring, tmp_path)
    seen = mirroring.train_dataloader().dataset
    assert len({seen[0]["features"][4].sum().item() for _ in range(30)}) == 2


def test_a_second_run_reads_no_frame_and_says_so(tree, tmp_path, monkeypatch):
    said: list[str] = []
    compute_features(make(), VideoFolderDataModule(tree, **SMALL), tmp_path, said.append)
    monkeypatch.setattr("dynvid.data.dataset.open_listed", lambda path: pytest.fail(f"{path} is read again"))
    compute_features(make(), VideoFolderDataModule(tree, **SMALL), tmp_path, said.append)
    first, second = said
    assert first.startswith("features of 10 videos in ")
    assert second.startswith("features of 10 videos were there (")


KEYS = {
    "size": ({}, {"size": 64}),
    "sampling": ({}, {"sampling": "cheap"}),
    "order of frames": ({"frame_order": "chronological"}, {}),
    "shift": ({"shift": "none"}, {}),
    "share that is shifted": ({"shift_div": 4}, {}),
    "frames that an exit sees": ({"route": [(3, 2), (4, 4)]}, {}),
    "backbone": ({"backbone": "test_resnet.r160_in1k"}, {}),
}


@pytest.mark.parametrize(("of_net", "of_data"), KEYS.values(), ids=KEYS)
def test_features_of_other_nets_and_frames_have_another_name(tree, of_net, of_data):
    plain = {"route": [(2, 2), (4, 4)]}
    name = key_of(make(**plain), VideoFolderDataModule(tree, **SMALL))
    assert name == key_of(make(**plain), VideoFolderDataModule(tree, **SMALL))
    assert name != key_of(make(**plain | of_net), VideoFolderDataModule(tree, **SMALL | of_data))


def test_every_weight_of_the_backbone_counts_and_none_of_the_heads(tree):
    data, net = VideoFolderDataModule(tree, **SMALL), make(kind=UnifiedExitNet, **VIT | {"size": 28})
    name = key_of(net, data)
    for place, x in net.state_dict().items():
        before = x.clone()
        with torch.no_grad():
            x[(-1,) * x.dim()] += 1
        assert (key_of(net, data) == name) == place.startswith("heads."), place
        with torch.no_grad():
            x.copy_(before)


def test_a_video_that_changed_is_computed_again_whatever_its_name_size_and_time(tree, tmp_path, write_noise):
    root = tmp_path / "clips"
    for split in ("train", "val"):
        for label, seed in (("a", 1), ("b", 2)):
            (root / split / label).mkdir(parents=True)
            write_noise(root / split / label / "0.mp4", seed, frames=8)
    path = root / "train" / "a" / "0.mp4"
    data, net = VideoFolderDataModule(root, **SMALL), make()
    compute_features(net, data, tmp_path)
    before, then = data.features.read(str(path), False), path.stat()
    other = write_noise(tmp_path / "other.mp4", 3, frames=8).read_bytes()
    path.write_bytes(other[: then.st_size].ljust(then.st_size, b"\0") if len(other) <= then.st_size else other)
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    compute_features(net, data, tmp_path)
    assert not torch.equal(before[4], data.features.read(str(path), False)[4])


def test_a_video_that_changes_while_it_is_read_is_refused(tree, tmp_path, monkeypatch):
    numbers = itertools.count()
    monkeypatch.setattr("dynvid.frozen.digest_of_video", lambda path: f"{next(numbers):064d}")
    with pytest.raises(VideoError, match=r"0\.mp4: has changed while it was read"):
        compute_features(make(), VideoFolderDataModule(tree, **SMALL), tmp_path)


def test_clips_within_shards_are_found_by_their_content_too(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"content")
    (tmp_path / "shard.tar").write_bytes(b"before" + b"content" + b"behind")
    member = Member(str(tmp_path / "shard.tar"), 6, 7, "a.mp4")
    assert digest_of_video(member.path) == digest_of_video(str(tmp_path / "a.mp4"))
    with pytest.raises(VideoError, match=r"gone\.mp4: cannot open"):
        digest_of_video(str(tmp_path / "gone.mp4"))


def test_clips_of_packed_shards_are_read_for_their_frames_only(tree, tmp_path, monkeypatch):
    files, net = VideoFolderDataModule(tree, **SMALL), make()
    pack(files, tmp_path / "packed", shard_size=20_000)
    compute_features(net, files, tmp_path / "of files")
    monkeypatch.setattr("dynvid.frozen.digest_of_video", lambda path: pytest.fail(f"{path} is read for its digest"))
    packed = ShardDataModule(tmp_path / "packed", **SMALL)
    compute_features(net, packed, tmp_path / "of shards")
    names = [sorted(path.name for path in (tmp_path / of).rglob("*.safetensors")) for of in ("of files", "of shards")]
    assert names[0] == names[1]
    assert len(names[0]) == 16  # six and their mirror images, and four


@pytest.mark.parametrize("said", ["../../../gone", "F" * 64, "0" * 64 + "\n", ""])
def test_no_other_text_of_a_manifest_is_a_digest(tmp_path, said):
    clips = [Packed("train-0.tar", n, 1, digest, "a", "train", "", "b") for n, digest in enumerate([said, "0" * 64])]
    (tmp_path / "manifest.parquet").write_bytes(Manifest(clips, ["a"], plan="packed here").to_bytes())
    assert ShardDataModule(tmp_path).digests() == {f"{tmp_path}/train-0.tar#1+1/b": "0" * 64}


def test_what_others_say_of_their_shards_is_not_believed(tmp_path):
    clips = [Packed("train-0.tar", 0, 1, "0" * 64, "a", "train", "", "b")]
    (tmp_path / "manifest.parquet").write_bytes(Manifest(clips, ["a"]).to_bytes())
    assert ShardDataModule(tmp_path).digests() == {}


def test_looking_videos_up_tells_how_far_it_is(tree, tmp_path, monkeypatch):
    said: list[str] = []
    data, net = VideoFolderDataModule(tree, **SMALL), make()
    compute_features(net, data, tmp_path)
    monkeypatch.setattr("dynvid.frozen._SECONDS_A_LINE", -1.0)
    compute_features(net, data, tmp_path, said.append)
    assert [line.split(",")[0] for line in said[:-1]] == [
        f"features: {n} of 10 videos looked up by their content" for n in range(1, 10)
    ]


def test_the_first_unreadable_video_stops_the_look(tree, tmp_path, monkeypatch):
    def digest(path):
        looked.append(path)
        time.sleep(0.02)
        raise VideoError(f"{path}: cannot open")

    looked: list[str] = []
    monkeypatch.setattr("dynvid.frozen.digest_of_video", digest)
    monkeypatch.setattr("dynvid.data.VideoFolderDataModule.views", lambda self: dict.fromkeys(map(str, range(500))))
    with pytest.raises(VideoError, match=r"^0: cannot open"):
        compute_features(make(), VideoFolderDataModule(tree, **SMALL), tmp_path)
    assert len(looked) < 100


def test_names_of_frames_count(tmp_path):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(name.encode())
    before = digest_of_video(str(tmp_path))
    (tmp_path / "1.png").rename(tmp_path / "3.png")
    assert digest_of_video(str(tmp_path)) != before


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    features = Features(tmp_path_factory.mktemp("kept"))
    features.digests["a"] = "0" * 64
    features.write("a", False, {2: torch.randn(2, 3), 4: torch.randn(4, 5)})
    return features, features.read("a", False), features.file("a", False).read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_what_is_damaged_is_never_served(kept, draw):
    features, whole, content = kept
    damaged = bytearray(content)
    if draw.draw(st.booleans()):
        damaged = damaged[: draw.draw(st.integers(0, len(content) - 1))]
    else:
        at = draw.draw(st.integers(0, len(content) - 1))
        damaged[at] ^= draw.draw(st.integers(1, 255))
    features.file("a", False).write_bytes(damaged)
    with suppress(InputError):
        found = features.read("a", False)  # a blank between the parts of the header is no damage
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[depth], whole[depth]) for depth in whole)


def test_damaged_features_are_computed_again_with_a_line(tree, tmp_path):
    data, net, said = VideoFolderDataModule(tree, **SMALL), make(), []
    compute_features(net, data, tmp_path)
    file = data.features.file(data.videos("train")[0].path, True)
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    compute_features(net, data, tmp_path, said.append)
    assert file.read_bytes() == whole
    assert f"{file}: is damaged" in said[0]
    assert said[0].endswith("it is computed again")
    assert said[1].startswith("features of 10 videos, 1 of them new, in ")


def test_features_that_go_away_are_one_line(tree, tmp_path):
    data = VideoFolderDataModule(tree, **SMALL)
    compute_features(make(), data, tmp_path)
    data.features.file(data.videos("val")[0].path, False).unlink()
    with pytest.raises(InputError, match="removed while in use; begin again"):
        list(data.val_dataloader())


def test_labels_that_are_sets_come_as_the_frames_have_them(tmp_path):
    features = Features(tmp_path)
    features.digests["a"] = "0" * 64
    features.write("a", False, {2: torch.zeros(1, 3)})
    item = FeatureDataset([Video("a", (0, 2))], features, classes=4)[0]
    assert item["label"].tolist() == [1, 0, 1, 0]
    assert FeatureDataset([Video("a", 3)], features)[0]["label"] == 3


@pytest.fixture
def broken(tmp_path, write_noise):
    """Two classes, of which one has a training video that cannot be read."""
    root = tmp_path / "broken"
    for split in ("train", "val"):
        for label, seed in (("a", 1), ("b", 2)):
            (root / split / label).mkdir(parents=True)
            for clip in range(2):
                write_noise(root / split / label / f"{clip}.mp4", 10 * seed + clip, frames=8)
    (root / "train" / "a" / "2.mp4").write_bytes(b"no video")
    return root


def test_unreadable_videos_are_left_out_or_stop_the_run(broken, tmp_path):
    with pytest.raises(VideoError, match=r"2\.mp4: cannot open"):
        fit(make(), VideoFolderDataModule(broken, **SMALL), tmp_path)
    data = VideoFolderDataModule(broken, on_error="skip", **SMALL | {"batch_size": 5})
    with pytest.warns(UserWarning, match="1 unreadable video"):
        fit(make(), data, tmp_path)
    assert [os.path.basename(path) for path in data.skipped] == ["2.mp4"]


def test_mixup_is_refused(tree, tmp_path):
    with pytest.raises(InputError, match=r"data\.mixup mixes pixels"):
        fit(make(), VideoFolderDataModule(tree, mixup=0.2, **SMALL), tmp_path)


def test_the_same_data_are_frames_again_after_the_fit(tree, tmp_path):
    data = VideoFolderDataModule(tree, **SMALL)
    fit(make(), data, tmp_path)
    assert "video" in next(iter(data.train_dataloader()))
    module = fit(make(), data, tmp_path, freeze_backbone=False)
    assert module.curve is not None
    assert data.features is None


def test_training_goes_on_with_the_part_of_the_net_that_it_began_with(tree, tmp_path):
    def run(epochs, frozen, ckpt_path=None):
        trainer = pl.Trainer(
            max_epochs=epochs,
            default_root_dir=tmp_path,
            callbacks=[ModelCheckpoint(tmp_path, filename=f"{frozen}")],
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
        )
        module = DynamicInferenceModule(make(), freeze_backbone=frozen)
        trainer.fit(module, datamodule=VideoFolderDataModule(tree, **SMALL), ckpt_path=ckpt_path)
        return trainer

    for began, goes_on in ((True, False), (False, True)):
        run(1, began)
        with pytest.raises(InputError, match=rf"with model\.freeze_backbone={began} \(here {goes_on}\)"):
            run(2, goes_on, tmp_path / f"{began}.ckpt")
    old = torch.load(tmp_path / "True.ckpt", weights_only=True)
    del old["dynvid"]["freeze_backbone"]  # older checkpoints do not say
    torch.save(old, tmp_path / "old.ckpt")
    assert run(2, True, tmp_path / "old.ckpt").current_epoch == 2


class Dead(torch.nn.Module):
    """Gives what rectifiers give that no input reaches any more."""

    def forward(self, x):
        return torch.zeros(len(x), x.shape[1])


@pytest.mark.parametrize(
    ("of_batch_norm", "way"), [({}, "and lower"), ({"freeze_batch_norm": True}, "freeze_batch_norm off")]
)
def test_an_exit_whose_features_have_died_is_named(tree, tmp_path, caplog, of_batch_norm, way):
    caplog.set_level("INFO", "pytorch_lightning.utilities.rank_zero")
    net, data = make(), VideoFolderDataModule(tree, **SMALL)
    fit(net, data, tmp_path, **of_batch_norm)
    assert "answers all videos alike" not in caplog.text
    net.embeddings["3"] = Dead()
    assert "beside a temporal shift" not in caplog.text
    fit(net, data, tmp_path, freeze_backbone=False, **of_batch_norm)
    assert ("beside a temporal shift" in caplog.text) == bool(of_batch_norm)
    (line,) = (line for line in caplog.messages if "answers all videos alike" in line)
    assert line.startswith("warning: exit 2x3 answers")
    assert way in line


@pytest.mark.slow
def test_two_processes_share_a_folder(tree, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_frozen import SMALL, make\n"
        "from dynvid.data import VideoFolderDataModule; from dynvid.frozen import compute_features\n"
        "compute_features(make(), VideoFolderDataModule(sys.argv[2], **SMALL), sys.argv[3])"
    )
    command = [sys.executable, "-c", code, os.path.dirname(__file__), str(tree), str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert all("features of 10 videos" in line for line in said)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2 * 6 + 4
    assert all(file.suffix == ".safetensors" for file in files)
    lines: list[str] = []
    compute_features(make(), VideoFolderDataModule(tree, **SMALL), tmp_path, lines.append)
    assert lines[0].startswith("features of 10 videos were there")


@pytest.mark.slow
def test_fit_calibrate_classify_and_fine_tune(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--data.root", str(tree), "--data.num_frames", "4", "--data.size", "32", "--data.batch_size", "4"]
    small += ["--model.net.backbone", "test_resnet", "--trainer.max_epochs", "1", "--data.num_workers", "1"]
    small += ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", "logs"]
    fit = ["fit", "--config", "folder.yaml", *small, "--model.net.pretrained"]
    main([*fit, "false", "--model.freeze_backbone", "true"])
    (best,) = (tmp_path / "logs").glob("lightning_logs/version_0/checkpoints/best.ckpt")
    assert (tmp_path / "logs" / "features").is_dir()
    again = ["calibrate", str(best), "--config", "folder.yaml", *small[:8], "--budget", "1", "--output", "new.ckpt"]
    clip = str(tree / "val" / "run" / "0.mp4")
    for command in (again, ["classify", "new.ckpt", clip]):
        with pytest.raises(SystemExit) as left:
            main(command)
        assert left.value.code == 0
    assert clip in capsys.readouterr().out
    main([*fit, str(best), "--model.backbone_lr_scale", "0.1"])
    tuned = next((tmp_path / "logs").glob("lightning_logs/version_1/checkpoints/best.ckpt"))
    frozen, after = (torch.load(path, weights_only=True)["state_dict"] for path in (best, tuned))
    assert any(not torch.equal(frozen[name], after[name]) for name in frozen if name.startswith("net.segments."))
