"""`dynvid calibrate` on a real checkpoint, real videos and recorded outputs."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from dynvid.calibration import OperatingPoint, kept_apart, thresholds_for_drop, thresholds_for_risk
from dynvid.cli import main
from dynvid.commands import classify_video
from dynvid.data.synthetic import SyntheticDataModule
from dynvid.module import DynamicInferenceModule
from dynvid.outputs import Outputs

TINY = ["--data.size", "32", "--data.clips_per_class", "8", "--data.clip_frames", "8", "--data.num_frames", "4"]
TINY += ["--data.num_workers", "0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A net trained for an epoch with 40 validation clips; the folder, and its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    data = ["--data.root", str(folder / "clips"), *TINY]
    quick = [
        "--trainer.max_epochs",
        "1",
        "--trainer.default_root_dir",
        str(folder / "logs"),
        "--model.warmup_epochs",
        "0",
    ]
    main(["fit", "--config", "quickstart.yaml", *data, *quick, "--calibration.max_drop", "0.2"])
    return folder, next((folder / "logs").rglob("best.ckpt"))


@pytest.fixture
def checkpoint(trained, tmp_path):
    return shutil.copy(trained[1], tmp_path / "net.ckpt")


def data_of(trained):
    return ["--config", "quickstart.yaml", "--data.root", str(trained[0] / "clips"), *TINY]


def load(path):
    return DynamicInferenceModule.load_from_checkpoint(path)


def command(*arguments):
    with pytest.raises(SystemExit) as left:
        main([*map(str, arguments)])
    return left.value.code


def run(*arguments):
    return command("calibrate", *arguments)


@pytest.mark.slow
def test_another_target_from_the_validation_split_and_again_from_its_outputs(trained, checkpoint, tmp_path, capsys):
    assert run(checkpoint, *data_of(trained), "--max-drop", "0.3", "--confidence", "0.8") == 0
    printed = capsys.readouterr().out
    made = tmp_path / "net-max_drop-0.3-0.8.ckpt"
    outputs = Outputs.read(made.with_suffix(".parquet"))
    assert len(outputs.paths) == 40
    module, before = load(made), load(checkpoint)
    # Those that chose the checkpoint carry no promise: `fit` kept two thirds apart.
    part = outputs.of(kept_apart(outputs.recordings))
    expected = thresholds_for_risk(part.scores, part.lost(True), part.gmacs, 0.3, 0.8)
    assert torch.equal(module.policy.thresholds, expected)
    assert module.calibrated
    assert (module.point.target, module.point.confidence, module.point.videos) == (0.3, 0.8, len(part.paths))
    assert f"calibration: {len(part.paths)} videos of val" in printed
    assert "promised with 80 % confidence: at most 30 % of new videos lost" in printed
    for name, value in before.net.state_dict().items():
        assert torch.equal(module.net.state_dict()[name], value)
    again = tmp_path / "again.ckpt"
    same = ["--outputs", made.with_suffix(".parquet"), "--max-drop", "0.3", "--confidence", "0.8"]
    assert run(checkpoint, *same, "--output", again) == 0
    assert torch.equal(load(again).policy.thresholds, expected)


@pytest.mark.slow
def test_the_answers_are_those_of_validate(trained, checkpoint, tmp_path):
    main(["validate", *data_of(trained), "--ckpt_path", str(checkpoint), "--trainer.default_root_dir", str(tmp_path)])
    assert run(checkpoint, *data_of(trained), "--budget", "1") == 0
    validated = Outputs.read(next(tmp_path.rglob("outputs_val.parquet")))
    recorded = Outputs.read(tmp_path / "net-budget-1.parquet")
    assert torch.allclose(validated.logits, recorded.logits, atol=1e-5)
    assert validated.paths == recorded.paths
    assert validated.weights == recorded.weights
    assert torch.equal(validated.labels, recorded.labels)


def test_without_labels_from_a_folder(trained, checkpoint, tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    for n, clip in enumerate(sorted((trained[0] / "clips" / "test").rglob("*.mp4"))):
        shutil.copy(clip, videos / f"{n}.mp4")
    (videos / "broken.mp4").write_bytes(b"no video")
    assert run(checkpoint, "--videos", videos, "--max-disagreement", "0.2", "--num-workers", "0") == 1
    said = capsys.readouterr()
    assert "broken.mp4" in said.err  # and the exit code says so too
    assert "each file counts as a recording of its own" in said.out
    module = load(tmp_path / "net-max_disagreement-0.2.ckpt")
    assert (module.point.rule, module.point.videos, module.point.chosen_by) == ("max_disagreement", 40, "nothing")
    outputs = Outputs.read(tmp_path / "net-max_disagreement-0.2.parquet")
    assert not outputs.labelled
    labels = outputs.logits.argmax(-1)
    expected = thresholds_for_risk(outputs.scores, labels != labels[-1], outputs.gmacs, 0.2)
    assert torch.equal(module.policy.thresholds, expected)
    # The checkpoint works: it labels a video by these thresholds.
    found = classify_video(module, videos / "0.mp4")
    row = outputs.paths.index(str(videos / "0.mp4"))
    taken = outputs.under(module.policy, None).taken[row]
    assert (found["frames"], found["depth"]) == tuple(module.net.route[taken])


@pytest.mark.slow
def test_no_promise_thresholds_by_hand_and_another_score(trained, checkpoint, tmp_path, capsys):
    loose = ["--max-drop", "0.1", "--confidence", "null", "--score", "margin", "--output", tmp_path / "loose.ckpt"]
    assert run(checkpoint, *data_of(trained), *loose) == 0
    module, outputs = load(tmp_path / "loose.ckpt"), Outputs.read(tmp_path / "loose.parquet")
    assert module.policy.score_name == "margin"
    part = outputs.of(kept_apart(outputs.recordings)).under(module.policy, None)
    assert torch.equal(module.policy.thresholds, thresholds_for_drop(part.scores, part.correct, part.gmacs, 0.1))
    assert "no promise" in capsys.readouterr().out
    # `test` takes the score with the thresholds, whatever its config says.
    logs = ["--trainer.default_root_dir", str(tmp_path / "logs")]
    main(["test", *data_of(trained), "--ckpt_path", str(tmp_path / "loose.ckpt"), *logs])
    tested = Outputs.read(next((tmp_path / "logs").rglob("outputs_test.parquet")))
    assert tested.policy.score_name == "margin"
    assert torch.equal(tested.policy.thresholds, module.policy.thresholds)
    hand = ["--thresholds", "0.9", "inf", "0.7", "--output", tmp_path / "hand.ckpt"]
    assert run(checkpoint, *hand) == 0
    by_hand = load(tmp_path / "hand.ckpt")
    assert by_hand.policy.thresholds.tolist() == pytest.approx([0.9, torch.inf, 0.7, -torch.inf])
    assert by_hand.point == OperatingPoint("thresholds")


def test_a_temperature_is_fitted_on_the_videos_that_do_not_calibrate(trained, checkpoint, tmp_path):
    arguments = ["--max-drop", "0.3", "--temperature", "true", "--output", tmp_path / "warm.ckpt"]
    assert run(checkpoint, *data_of(trained), *arguments) == 0
    module, outputs = load(tmp_path / "warm.ckpt"), Outputs.read(tmp_path / "warm.parquet")
    assert any(t != 1 for t in module.policy.temperatures)
    others = outputs.of(~kept_apart(outputs.recordings))
    for k, temperature in enumerate(module.policy.temperatures):

        def loss(t, k=k):
            t = min(t, 20)  # no hotter
            return torch.nn.functional.cross_entropy(others.logits[k].double() / t, others.labels).item()

        assert loss(temperature) <= min(loss(temperature * 0.9), loss(temperature * 1.1))
    assert module.point.videos == 40 - len(others.paths)


@pytest.mark.slow
def test_who_chose_is_not_forgotten_by_calibrating_twice(trained, checkpoint, tmp_path):
    """Nor which videos fitted temperatures that are kept."""
    assert run(checkpoint, *data_of(trained), "--max-drop", "0.3", "--output", tmp_path / "a.ckpt") == 0
    part = load(tmp_path / "a.ckpt").point.videos
    assert part < 40
    table = ["--outputs", tmp_path / "a.parquet", "--max-drop", "0.3"]
    assert run(checkpoint, "--thresholds", "0.9", "0.9", "0.9", "--output", tmp_path / "hand.ckpt") == 0
    assert run(tmp_path / "hand.ckpt", *table, "--output", tmp_path / "b.ckpt") == 0
    assert (load(tmp_path / "b.ckpt").point.videos, load(tmp_path / "b.ckpt").chosen_by) == (part, "others")
    content = torch.load(checkpoint, weights_only=True)
    content["dynvid"]["chosen_by"] = "nothing"
    torch.save(content, tmp_path / "unchosen.ckpt")
    assert run(tmp_path / "unchosen.ckpt", *table, "--output", tmp_path / "c.ckpt") == 0
    assert load(tmp_path / "c.ckpt").point.videos == 40
    warm = ["--temperature", "true", "--output", tmp_path / "warm.ckpt"]
    assert run(tmp_path / "unchosen.ckpt", *table, *warm) == 0
    assert run(tmp_path / "warm.ckpt", *table, "--output", tmp_path / "again.ckpt") == 0
    assert load(tmp_path / "again.ckpt").policy.temperatures == load(tmp_path / "warm.ckpt").policy.temperatures
    assert load(tmp_path / "again.ckpt").point.videos == part


@pytest.mark.parametrize("chosen_by", ["these", None])
@pytest.mark.slow
def test_videos_that_chose_the_checkpoint_promise_nothing(trained, checkpoint, tmp_path, capsys, chosen_by):
    content = torch.load(checkpoint, weights_only=True)
    content["dynvid"] |= {"chosen_by": chosen_by}
    torch.save(content, tmp_path / "chosen.ckpt")
    for more, others in ((["--max-drop", "0.3"], True), (["--max-drop", "0.3", "--max-error", "0.3"], False)):
        assert run(tmp_path / "chosen.ckpt", *data_of(trained), *more) == 1
        said = capsys.readouterr().err
        assert "the validation videos chose this checkpoint, or may have" in said
        assert ("--videos" in said) == others  # which have no labels
    assert not list(tmp_path.glob("*.parquet"))
    loose = ["--max-drop", "0.3", "--confidence", "null", "--output", tmp_path / "loose.ckpt"]
    assert run(tmp_path / "chosen.ckpt", *data_of(trained), *loose) == 0
    assert load(tmp_path / "loose.ckpt").point.videos == 40


@pytest.mark.slow
def test_clips_without_labels_may_be_of_recordings(trained, checkpoint, tmp_path, capsys):
    clips = trained[0] / "clips" / "test"
    asked = ["--videos", clips, "--max-disagreement", "0.5", "--num-workers", "0", "--output", tmp_path / "g.ckpt"]
    assert run(checkpoint, *asked, "--group", "test/([a-z]+)/") == 0
    point = load(tmp_path / "g.ckpt").point
    assert (point.videos, point.recordings) == (40, 10)
    assert set(Outputs.read(tmp_path / "g.parquet").recordings) == set(SyntheticDataModule().class_names)
    assert run(checkpoint, *asked[:-1], tmp_path / "h.ckpt", "--group", "nowhere") == 1
    assert "--group nowhere: finds nothing in " in capsys.readouterr().err
    assert run(checkpoint, *asked[:-1], tmp_path / "h.ckpt", "--group", "(") == 1
    assert "--group (: no regular expression" in capsys.readouterr().err


@pytest.mark.slow
def test_videos_that_fit_may_have_trained_on_promise_nothing(checkpoint, tmp_path, capsys):
    """Other clips under the same names of classes: not the list that `fit` validated on."""
    other = [*TINY[:3], "10", *TINY[4:]]
    made = ["--config", "quickstart.yaml", "--data.root", tmp_path / "fresh", *other]
    assert run(checkpoint, *made, "--max-drop", "0.3") == 1
    assert "these are not the validation videos of `fit`" in capsys.readouterr().err
    assert run(checkpoint, *made, "--max-drop", "0.3", "--confidence", "null") == 0


def test_the_table_beside_the_new_checkpoint_is_under_its_point(trained, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["dynvid"]["background"] = content["dynvid"]["class_names"][3]
    torch.save(content, checkpoint)
    assert run(checkpoint, *data_of(trained), "--max-drop", "0.3") == 0
    outputs, module = Outputs.read(tmp_path / "net-max_drop-0.3.parquet"), load(tmp_path / "net-max_drop-0.3.ckpt")
    assert outputs.point == module.point
    assert torch.equal(outputs.policy.thresholds, module.policy.thresholds)
    assert outputs.background == module.background == outputs.class_names[3]


@pytest.mark.slow
def test_what_needs_labels_says_so(trained, checkpoint, tmp_path, capsys):
    clips = trained[0] / "clips" / "test"
    asked = ["--videos", clips, "--max-disagreement", "0.3", "--num-workers", "0", "--output", tmp_path / "v.ckpt"]
    assert run(checkpoint, *asked) == 0
    capsys.readouterr()
    for more in (["--max-drop", "0.3"], ["--max-disagreement", "0.3", "--temperature", "true"]):
        assert run(checkpoint, "--outputs", tmp_path / "v.parquet", *more, "--output", tmp_path / "w.ckpt") == 1
        assert "needs labels, which these videos do not have" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-drop", "0.1"], "calibrate needs videos: --config"),
        (["--videos", "."], "needs one of --max-drop"),
        (["--videos", ".", "--max-drop", "0.1"], "--max-drop needs labels"),
        (["--max-drop", "0.1", "--budget", "1", "--videos", "."], "needs one of --max-drop"),
        (["--thresholds", "0.5", "--budget", "1"], "--thresholds beside --budget"),
        (["--thresholds", "0.5"], "--thresholds has 1 number: the net has 4 exits"),
        (["--thresholds", "0.5", "x", "0.5"], "--thresholds 0.5 x 0.5: numbers, or inf"),
        (["--outputs", "none.parquet", "--budget", "1"], r"none.parquet: no such file"),
        (["--outputs", "a", "--videos", ".", "--budget", "1"], "--outputs beside --videos"),
        (
            ["--config", "quickstart.yaml", "--data.size", "48", "--budget", "1"],
            "data.num_frames=8: the checkpoint's net",
        ),
        (["--thresholds", "1", "1", "1", "--output", "{old}"], "exists already"),
        (["--thresholds", "1", "1", "1", "--output", "new.parquet"], "a checkpoint, such as new.ckpt"),
        (["--thresholds", "1", "1", "1", "--temperature", "true"], "--temperature true needs videos with labels"),
        (["--videos", ".", "--budget", "1", "--batch-size", "0"], "--batch-size must be 1 or more"),
        (["--videos", ".", "--budget", "1e16"], "budget=1e+16: GMACs above 0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(checkpoint, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run(checkpoint, *(word.replace("{old}", str(checkpoint)) for word in arguments)) in (1, 2)
    error = capsys.readouterr().err.strip()
    assert words in error
    assert error.startswith("dynvid: error: ")
    assert "\n" not in error


@pytest.mark.slow
def test_outputs_of_other_weights_and_of_test_data_are_refused(trained, checkpoint, tmp_path, capsys):
    logs = ["--trainer.default_root_dir", str(tmp_path / "logs")]
    main(["test", *data_of(trained), "--ckpt_path", str(checkpoint), *logs])
    tested = next((tmp_path / "logs").rglob("outputs_test.parquet"))
    assert run(checkpoint, "--outputs", tested, "--budget", "1") == 1
    assert "thresholds are never chosen on test data" in capsys.readouterr().err
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["net.segments.0.conv1.0.weight"] *= 2
    torch.save(content, tmp_path / "other.ckpt")
    assert run(tmp_path / "other.ckpt", "--outputs", tested, "--budget", "1") == 1
    assert "recorded with other weights" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize(
    "asked", [["--calibration.max_drop", "0.1"], ["--calibration", "own.yaml"], ["--model.score", "margin"]]
)
def test_what_cannot_act_is_refused(trained, checkpoint, tmp_path, monkeypatch, capsys, command, asked):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("max_drop: 0.3\n")
    with pytest.raises(SystemExit):
        main([command, *data_of(trained), "--ckpt_path", str(checkpoint), *asked])
    assert f"{asked[0]}: `{command}` takes thresholds and score from the checkpoint" in capsys.readouterr().err


def test_the_new_checkpoint_says_what_it_was_asked_for(checkpoint, tmp_path):
    assert run(checkpoint, "--thresholds", "0.9", "0.9", "0.9") == 0
    content = torch.load(tmp_path / "net-thresholds.ckpt", weights_only=True)
    assert content["dynvid"]["operating_point"]["rule"] == "thresholds"
    assert "optimizer_states" in content  # nothing is lost


@pytest.mark.slow
def test_generated_clips_are_made_where_they_are_missing(checkpoint, tmp_path):
    made = ["--config", "quickstart.yaml", "--data.root", str(tmp_path / "fresh"), *TINY]
    assert run(checkpoint, *made, "--max-drop", "0.3") == 0
    assert SyntheticDataModule(tmp_path / "fresh").root.is_dir()


def test_answers_are_withheld_from_recorded_outputs_to_labels_and_report(trained, checkpoint, tmp_path, capsys):
    """The net's own weights, and answers that are sure and right but for every tenth, which is unsure and wrong."""
    assert run(checkpoint, *data_of(trained), "--max-error", "0.9", "--confidence", "0.6") == 0
    made = tmp_path / "net-max_error-0.9-0.6.ckpt"
    outputs, before = Outputs.read(made.with_suffix(".parquet")), load(checkpoint)
    part = outputs.of(kept_apart(outputs.recordings)).under(before.policy, before.point)
    assert load(made).reject == part.rejected(0.9, 0.6, "others")
    assert load(made).point == before.point  # thresholds stay as they are
    assert torch.equal(load(made).policy.thresholds, before.policy.thresholds)

    sure = torch.nn.functional.one_hot(outputs.labels, 10).float().repeat(len(outputs.route), 1, 1)
    sure[:, ::10] = 0.2 * sure[:, ::10].roll(1, -1)
    doctored = replace(outputs, logits=12 * sure, reject=None)
    doctored.save(tmp_path / "doctored.parquet")
    capsys.readouterr()
    arguments = [
        "--outputs",
        tmp_path / "doctored.parquet",
        "--max-error",
        "0.2",
        "--output",
        tmp_path / "careful.ckpt",
    ]
    assert run(checkpoint, *arguments) == 0
    assert "at most 20 % of the answers given to new videos are wrong (0.0 % are" in capsys.readouterr().out
    careful = load(tmp_path / "careful.ckpt")
    assert careful.reject.threshold == pytest.approx(1.0, abs=1e-3)
    assert careful.reject.chosen_by == "others"

    clip = next((trained[0] / "clips" / "test").rglob("*.mp4"))
    command("classify", tmp_path / "careful.ckpt", clip)
    assert "unsure (best guess " in capsys.readouterr().out
    command("classify", "--json", tmp_path / "careful.ckpt", clip)
    assert json.loads(capsys.readouterr().out)["answered"] is False
    assert not classify_video(careful, clip)["answered"]
    assert classify_video(before, clip)["answered"]

    doctored.under(careful.policy, careful.point, careful.reject).save(tmp_path / "outputs_test.parquet")
    command("report", tmp_path)
    assert "90.0 % of 40 videos were answered, 0.0 % of these wrongly" in capsys.readouterr().out

    for old, withheld in (("careful", True), ("hand", False)):  # of other thresholds, which is said once
        capsys.readouterr()
        new = tmp_path / ("hand.ckpt" if withheld else "again.ckpt")
        assert run(tmp_path / f"{old}.ckpt", "--thresholds", "0.9", "0.9", "0.9", "--output", new) == 0
        assert load(new).reject is None
        assert ("answers: no longer withheld" in capsys.readouterr().out) == withheld


def test_what_does_not_go_with_max_error_is_said(checkpoint, tmp_path, capsys):
    for arguments, said in (
        (["--max-error", "0.05"], "needs videos"),
        (["--max-error", "0.05", "--videos", tmp_path], "needs labels"),
        (["--max-error", "2", "--outputs", tmp_path], "max_error=2.0"),
        (["--max-error", "0.05", "--outputs", tmp_path, "--score", "margin"], "--score changes"),
        (["--outputs", tmp_path], "or --max-error"),
    ):
        assert run(checkpoint, *arguments) == 1
        assert said in capsys.readouterr().err
