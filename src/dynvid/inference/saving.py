"""A model written as a folder, from a checkpoint, another folder, or a net in hand."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from dynvid.calibration import OperatingPoint, Reject, num_candidates
from dynvid.checkpoint import fingerprint, net_from_checkpoint, read_checkpoint
from dynvid.data.sampling import Sampling
from dynvid.errors import InputError, MissingFileError
from dynvid.folder import Card, Int8, check_graphs, model_card, read_int8, write_files
from dynvid.folder.files import CONFIG, WEIGHTS
from dynvid.inference.export import GraphRuntime, export_graphs, graph_name
from dynvid.nets import ExitNet
from dynvid.policy import ThresholdPolicy
from dynvid.whole import check_new_folder, whole_folder

GRAPHS = ("onnx", "openvino", "int8")  # the folders that hold them


class Int8Graphs(NamedTuple):
    """Graphs in int8, still to be written.

    Attributes:
        said: What is known of them.
        write: Writes them into a folder.
    """

    said: Int8
    write: Callable[[Path], None]


def save_model(
    folder: str | Path,
    checkpoint: Mapping[str, Any],
    source: str | Path,
    runtimes: Sequence[GraphRuntime] = (),
    report: Mapping[str, Any] | None = None,
    int8: Int8Graphs | None = None,
    graphs_of: Path | None = None,
) -> None:
    """Write a model's folder, whole or not at all; nothing is replaced.

    Args:
        folder: Where; it must not be there, or be empty.
        checkpoint: As `read_checkpoint` gives it.
        source: What errors call it.
        runtimes: Whose graphs are made; `onnx` serves both.
        report: What `report.json` of a test says, for the card.
        int8: Graphs in int8.
        graphs_of: A folder whose graphs are taken along.

    Raises:
        FileNotFoundError: A graph that is to be taken along is missing.
        ValueError: There is a folder that holds something, it cannot be written, parts of the checkpoint do not fit
            together, the net cannot be exported, or a graph that is to be taken along is of other weights or a link to
            elsewhere.
    """
    check_new_folder(folder)
    net = net_from_checkpoint(checkpoint, source).eval()
    made = {*runtimes, *(["int8"] if int8 else [])}
    kept = [name for name in GRAPHS if graphs_of and name not in made and (graphs_of / name).is_dir()]
    graphs = _files(graphs_of, kept, len(net.route)) if graphs_of else []
    weights = fingerprint(checkpoint["state_dict"]) if made or kept else None
    if graphs_of and weights and kept:
        check_graphs(graphs_of, weights)
    said = int8.said if int8 else None
    if graphs_of and "int8" in kept:
        said = read_int8(graphs_of, len(net.route))
    card = model_card(checkpoint, net, Card(report, [*kept, *runtimes], said))
    with whole_folder(folder) as inside:
        write_files(inside, checkpoint, net, card, said, weights)
        for name in kept:
            (inside / name).mkdir()
        for graph in graphs:
            shutil.copyfile(graph, inside / graph.parent.name / graph.name)
        for runtime in runtimes:
            export_graphs(net, inside / runtime, runtime)
        if int8:
            (inside / "int8").mkdir()
            int8.write(inside / "int8")


def _files(folder: Path, names: Sequence[str], exits: int) -> list[Path]:
    """The files of a folder's graphs, as they are written; a stranger's folder must not make others of it.

    Raises:
        FileNotFoundError: One is missing.
        ValueError: One is a link to elsewhere, which would be handed on as a graph.
    """
    files = []
    for name in names:
        for k in range(exits):
            graph = folder / name / graph_name("onnx" if name == "onnx" else "openvino", k)
            files += [graph] if name == "onnx" else [graph, graph.with_suffix(".bin")]
    real = folder.resolve()
    places = [real]
    if real.parent.name == "snapshots" and real.parents[1].name.startswith("models--"):
        places.append(real.parents[1] / "blobs")  # which the hub's cache links to
    for file in files:
        if not file.is_file():
            raise MissingFileError(f"{file}: no such file; the graphs are not whole, `dynvid export` makes new ones")
        if not any(file.resolve().is_relative_to(place) for place in places):
            raise InputError(f"{file}: is a link to outside of the folder, which is not copied; put the file there")
    return files


class Given(NamedTuple):
    """What its user may change of a recognizer, by the names of a checkpoint.

    Attributes:
        thresholds: Of the policy, as are the score and temperatures.
        score: Its name.
        temperatures: One per exit.
        sampling: Of the preparation.
        class_names: Names of the classes.
        point: What the thresholds were asked to do.
        multi_label: Whether labels are sets.
        reject: Which answers are withheld.
        background: The class of videos that show none of the others.
    """

    thresholds: list[float]
    score: str
    temperatures: list[float]
    sampling: Sampling
    class_names: list[str] | None
    point: OperatingPoint | None
    multi_label: bool
    reject: Reject | None
    background: str | None

    @classmethod
    def of(
        cls,
        policy: ThresholdPolicy,
        class_names: Sequence[str] | None,
        point: OperatingPoint | None,
        sampling: Sampling,
        reject: Reject | None,
        background: str | None,
    ) -> Self:
        """As it is now."""
        names = None if class_names is None else list(class_names)
        temperatures = [float(x) for x in policy.temperatures]
        thresholds, score = policy.thresholds.tolist(), policy.score_name
        sets = policy.multi_label
        return cls(thresholds, score, temperatures, sampling, names, point, sets, reject, background)


class Loaded(NamedTuple):
    """What a model was loaded from, to be read again: nets made fast no longer have its weights.

    Attributes:
        place: The file or folder.
        stamp: Sizes and times of its files.
        given: As it was loaded.
        int8: Whether thresholds and promise are those of the int8 graphs.
    """

    place: Path
    stamp: tuple[tuple[int, int], ...]
    given: Given
    int8: bool

    @classmethod
    def at(cls, place: Path, given: Given, int8: bool) -> Self:
        """As it lies there now."""
        return cls(place, _stamp(place), given, int8)

    def save(self, folder: str | Path, now: Given, runtimes: Sequence[GraphRuntime] = ()) -> None:
        """Write it as a folder, with what was changed since; a promise does not outlive what it was made for.

        Raises:
            ValueError: See `save_model`; or there is something else by now at the place, or what was changed does not
                hold for its int8 graphs.
        """
        check_new_folder(folder)
        if _stamp(self.place) != self.stamp:
            raise InputError(f"{self.place}: is not what was loaded any more; load it again")
        checkpoint, before = read_checkpoint(self.place), self.given._asdict()
        saved, state = checkpoint["dynvid"], checkpoint["state_dict"]
        changed = {name: value for name, value in now._asdict().items() if value != before[name]}
        answers = changed.keys() - {"class_names", "point", "reject", "background"}  # what labels and exits depend on
        other_scores = answers - {"thresholds"}
        of_int8 = changed.keys() - {"class_names", "background"} if self.int8 else other_scores
        if of_int8 and (self.place / "int8").is_dir():
            raise InputError(
                f"{self.place}: {', '.join(sorted(of_int8))} changed by hand: its int8 graphs have thresholds of their "
                "own, which `dynvid export MODEL NEW_FOLDER --int8 VIDEOS` finds"
            )
        saved |= {name: changed[name] for name in changed.keys() - {"thresholds", "point", "reject"}}
        if "thresholds" in changed:
            state["policy.thresholds"], saved["calibrated"] = torch.tensor(now.thresholds), True
        if other_scores:
            state["curve_thresholds"] = torch.full_like(state["curve_thresholds"], torch.inf)
        point = now.point
        if "point" not in changed and ("thresholds" in changed or (answers and point is not None)):
            point = OperatingPoint("thresholds", full_inference=all(x == torch.inf for x in now.thresholds[:-1]))
        reject = now.reject if "reject" in changed or not answers else None
        if not self.int8:
            saved["reject"] = None if reject is None else reject.plain()
            saved["operating_point"] = None if point is None else point.plain()
        graphs_of = self.place if self.place.is_dir() else None
        save_model(folder, checkpoint, self.place, runtimes, graphs_of=graphs_of)


def _stamp(place: Path) -> tuple[tuple[int, int], ...]:
    files = [place / name for name in (WEIGHTS, CONFIG)] if place.is_dir() else [place]
    return tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file())


def as_checkpoint(
    net: ExitNet,
    policy: ThresholdPolicy,
    class_names: Sequence[str] | None = None,
    point: OperatingPoint | None = None,
    calibrated: bool = True,
    sampling: Sampling = "center",
    reject: Reject | None = None,
    background: str | None = None,
) -> dict[str, Any]:
    """What a checkpoint of a net in hand would hold, less what only training knows.

    Raises:
        ValueError: The net cannot describe itself, or was changed by `prepare`.
    """
    exits = len(net.route)
    state = {f"net.{name}": value.detach().cpu() for name, value in net.state_dict().items()}
    state["policy.thresholds"] = policy.thresholds.cpu()
    state["curve_thresholds"] = torch.full((num_candidates(exits), exits), torch.inf)
    saved = {
        "net": net.spec(),
        "score": policy.score_name,
        "class_names": None if class_names is None else list(class_names),
        "multi_label": policy.multi_label,
        "calibrated": calibrated,
        "temperatures": list(policy.temperatures),
        "operating_point": None if point is None else point.plain(),
        "chosen_by": None,
        "listing": None,
        "sampling": sampling,
        "gmacs": [*net.gmacs, net.full_gmacs],
        "profiles": [],
        "reject": None if reject is None else reject.plain(),
        "background": background,
    }
    checkpoint = {"dynvid": saved, "state_dict": state}
    try:
        net_from_checkpoint(checkpoint, "this net")
    except InputError as error:
        raise InputError(f"{error}: save the net that it was made of, as it was before `prepare`") from error
    return checkpoint
