"""A trained net at work: one call and many give the same, and bad videos take their own place only."""

import io
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from dynvid import UnifiedExitNet
from dynvid.calibration import OperatingPoint, Reject
from dynvid.commands import classify_video
from dynvid.data import VideoReader
from dynvid.data.dataset import Skipped
from dynvid.data.sampling import cheap_indices, segment_indices
from dynvid.data.transforms import decode_size, eval_transform
from dynvid.errors import InputError, VideoError
from dynvid.folder import Int8
from dynvid.inference import Recognizer, prepare
from dynvid.inference.recipe import Recipe
from dynvid.module import DynamicInferenceModule
from dynvid.policy import ThresholdPolicy

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_noise):
    folder = tmp_path_factory.mktemp("clips")
    return [write_noise(folder / f"{i}.mp4", i, frames=10 + 3 * i, most=40 * (i + 1)) for i in range(6)]


@pytest.fixture(scope="module")
def net(scramble_net):
    return scramble_net(UnifiedExitNet, input_size=32)


@pytest.fixture(scope="module")
def expected(net, clips):
    """What each clip is by hand: opened, sampled, prepared and answered by all exits at once."""
    videos = []
    for path in clips:
        reader = VideoReader(path)
        frames = reader.read(segment_indices(len(reader), net.num_frames), decode_size(net.input_size))
        videos.append(eval_transform(net.input_size)(frames))
    with torch.no_grad():
        return net(torch.stack(videos)).softmax(-1)  # (K, B, classes)


@pytest.fixture(scope="module")
def policy(expected):
    """Thresholds between the scores of the clips, so that some leave at each exit."""
    scores = expected.amax(-1).sort(1).values
    return ThresholdPolicy(thresholds=[*((scores[:-1, 2] + scores[:-1, 3]) / 2).tolist(), 0.0])


def test_a_call_decides_as_the_exits_do_when_all_are_computed(net, clips, expected, policy):
    recognizer = Recognizer(net, policy, NAMES)
    taken = policy.choose(expected.log())
    assert len(set(taken.tolist())) > 1
    for i, path in enumerate(clips):
        found, k = recognizer(path), int(taken[i])
        probability, label = expected[k, i].max(-1)
        assert found.label == NAMES[label]
        assert found.probability == pytest.approx(float(probability), abs=1e-5)
        assert found.exit == net.route[k]
        assert found.frames_read == net.route[k].frames
        assert found.gmacs == net.gmacs[k]
        assert [passed.exit for passed in found.trace] == list(net.route[: k + 1])
        assert [passed.gmacs for passed in found.trace] == list(net.gmacs[: k + 1])
        assert 0 < found.trace[0].milliseconds <= found.milliseconds == found.trace[-1].milliseconds


@pytest.mark.parametrize("batch_size", [1, 4])
def test_many_are_labelled_as_one_by_one_and_bad_ones_take_their_own_place(net, clips, policy, tmp_path, batch_size):
    recognizer = Recognizer(net, policy, NAMES)
    (tmp_path / "no.mp4").write_bytes(b"no video")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clips[0].read_bytes()[:-300])
    videos = [*clips[:3], tmp_path / "no.mp4", *clips[3:], tmp_path / "gone.mp4", cut, clips[0]]
    found = list(recognizer.many(iter(videos), batch_size, workers=3))
    assert len(found) == len(videos)
    for path, one in zip(videos, found, strict=True):
        if path in clips:
            alone = recognizer(path)
            assert one._replace(milliseconds=0, trace=(), probability=0) == alone._replace(
                milliseconds=0, trace=(), probability=0
            )
            assert one.probability == pytest.approx(alone.probability, abs=1e-5)
        else:
            assert isinstance(one, Skipped)
            assert one.path == str(path)
            with pytest.raises(VideoError) as caught:
                recognizer(path)
            assert one.reason == str(caught.value)


def test_bytes_files_and_readers_are_videos_too(net, clips, policy):
    recognizer = Recognizer(net, policy)
    label = recognizer(clips[0]).label
    content = clips[0].read_bytes()
    for video in (str(clips[0]), content, io.BytesIO(content), VideoReader(clips[0])):
        assert recognizer(video).label == label
    (skipped,) = recognizer.many([b"no video"])
    assert skipped == Skipped("<bytes>", "<bytes>: cannot open (Invalid data found when processing input)")


def test_budgets_are_never_exceeded(net, clips):
    recognizer = Recognizer(net)  # no exit is ever sure
    for k, gmacs in enumerate(net.gmacs):
        found = recognizer(clips[0], max_gmacs=gmacs)
        assert (found.exit, found.gmacs) == (net.route[k], gmacs)
        if k:
            assert recognizer(clips[0], max_gmacs=gmacs * (1 - 1e-9)).exit == net.route[k - 1]
    with pytest.raises(InputError, match="the first exit takes"):
        recognizer(clips[0], max_gmacs=net.gmacs[0] / 2)


