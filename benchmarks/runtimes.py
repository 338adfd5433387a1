"""The exported program: how fast other runtimes are, how equal their answers, and what int8 costs in accuracy.

    OMP_NUM_THREADS=1 python benchmarks/runtimes.py --backbones mobilenetv2_100 resnet50
    OMP_NUM_THREADS=1 python benchmarks/runtimes.py --trained NAME MODEL CALIBRATION TEST

Speed: one clip of 16 frames, 224 pixels, uint8, along the whole unified route (no exit is taken), in one thread;
random weights. `stock` is timm's model run on the frames in eager float32, its logits averaged (plain TSN, no shift).
Process CPU time, rounds interleaved; each figure is the median over rounds of how many times faster than `stock` a row
was in the same round, with lowest and highest. bfloat16 is measured where the processor has it.

Answers: MODEL, a checkpoint or folder, classifies the videos of TEST (a folder with one folder per class, or a file
that lists videos beside it, as UCF-101's are) by torch, ONNX Runtime and OpenVINO in float32, and in int8 quantised,
and its thresholds found again, by the videos of CALIBRATION, unseen in training: a third quantises, the others
calibrate.
Writes benchmarks/results/runtimes.json, part by part, and from it runtimes.md.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
FRAMES, SIZE, CLASSES = 16, 224, 400
RISK = 0.05


def measure(backbone: str, rounds: int) -> dict[str, Any]:
    """Ratios by row."""
    import timm
    import torch

    from dynvid import UnifiedExitNet
    from dynvid.inference import Recognizer
    from dynvid.inference.export import openvino_models
    from dynvid.inference.forced import unzeroed
    from dynvid.inference.quantised import Quantised
    from dynvid.inference.recipe import has_bf16, prepare
    from dynvid.inference.runtimes import Program, load_program

    torch.manual_seed(0)
    net = unzeroed(UnifiedExitNet(backbone, CLASSES, FRAMES).eval())
    stock = unzeroed(timm.create_model(backbone, num_classes=CLASSES).eval())
    video = torch.randint(0, 256, (1, FRAMES, 3, SIZE, SIZE), dtype=torch.uint8)
    plain, _ = prepare(net, "none", "float32", "cpu")
    jobs: dict[str, Callable[[], object]] = {"stock": lambda: stock(plain.to_frames(video)).mean(0)}

    def walk(program: Any) -> Any:
        stream = program.stream(video)
        while not stream.finished:
            logits = stream.advance()
        return logits

    nets: dict[str, Any] = {"torch, default recipe, float32": prepare(net, "default", "float32", "cpu")[0]}
    bf16 = has_bf16(torch.device("cpu"))
    if bf16:
        nets["torch, default recipe, bfloat16"] = prepare(net, "default", "bfloat16", "cpu")[0]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model")
        Recognizer(net).save(model, runtimes=["onnx", "openvino"])
        for runtime in ("onnx", "openvino"):
            nets[f"{runtime}, float32"] = load_program(model, net, runtime, "float32", "default", "cpu")[0]
        with suppress(ValueError):  # not on every processor
            nets["openvino, bfloat16"] = load_program(model, net, "openvino", "bfloat16", "default", "cpu")[0]
        nets["openvino, int8"] = Quantised(net, openvino_models(net), [video]).program
        assert isinstance(nets["openvino, int8"], Program)
        jobs |= {row: lambda program=program: walk(program) for row, program in nets.items()}
        with torch.inference_mode():
            for job in jobs.values():
                job()
            times: dict[str, list[float]] = {row: [] for row in jobs}
            for _ in range(rounds):
                for row, job in jobs.items():
                    begun = time.process_time()
                    job()
                    times[row].append(time.process_time() - begun)
    found = {}
    for row, mine in times.items():
        ratios = [base / own for base, own in zip(times["stock"], mine, strict=True)]
        found[row] = [median(ratios), min(ratios), max(ratios)]
    return found


def videos_of(place: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    """Videos and their labels: of a folder of folders by class, or of a list with the root two folders up."""
    if place.is_dir():
        return [(path, names.index(path.parent.name)) for path in sorted(place.glob("*/*"))]
    words = [line.split()[0] for line in place.read_text().splitlines() if line.strip()]
    root = place.parents[1]
    return [(root / word, names.index(word.split("/")[0])) for word in words if (root / word).exists()]


def compare(model: str, calibration: Path, test: Path) -> dict[str, Any]:
    """Answers of the runtimes to the same clips."""
    import torch

    from dynvid.calibration import Target, kept_apart
    from dynvid.checkpoint import net_from_checkpoint, policy_from_checkpoint, read_checkpoint
    from dynvid.inference import Preparation, Recognizer
    from dynvid.inference.export import openvino_models
    from dynvid.inference.quantised import QUANTISING, Quantised, answers, calibrate
    from dynvid.inference.runtimes import load_program
    from dynvid.policy import ThresholdPolicy

    checkpoint = read_checkpoint(model)
    net, policy = net_from_checkpoint(checkpoint, model).eval(), policy_from_checkpoint(checkpoint)
    names = checkpoint["dynvid"]["class_names"]
    preparation = Preparation(net.num_frames, net.input_size, checkpoint["dynvid"].get("sampling", "center"))

    def clips(listed: Sequence[tuple[Path, int]]) -> list[torch.Tensor]:
        parts = [listed[k : k + 8] for k in range(0, len(listed), 8)]
        read = range(net.num_frames)
        return [torch.stack([preparation.open(path).read(read) for path, _ in part]) for part in parts]

    listed = videos_of(calibration, names)
    # The recording of a clip of UCF-101 is in its name; others stand for themselves.
    recordings = [str(path).partition("_c0")[0] for path, _ in listed]
    apart = kept_apart(recordings).tolist()
    quantising = [video for video, is_apart in zip(listed, apart, strict=True) if not is_apart]
    quantising = quantising[:: -(-len(quantising) // QUANTISING)]
    calibrating = [video for video, is_apart in zip(listed, apart, strict=True) if is_apart]
    models = openvino_models(net)
    quantised = Quantised(net, models, clips(quantising)).program
    tested = videos_of(test, names)
    batches, labels = clips(tested), torch.tensor([label for _, label in tested])
    found: dict[str, Any] = {"exits": [list(cell) for cell in net.route], "videos": len(tested), "gmacs": net.gmacs}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        nets: dict[str, Any] = {"torch": net, "int8": quantised}
        place = Path(folder, "model")
        Recognizer(net).save(place, runtimes=["onnx", "openvino"])
        for runtime in ("onnx", "openvino"):
            nets[runtime] = load_program(place, net, runtime, "float32", "default", "cpu")[0]
        logits = {row: torch.cat([answers(taker, batch) for batch in batches], 1) for row, taker in nets.items()}
        held = clips(calibrating)
        inside = [torch.cat([answers(nets[row], batch) for batch in held], 1) for row in ("int8", "torch")]
    for row in ("onnx", "openvino"):
        mine, reference = logits[row], logits["torch"]
        found[row] = {
            "largest_difference": float((mine - reference).abs().max()),
            "labels": float((mine.argmax(-1) == reference.argmax(-1)).double().mean()),
            "exits": float((policy.choose(mine) == policy.choose(reference)).double().mean()),
        }
    right = {row: (logits[row].argmax(-1) == labels).double().mean(1).tolist() for row in ("torch", "int8")}
    difference = (logits["int8"] - logits["torch"]).abs()
    kept = [recordings[k] for k, is_apart in enumerate(apart) if is_apart]
    point = calibrate(*inside, net, policy, Target(max_disagreement=RISK), kept, kept, "val")
    again = ThresholdPolicy(thresholds=point.thresholds, score=policy.score_name, temperatures=policy.temperatures)
    found["int8"] = {
        "quantised_by": len(quantising),
        "calibrated_by": len(kept),
        "accuracy": right,
        "same_label": (logits["int8"].argmax(-1) == logits["torch"].argmax(-1)).double().mean(1).tolist(),
        "largest_difference": difference.amax((1, 2)).tolist(),
        "mean_difference": difference.mean((1, 2)).tolist(),
        "old_thresholds": operated(logits["int8"], labels, policy, net),
        "float32": operated(logits["torch"], labels, policy, net),
        "new_thresholds": operated(logits["int8"], labels, again, net),
        "promise": str(point.point),
    }
    return found


def operated(logits: Any, labels: Any, policy: Any, net: Any) -> dict[str, float]:
    """Top-1, share of GMACs saved, and share of labels other than full inference's, where exits are taken."""
    import torch

    taken = policy.choose(logits)
    label = logits.argmax(-1).gather(0, taken[None])[0]
    return {
        "accuracy": float((label == labels).double().mean()),
        "saved": 1 - float(torch.tensor(net.gmacs, dtype=torch.float64)[taken].mean()) / net.full_gmacs,
        "disagreement": float((label != logits[-1].argmax(-1)).double().mean()),
    }


