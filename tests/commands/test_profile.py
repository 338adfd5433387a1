"""`dynvid profile` on a real checkpoint and real clips, and what goes by it: calibrate and the report."""

import json
import shutil

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from dynvid import UnifiedExitNet
from dynvid.calibration import thresholds_for_budget
from dynvid.cli import main
from dynvid.commands import profile as command
from dynvid.data.synthetic import draw_scene, render, write_clip
from dynvid.module import DynamicInferenceModule
from dynvid.outputs import Outputs
from dynvid.profile import Profile, Timing
from dynvid.report import render_report

CLIPS = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a checkpoint of a tiny net, and clips."""
    folder = tmp_path_factory.mktemp("made")
    module = DynamicInferenceModule(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32))
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    trainer.strategy.connect(module)
    module.set_thresholds(torch.tensor([0.9, 0.9, 0.9, 0.0]))
    trainer.save_checkpoint(folder / "net.ckpt")
    (folder / "clips").mkdir()
    for n in range(CLIPS):
        scene = draw_scene("up", np.random.default_rng(n))
        write_clip(folder / "clips" / f"{n}.mp4", render(scene, 8, 32))
    return folder


@pytest.fixture
def checkpoint(made, tmp_path):
    return shutil.copy(made / "net.ckpt", tmp_path / "net.ckpt")


@pytest.fixture
def dynvid(capsys):
    """Run a command; its exit code, and what it printed."""

    def run(*words):
        with pytest.raises(SystemExit) as left:
            main([*map(str, words)])
        return left.value.code, *capsys.readouterr()

    return run


def load(path):
    return DynamicInferenceModule.load_from_checkpoint(path)


def test_a_profile_goes_into_a_new_checkpoint_beside_the_old_one(made, checkpoint, tmp_path, dynvid):
    before = checkpoint.read_bytes()
    quick = ["--repeats", 2, "--clips", 2, "--optimize", "none", "--batch-size", "1,3"]
    code, out, err = dynvid("profile", checkpoint, *quick, made / "clips")
    assert code == 0
    assert checkpoint.read_bytes() == before
    old, new = load(checkpoint), load(tmp_path / "net-profiled.ckpt")
    for name, value in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], value)
    assert new.calibrated
    assert (old.profiles, [p.batch_size for p in new.profiles]) == ((), [1, 3])
    for profile in new.profiles:
        assert (profile.route, profile.clips, profile.repeats) == (old.net.route, 2, 2)
        assert (profile.precision, profile.optimize) == ("float32", "none")
        assert all(0 < timing.decoding < timing.median for timing in (*profile.exits, profile.full))
    assert "2 of 6 videos are timed" in err
    assert f"parameters: {sum(p.numel() for p in old.net.parameters()):,}" in out
    rows = [row for line in out.splitlines() if (row := line.split()) and row[0] in ("1x2", "full")]
    assert [float(row[1]) for row in rows] == [
        pytest.approx(g, rel=1e-3) for g in (old.net.gmacs[0], old.net.full_gmacs)
    ] * 2
    # What is there is never replaced in silence.
    code, _, err = dynvid("profile", checkpoint, *quick, made / "clips")
    assert (code, "exists already" in err, "--in-place" in err) == (1, True, True)


@pytest.mark.slow
def test_in_place_and_as_json(made, checkpoint, dynvid, monkeypatch):
    quick = ["--repeats", 1, "--optimize", "none", "--in-place", "--json"]
    code, out, err = dynvid("profile", checkpoint, made / "clips" / "0.mp4", *quick)
    assert (code, err) == (0, "")
    said, (profile,) = json.loads(out), load(checkpoint).profiles
    assert [Profile.from_plain(plain) for plain in said["profiles"]] == [profile]
    assert (said["checkpoint"], tuple(said["gmacs"])) == (str(checkpoint), load(checkpoint).net.gmacs)
    code, out, err = dynvid("profile", checkpoint, made / "clips" / "0.mp4", *quick)
    assert f"in the place of the profile of {profile.date}" in err
    assert len(load(checkpoint).profiles) == 1
    code, out, err = dynvid("profile", checkpoint, *quick)
    assert "no videos: timed on random frames, without decoding" in err
    assert [p.clips for p in load(checkpoint).profiles] == [1, 0]


def test_what_cannot_be_read_is_named_and_left_out(made, checkpoint, tmp_path, dynvid):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    quick = ["--repeats", 1, "--optimize", "none"]
    code, _, err = dynvid("profile", checkpoint, bad, made / "clips" / "0.mp4", *quick)
    assert (code, "bad.mp4" in err) == (1, True)
    assert load(tmp_path / "net-profiled.ckpt").profiles[0].clips == 1
    code, _, err = dynvid("profile", checkpoint, bad, *quick, "--output", tmp_path / "x.ckpt")
    assert (code, "no video to time" in err, (tmp_path / "x.ckpt").exists()) == (1, True, False)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--batch-size", "1,x"], 2, "numbers such as 1 or 1,8"),
        (["--batch-size", "0"], 1, "must be 1 or more"),
        (["--in-place", "--output", "x.ckpt"], 1, "give one of them"),
        (["--bathc-size", "1"], 2, "did you mean --batch-size?"),
        (["--precision", "fp8"], 2, "--precision"),
    ],
)
def test_mistakes_are_one_line(checkpoint, dynvid, words, code, said):
    left, _, err = dynvid("profile", checkpoint, *words)
    assert (left, len(err.splitlines())) == (code, 1)
    assert said in err


def with_profiles(path, *costs, **changes):
    """Put made-up profiles into a checkpoint."""
    content = torch.load(path, weights_only=True)
    route = load(path).net.route
    content["dynvid"]["profiles"] = [
        Profile(
            **{"device": "cpu", "processor": f"CPU {n}", "precision": "float32", "optimize": "default"},
            **{"batch_size": 1, "threads": 1, "route": route, "full": Timing(each[-1], each[-1], each[-1])},
            **{"exits": tuple(Timing(ms, ms, ms, 0.1) for ms in each), "clips": 1, "repeats": 1},
            **{"versions": {}, "date": "2026-01-31"},
        ).plain()
        for n, each in enumerate(costs, 1)
    ]
    torch.save(content, path)


@pytest.mark.slow
def test_calibrate_goes_by_the_stored_milliseconds(made, checkpoint, tmp_path, dynvid):
    clips = ["--videos", made / "clips", "--num-workers", 0]
    code, _, err = dynvid("calibrate", checkpoint, "--budget-ms", 12, *clips)
    assert (code, "dynvid profile" in err) == (1, True)
    costs = (2.0, 10.0, 12.0, 30.0)
    with_profiles(checkpoint, costs)
    code, out, _ = dynvid("calibrate", checkpoint, "--budget-ms", 12, *clips)
    assert code == 0
    module = load(tmp_path / "net-budget_ms-12.ckpt")
    outputs = Outputs.read(tmp_path / "net-budget_ms-12.parquet")
    expected = thresholds_for_budget(outputs.scores, ~outputs.lost(False), costs, 12.0)
    assert torch.equal(module.policy.thresholds, expected)
    assert (module.point.rule, module.point.target) == ("budget_ms", 12.0)
    assert module.point.milliseconds == pytest.approx(np.mean([costs[k] for k in outputs.taken.tolist()]))
    assert f"time there: {module.point.milliseconds:.4g} ms per video" in out
    assert [p.milliseconds for p in module.profiles] == [costs]  # kept
    # The report of these outputs has both axes.
    report = render_report(outputs, gallery=False)
    assert report.summary["dynamic"]["milliseconds"] == pytest.approx(module.point.milliseconds)
    assert report.summary["verdict"]["kept"]
    assert "mean ms per video" in report.files["report.html"].decode()
    assert "CPU 1, float32" in report.files["report.md"].decode()
    # From the outputs again, and by a profile that has to be named.
    with_profiles(checkpoint, costs, (1.0, 2.0, 3.0, 4.0))
    again = ["--outputs", tmp_path / "net-budget_ms-12.parquet", "--output", tmp_path / "again.ckpt"]
    code, _, err = dynvid("calibrate", checkpoint, "--budget-ms", 3, *again)
    assert (code, "2: CPU 2" in err) == (1, True)
    assert dynvid("calibrate", checkpoint, "--budget-ms", 3, "--profile", 2, *again)[0] == 0
    assert load(tmp_path / "again.ckpt").point.profile.startswith("CPU 2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget-ms", "1", "--budget", "1"], "budget=1 beside budget_ms=1|calibrate needs one of"),
        (["--budget", "1", "--cost", "ms"], "--cost ms beside --budget"),
        (["--budget", "1", "--profile", "1"], "--profile is for --budget-ms"),
        (["--budget-ms", "1", "--cost", "gmacs"], "--cost gmacs beside --budget-ms"),
        (["--budget-ms", "1"], "below the first exit"),
    ],
)
def test_options_that_do_not_go_together(made, checkpoint, dynvid, words, said):
    with_profiles(checkpoint, (2.0, 10.0, 12.0, 30.0))
    code, _, err = dynvid("calibrate", checkpoint, *words, "--videos", made / "clips" / "0.mp4", "--num-workers", 0)
    assert code == 1
    assert any(part in err for part in said.split("|"))


def test_videos_are_spread_over_the_list():
    assert command._spread(10, 3) == [1, 5, 8]
    assert command._spread(2, 3) == [0, 1]
