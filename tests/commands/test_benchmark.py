"""`dynvid benchmark`: on a checkpoint with clips, and with neither."""

import json

import av
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from dynvid import UnifiedExitNet
from dynvid.cli import main
from dynvid.commands import contest
from dynvid.module import DynamicInferenceModule

NO_DATA = ["--backbone", "test_resnet", "--size", "32", "--num-frames", "4", "--num-classes", "5", "--repeats", "1"]


@pytest.fixture
def bench(capsys):
    def run(*arguments):
        code = 0
        try:
            main(["benchmark", *map(str, arguments)])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code or 0, out, err

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory, scramble_net):
    """A calibrated checkpoint, and a folder of three clips."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "clips").mkdir()
    for i in range(3):
        with av.open(str(folder / "clips" / f"{i}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for image in np.random.default_rng(i).integers(0, 255, (9, 48, 64, 3), np.uint8):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    module = DynamicInferenceModule(scramble_net(UnifiedExitNet, input_size=32))
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    trainer.strategy.connect(module)
    module.set_thresholds(torch.tensor([0.0, 0.0, 0.0, 0.0]))  # everybody leaves at once
    trainer.save_checkpoint(folder / "net.ckpt")
    return folder / "net.ckpt", folder / "clips"


@pytest.mark.slow
def test_without_checkpoint_and_data(bench):
    before = torch.get_num_threads()
    arguments = [*NO_DATA, "--forced-exits", "60,20,15,5", "--batch-size", "2", "1", "--device", "cpu", "--json"]
    code, out, err = bench(*arguments)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [(b["batch_size"], b["videos"]) for b in found["batches"]] == [(2, 20), (1, 20)]
    assert [row["exits"] for row in found["batches"][0]["rows"]] == [[20], [12, 4, 3, 1]]
    for key in ("macs_saved", "time_saved", "time_saved_low_high", "time_saved_per_macs_saved"):
        assert found[key] == found["batches"][0][key]
    assert found["decoding"] == "left out: random frames in memory"
    assert found["ratios_by"] == "cpu time"
    assert found["processor"]["threads"] == 1
    assert {"dynvid", "torch", "timm", "av", "python"} <= found["versions"].keys()
    assert found["ceiling_gflops"] > 0
    assert found["batches"][0]["share_of_ceiling"] > 0
    assert found["nets"][0]["route"] == [[4, 1], [4, 2], [4, 3], [4, 4]]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("route", "shares", "exits"), [("unified", "1,1,1,1", 4), ("input", "2,1,1", 3)])
@pytest.mark.slow
def test_routes_by_name_and_plain_tsm_beside_them(bench, route, shares, exits):
    arguments = [*NO_DATA, "--route", route, "--forced-exits", shares, "--against", "tsm", "--json"]
    code, out, _ = bench(*arguments, "--batch-size", "2")
    rows = json.loads(out)["batches"][0]["rows"]
    assert code == 0
    assert [(row["net"], row["inference"], len(row["exits"])) for row in rows] == [
        ("test_resnet", "full", 1),
        ("test_resnet", "dynamic", exits),
        ("plain TSM", "full", 1),
    ]


@pytest.mark.slow
def test_a_checkpoint_on_clips(bench, files):
    checkpoint, clips = files
    code, out, err = bench(checkpoint, "--repeats", "1", clips, "--against", checkpoint, "--batch-size", "2", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    (batch,) = found["batches"]
    assert batch["videos"] == 3
    assert [row["exits"] for row in batch["rows"]] == [[3], [3, 0, 0, 0]] * 2
    for row in batch["rows"]:
        assert row["decode_ms"]["cpu"]["median"] > 0
        assert row["p50_ms"] <= row["p95_ms"]
    assert found["macs_saved"] == pytest.approx(1 - found["nets"][0]["gmacs"][0] / found["nets"][0]["full_gmacs"])
    assert batch["model"]["macs_saved"] == found["macs_saved"]
    assert found["decoding"] == "included"
    assert found["disagreement"][0].startswith(f"{checkpoint}: of 3 videos ")
    assert len(found["disagreement"]) == 2


@pytest.mark.slow
def test_a_checkpoint_with_forced_exits_needs_no_clips(bench, files):
    code, out, _ = bench(files[0], "--forced-exits", "1,1,1,1", "--repeats", "1", "--batch-size", "1", "--json")
    found = json.loads(out)
    assert code == 0
    assert [row["exits"] for row in found["batches"][0]["rows"]] == [[4], [1, 1, 1, 1]]
    assert found["disagreement"] == []


@pytest.mark.slow
def test_a_table(bench, files):
    code, out, _ = bench(*files, "--repeats", "1", "--against", "tsm")
    assert code == 0
    for said in ("plain TSM", "dynamic", "of the MACs saved", "time saved / MACs saved", "GFLOP/s", "than in float32"):
        assert said in out
    assert "decoding included; ratios of cpu time, median (lowest to highest)" in out


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_skipped_and_named(bench, monkeypatch):
    real = contest.compare

    def compare(contenders, size, *arguments, **others):
        if size == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(contenders, size, *arguments, **others)

    monkeypatch.setattr(contest, "compare", compare)
    code, out, err = bench(*NO_DATA, "--forced-exits", "1,1,1,1", "--batch-size", "4", "1", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "dynvid: batch size 4 is skipped: out of memory\n")
    assert found["batches"][0] == {"batch_size": 4, "skipped": "out of memory"}
    assert found["macs_saved"] == found["batches"][1]["macs_saved"]
    code, out, _ = bench(*NO_DATA, "--forced-exits", "1,1,1,1", "--batch-size", "4")
    assert code == 1
    assert "batch size 4: skipped, out of memory" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a checkpoint and videos, or --backbone NAME --forced-exits 60,20,15,5"),
        (["a.ckpt"], "give videos, or --forced-exits"),
        (["--backbone", "resnet50"], "--backbone has random weights: give --forced-exits"),
        (["a.ckpt", "b.mp4", "--num-frames", "8"], "--num-frames is for --backbone: a checkpoint has its own"),
        (["--backbone", "resnet50", "--forced-exits", "60,a"], "'60,a': whole numbers with commas between"),
        (["--backbone", "resnet50", "--forced-exits", "0,0"], "'0,0': whole numbers with commas between, not all 0"),
        (["--backbone", "resnet50", "--forced-exits", "1,1", "--batch-size", "8", "0"], "'0': a whole number"),
        (["--backbone", "resnet50", "--batchsize", "8"], "--batchsize: no such key; did you mean --batch-size?"),
    ],
)
def test_wrong_arguments(bench, arguments, said):
    code, out, err = bench(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*NO_DATA, "--forced-exits", "60,20,20"], "3 shares for 4 exits of test_resnet: 4x1, 4x2, 4x3, 4x4"),
        (["gone.ckpt", "gone.mp4"], "gone.mp4: no such file or folder"),
        ([*NO_DATA, "--forced-exits", "1,1,1,1", "--against", "gone.ckpt"], "gone.ckpt"),
    ],
)
def test_what_does_not_go_together(bench, arguments, said):
    code, out, err = bench(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert said in err