def write(found: dict[str, Any]) -> None:
    RESULTS.joinpath("runtimes.json").write_text(json.dumps(found, indent=1) + "\n")
    about = found["about"]
    lines = [
        f"{about['date']}, {about['processor']}; torch {about['torch']}, ONNX Runtime {about['onnxruntime']}, "
        f"OpenVINO {about['openvino']}, NNCF {about['nncf']}.",
    ]
    for backbone, part in found.get("speed", {}).items():
        lines += ["", f"## Speed, {backbone}", ""]
        lines += [
            f"One clip of {FRAMES} frames, {SIZE} pixels, unified route walked to its end, one thread, process CPU"
        ]
        lines += [f"time, {part['rounds']} interleaved rounds: median, lowest and highest ratio within a round.", ""]
        lines += ["| program | times faster than stock eager |", "|---|---|"]
        lines += [f"| {row} | {m:.2f} ({a:.2f} to {b:.2f}) |" for row, (m, a, b) in part["ratios"].items()]
    for name, part in found.get("answers", {}).items():
        lines += ["", f"## Answers, {name}, {part['videos']} test videos", ""]
        lines += ["| float32, against torch | labels equal, all exits | exits equal | largest difference of logits |"]
        lines += ["|---|--:|--:|--:|"]
        for row in ("onnx", "openvino"):
            x = part[row]
            equal = f"{100 * x['labels']:.2f} % | {100 * x['exits']:.2f} %"
            lines += [f"| {row} | {equal} | {x['largest_difference']:.1e} |"]
        x = part["int8"]
        lines += ["", f"int8, quantised by {x['quantised_by']} clips:", ""]
        lines += ["| exit | top-1, float32 | top-1, int8 | same label | mean difference of logits | largest |"]
        lines += ["|---|--:|--:|--:|--:|--:|"]
        rows = (x["accuracy"]["torch"], x["accuracy"]["int8"], x["same_label"], x["mean_difference"])
        for (frames, depth), a, b, same, mean, most in zip(part["exits"], *rows, x["largest_difference"], strict=True):
            cells = f"{100 * a:.1f} % | {100 * b:.1f} % | {100 * same:.1f} % | {mean:.3f} | {most:.2f}"
            lines += [f"| {frames}x{depth} | {cells} |"]
        lines += ["", "| dynamic inference | top-1 | GMACs saved | other than its own full inference |"]
        lines += ["|---|--:|--:|--:|"]
        said = {
            "float32": "float32, its thresholds",
            "old_thresholds": "int8, float32's thresholds",
            "new_thresholds": f"int8, thresholds found again (at most {100 * RISK:g} %)",
        }
        for row, words in said.items():
            y = x[row]
            cells = f"{100 * y['accuracy']:.1f} % | {100 * y['saved']:.1f} % | {100 * y['disagreement']:.1f} %"
            lines += [f"| {words} | {cells} |"]
        lines += ["", f"Of int8, by {x['calibrated_by']} videos: {x['promise']}."]
    RESULTS.joinpath("runtimes.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    import nncf
    import onnxruntime
    import openvino
    import torch

    from dynvid.profile import processor_name

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--trained", nargs=4, metavar=("NAME", "MODEL", "CALIBRATION", "TEST"))
    arguments = parser.parse_args()
    path = RESULTS / "runtimes.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"speed": {}, "answers": {}}
    found["about"] = {
        "date": date.today().isoformat(),
        "processor": processor_name(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__.partition("-")[0],
        "nncf": nncf.__version__,
    }
    for backbone in arguments.backbones:
        found["speed"][backbone] = {"rounds": arguments.rounds, "ratios": measure(backbone, arguments.rounds)}
        write(found)
    if arguments.trained:
        name, model, calibration, test = arguments.trained
        found["answers"][name] = compare(model, Path(calibration), Path(test))
        write(found)


if __name__ == "__main__":
    main()