def test_after_the_deadline_no_step_begins(net, clips, monkeypatch):
    recognizer, now = Recognizer(net), 0.0
    monkeypatch.setattr("dynvid.inference.pool.time.perf_counter", lambda: now)
    real = type(net).run_segment

    def slow(self, *arguments):  # each segment takes a second
        nonlocal now
        now += 1.0
        return real(self, *arguments)

    monkeypatch.setattr(type(net), "run_segment", slow)
    whole = recognizer(clips[0])
    times = [passed.milliseconds for passed in whole.trace]
    assert times == sorted(times)
    for k, spent in enumerate(times):
        assert recognizer(clips[0], deadline_ms=spent).exit == net.route[k]
        assert recognizer(clips[0], deadline_ms=spent - 1).exit == net.route[k]
        assert recognizer(clips[0], deadline_ms=spent + 1).exit == net.route[min(k + 1, len(times) - 1)]


def test_a_checkpoint_is_loaded_with_its_policy(net, policy, clips, tmp_path):
    module = DynamicInferenceModule(net, score="margin")
    module.class_names = NAMES
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    assert not Recognizer.load(tmp_path / "plain.ckpt").calibrated
    module.set_thresholds(policy.thresholds)
    module.policy.take_score("margin", [1.0, 2.0, 1.0, 0.5])
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    recognizer = Recognizer.load(str(tmp_path / "net.ckpt"), device="cpu", optimize="none")
    assert recognizer.calibrated
    assert recognizer.point.rule == "thresholds"
    assert (recognizer.policy.score_name, recognizer.policy.temperatures) == ("margin", (1.0, 2.0, 1.0, 0.5))
    assert torch.equal(recognizer.policy.thresholds, policy.thresholds)
    assert recognizer.class_names == NAMES
    assert (tuple(recognizer.gmacs), recognizer.full_gmacs) == (net.gmacs, net.full_gmacs)
    expected = Recognizer(net, module.policy, NAMES)
    fast = Recognizer.load(tmp_path / "net.ckpt", device="cpu", precision="float32")
    for path in clips:
        one = expected(path)
        assert recognizer(path)[:5] == one[:5]
        assert (fast(path).label, fast(path).exit) == (one.label, one.exit)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": ThresholdPolicy(2)}, "2 thresholds, the route 4 exits"),
        ({"class_names": ["a"]}, "1 class names, the net has 5 classes"),
    ],
)
def test_what_does_not_fit_the_net_is_refused(net, arguments, message):
    with pytest.raises(InputError, match=message):
        Recognizer(net, **arguments)
    with pytest.raises(InputError, match="batch_size=0, workers=2: 1 or more"):
        Recognizer(net).many([], batch_size=0, workers=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r(None), "a video is a path, bytes, a binary file or a reader, not NoneType"),
        (lambda r: r(["a.mp4"]), "not list"),
        (lambda r: r.many("a.mp4"), "many takes a list of videos"),
        (lambda r: r("a.mp4", deadline_ms=float("nan")), "deadline_ms=nan: 0 or more"),
        (lambda r: r("a.mp4", deadline_ms=-1), "deadline_ms=-1: 0 or more"),
        (lambda r: r.many(["a.mp4"], max_gmacs=0), "the first exit takes"),
    ],
)
def test_wrong_calls_say_what_is_wanted(net, call, message):
    with pytest.raises(InputError, match=message):
        call(Recognizer(net))


@pytest.mark.parametrize("confidence", [0.95, None])
def test_a_promise_is_kept_in_the_precision_that_it_was_made_in(net, tmp_path, monkeypatch, confidence):
    monkeypatch.setattr("dynvid.inference.recipe.has_bf16", lambda device: True)
    module = DynamicInferenceModule(net)
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    trainer.strategy.connect(module)
    point = OperatingPoint("max_drop", target=0.01, confidence=confidence, gmacs=1.0, lost=0.0)
    module.set_thresholds([0.5, 0.5, 0.5, 0.0], point=point)
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    net.eval()
    found = Recognizer.load(tmp_path / "net.ckpt", device="cpu")
    assert found.point.promised == (confidence is not None)
    assert found.recipe.precision == ("bfloat16" if confidence is None else "float32")
    assert Recognizer.load(tmp_path / "net.ckpt", "cpu", "bfloat16").recipe.precision == "bfloat16"


def test_many_keep_to_a_budget_too(net, clips):
    for found in Recognizer(net).many(clips, max_gmacs=net.gmacs[1]):
        assert (found.gmacs, found.exit) == (net.gmacs[1], net.route[1])


def test_a_device_that_is_not_here_is_refused(net):
    with pytest.raises(InputError, match="device nonsense: there is none such here"):
        prepare(net, device="nonsense")


def test_the_callers_code_runs_outside_of_inference_mode(net, clips):
    def paths():
        for path in clips[:2]:
            assert not torch.is_inference_mode_enabled()
            yield path

    for _ in Recognizer(net).many(paths()):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_cheap_frames_travel_with_the_checkpoint(net, clips, tmp_path):
    module = DynamicInferenceModule(net)
    module.sampling = "cheap"
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    net.eval()  # the module has begun to train it
    recognizer = Recognizer.load(tmp_path / "net.ckpt", device="cpu", optimize="none")
    again = DynamicInferenceModule.load_from_checkpoint(tmp_path / "net.ckpt")
    assert recognizer.preparation.sampling == again.sampling == "cheap"
    reader = VideoReader(clips[3])
    indices = cheap_indices(reader.decode_costs, net.num_frames)
    assert indices.tolist() != segment_indices(len(reader), net.num_frames).tolist()
    video = eval_transform(net.input_size)(reader.read(indices, decode_size(net.input_size)))
    with torch.no_grad():
        expected = net(video[None])[-1].softmax(-1).amax()
    for found in (recognizer(clips[3]).probability, classify_video(again, clips[3])["probability"]):
        assert found == pytest.approx(float(expected), abs=1e-5)


def test_frames_of_a_video_that_was_decoded_whole_are_let_go(net, tmp_path, write_noise):
    path = write_noise(tmp_path / "old.mpg", 0, frames=40, codec="mpeg2video", most=40)
    clip = Recognizer(net).preparation.open(path)
    reader = clip._clip._reader
    assert 0 < len(reader._access._kept) <= net.num_frames
    whole = VideoReader(path)
    for i in (0, 39):  # those that were let go are decoded again
        assert torch.equal(reader.read([i]), whole.read([i]))


def test_real_clips(real_data, scramble_net):
    net = scramble_net(UnifiedExitNet, input_size=32)
    recognizer = Recognizer(net, ThresholdPolicy(thresholds=[0.4, 0.4, 0.4, 0.0]))
    paths = [
        min(Path(real_data, "clips", name).rglob("*.*")) for name in ("hmdb51", "kinetics", "somethingv2", "ucf101")
    ]
    for path, found in zip(paths, recognizer.many(paths, 4, 2), strict=True):
        alone = recognizer(path)
        assert (found.label, found.exit) == (alone.label, alone.exit)


def test_an_audit_says_how_often_full_inference_would_have_said_something_else(net, clips, expected, policy):
    recognizer, plain = Recognizer(net, policy, NAMES, audit=1.0), Recognizer(net, policy, NAMES)
    taken, labels = policy.choose(expected.log()), expected.argmax(-1)
    differing = sum(int(labels[k, i] != labels[-1, i]) for i, k in enumerate(taken.tolist()))
    for path in clips:
        assert recognizer(path).label == plain(path).label
        assert recognizer(path, deadline_ms=1e9).exit == plain(path).exit  # limited, so not audited
    assert (recognizer.audit.videos, recognizer.audit.audited) == (len(clips), len(clips))
    assert recognizer.audit.differing == differing
    list(recognizer.many(clips))
    assert (recognizer.audit.audited, recognizer.audit.differing) == (2 * len(clips), 2 * differing)
    assert plain.audit is None


def test_answers_below_the_threshold_are_withheld_to_the_bit(net, clips, policy):
    plain = Recognizer(net, policy, NAMES)
    found = [plain(clip) for clip in clips]
    assert all(each.answered for each in found)
    assert all(each.answered for each in map(Recognizer(net, policy, NAMES, reject=Reject(0.05)), clips))  # none found
    middle = sorted(each.probability for each in found)[3]
    careful = Recognizer(net, policy, NAMES, reject=Reject(0.05, threshold=middle))
    for each, one, of_many in zip(found, map(careful, clips), careful.many(clips, 1), strict=True):
        assert one.answered == of_many.answered == (each.probability >= middle)
        assert (one.label, one.probability, one.exit) == (each.label, each.probability, each.exit)
    assert 0 < sum(careful(clip).answered for clip in clips) < len(clips)


@pytest.mark.parametrize("threshold", [0.5, None])
def test_int8_graphs_say_that_they_withhold_nothing_where_the_model_does(net, policy, tmp_path, monkeypatch, threshold):
    Recognizer(net, policy, NAMES, reject=Reject(0.05, threshold=threshold)).save(tmp_path / "model")
    known = Int8([0.9, 0.9, 0.9, 0.0], OperatingPoint("budget", 1.0), 6, [1.0] * 4, 0.1)
    recipe = Recipe("default", "int8", torch.device("cpu"), 0, "openvino")
    monkeypatch.setattr("dynvid.inference.recognizer.load_program", lambda *given: (net, recipe, known))
    int8 = Recognizer.load(tmp_path / "model", runtime="openvino", precision="int8")
    said = "answers are not withheld: the int8 graphs have no reject threshold"
    assert int8.notes() == ([said] if threshold else [])
    int8.reject = Reject(0.05, threshold=0.9)  # one of their own, given by hand
    assert int8.notes() == []


def test_a_background_that_is_no_class_is_refused(net):
    assert Recognizer(net, class_names=NAMES, background="c").background == "c"
    with pytest.raises(InputError, match="not the name of a class"):
        Recognizer(net, class_names=NAMES, background="nothing")
