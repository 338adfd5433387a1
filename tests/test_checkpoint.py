"""Checkpoints as strangers may write them: each is loaded, or refused in one line that names the file."""

import copy
import random
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from dynvid import ExitNet, UnifiedExitNet
from dynvid.calibration import Reject
from dynvid.checkpoint import net_from_checkpoint
from dynvid.errors import DynvidError
from dynvid.module import DynamicInferenceModule, read_checkpoint

HUGE = 10**9
WEIGHT = "net.heads.4.1.weight"


@pytest.fixture(scope="module")
def content():
    """A whole checkpoint, as the module writes it."""
    torch.manual_seed(0)
    module = DynamicInferenceModule(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32))
    module.class_names = list("abcde")
    content = {"epoch": 3, "state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    return content


@pytest.fixture
def mine(content):
    """A copy, to be changed."""
    return copy.deepcopy(content)


def load(path):
    return DynamicInferenceModule.load_from_checkpoint(path)


def refused(path):
    """The one line of the error."""
    with pytest.raises(DynvidError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return message.removeprefix(f"{path}: ")


def test_a_whole_checkpoint_gives_the_net_without_lightning(content, tmp_path):
    torch.save(content, tmp_path / "whole.ckpt")
    net = net_from_checkpoint(read_checkpoint(tmp_path / "whole.ckpt"), tmp_path / "whole.ckpt")
    assert type(net) is UnifiedExitNet
    for name, value in net.state_dict().items():
        assert torch.equal(value, content["state_dict"][f"net.{name}"])
    assert load(tmp_path / "whole.ckpt").class_names == list("abcde")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("num_classes", HUGE, "num_classes=1000000000: give a whole number from 1"),
        ("num_classes", 0, "num_classes=0: give"),
        ("num_classes", True, "num_classes=True: give"),
        ("num_classes", "5", "num_classes='5': give"),
        ("num_classes", 10**300, "init_args.num_classes: a number"),
        ("num_classes", 900_000, r"2 of another shape: heads\.|6 of another shape: heads\."),
        ("num_frames", HUGE, "num_frames=1000000000: give"),
        ("num_frames", 4.0, "num_frames=4.0: give"),
        ("num_frames", 8, "the route ends at"),
        ("input_size", HUGE, "input_size=1000000000: give"),
        ("input_size", -32, "input_size=-32: give"),
        ("shift_div", 0, "shift_div=0: give"),
        ("shift_div", None, "shift_div=None: give"),
        ("dropout", 1.5, "dropout=1.5: give a number from 0 to 1"),
        ("dropout", float("nan"), "init_args.dropout: a number that is not finite"),
        ("dropout", "half", "dropout='half': give"),
        ("shift", "sideways", "unknown shift 'sideways'"),
        ("shift", ["online"], "unknown shift"),
        ("frame_order", "random", "unknown frame order 'random'"),
        ("frame_order", 3, "unknown frame order 3"),
        ("heads", "many", "heads='many': use"),
        ("route", [[1, 2], [4]], "route=.*: give pairs of whole numbers"),
        ("route", [[1, 2], [True, 4]], "route=.*: give pairs"),
        ("route", "unified", "route='unified': give pairs"),
        ("route", [[1, 2]] * 6000, "more than 10000 values"),
        ("route", [[4, 4]], r"\d+ unknown: heads\.2"),
        ("backbone", "resnet51", "no model 'resnet51'"),
        ("backbone", "a\nb", r"no model 'a\\nb'"),
        ("backbone", None, "backbone must be a name"),
        ("backbone", "resnet18", r"\d+ missing: .* unknown: "),
        ("backbone", "test_convnext", r"\d+ missing: .* unknown: "),
        ("backbone_args", [1], "backbone_args arguments by name"),
        ("backbone_args", {"layers": [HUGE]}, "backbone_args.layers: 1000000000 is more than"),
        ("backbone_args", {"no_such": 1}, "test_resnet takes no such backbone_args .*no_such"),
        ("backbone_args", {"base_width": "wide\nwide"}, "test_resnet takes no such backbone_args"),
        ("backbone_args", {"act_layer": torch.zeros(1)}, "init_args.backbone_args.act_layer must be plain data"),
        ("backbone_args", {1: 2}, "init_args.backbone_args: its keys must be short text"),
        ("colour", "red", "UnifiedExitNet has no argument 'colour'"),
        ("self", 1, "UnifiedExitNet has no argument 'self'"),
    ],
)
def test_arguments_out_of_range_are_named(mine, tmp_path, key, value, reason):
    mine["dynvid"]["net"]["init_args"][key] = value
    torch.save(mine, tmp_path / "odd.ckpt")
    message = refused(tmp_path / "odd.ckpt")
    assert re.search(reason, message), message


@pytest.mark.parametrize(
    ("frames", "size", "allowed"),
    [
        *[(16, 224, True), (64, 512, True), (128, 1024, True), (4096, 256, True)],
        *[(4096, 8192, False), (4096, 257, False), (5, 8192, False)],
    ],
)
def test_frames_and_their_size_are_bounded_together(mine, tmp_path, frames, size, allowed):
    """`classify` makes a clip of both; the largest of each would take 1.4 TB."""
    mine["dynvid"]["net"]["init_args"] |= {"num_frames": frames, "input_size": size, "route": [[1, 2], [frames, 4]]}
    torch.save(mine, tmp_path / "large.ckpt")
    said = f"num_frames={frames} of input_size={size}: more than 268435456 pixels in one clip"
    assert (said in refused(tmp_path / "large.ckpt")) != allowed  # the weights are of another route


def change(path, value):
    """A change of the entry at `path`."""

    def changed(content):
        *folders, last = path
        for folder in folders:
            content = content[folder]
        content[last] = value(content[last]) if callable(value) else value

    return changed


def endless():
    inner = []
    inner.append(inner)
    return inner


def with_value(value):
    def changed(weight):
        weight = weight.clone()
        weight.view(-1)[3] = value
        return weight

    return changed


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (change(["dynvid"], 5), "'dynvid' entry lacks class_names, net, score"),
        (change(["dynvid", "net"], [1]), r"net is \[1\], not a class_path"),
        (change(["dynvid", "net", "init_args"], None), "net is .*, not a class_path"),
        (change(["dynvid", "net", "init_args", "backbone_args"], endless()), "lists in lists"),
        (change(["dynvid", "net", "class_path"], 7), "class_path must be text"),
        (change(["dynvid", "net", "class_path"], "os.system"), r"os\.system is not an imported subclass"),
        (change(["dynvid", "net", "class_path"], "os\nsystem"), r"os\\nsystem is not an imported subclass"),
        (change(["dynvid", "score"], "guess"), "score is 'guess': use"),
        (change(["dynvid", "score"], ["margin"]), r"score is \['margin'\]: use"),
        (change(["dynvid", "multi_label"], "yes"), "multi_label is 'yes', not true or false"),
        (change(["dynvid", "freeze_backbone"], 1), "freeze_backbone is 1, not true or false"),
        (change(["dynvid", "chosen_by"], ["these"]), r"chosen_by is \['these'\]: use nothing, others, these"),
        (change(["dynvid", "listing"], 5), "listing is 5, not a name"),
        (change(["dynvid", "temperatures"], "hot"), "temperatures are 'hot', not a list of numbers above 0"),
        (change(["dynvid", "temperatures"], [0.0] * 4), "not a list of numbers above 0"),
        (change(["dynvid", "temperatures"], [1.0]), "1 temperatures for . exits"),
        (change(["dynvid", "operating_point"], {"rule": "budget"}), "operating_point has other parts"),
        (change(["dynvid", "class_names"], ["a"]), "class_names has 1 names, the net 5 classes"),
        (change(["dynvid", "class_names"], list("abcdef")), "class_names has 6 names, the net 5 classes"),
        (change(["dynvid", "class_names"], [1, 2, 3, 4, 5]), "not a list of names"),
        (change(["dynvid", "class_names"], "abcde"), "not a list of names"),
        (change(["state_dict"], 3), "holds int where weights by name should be"),
        (change(["state_dict"], [torch.zeros(1)]), "holds list where weights"),
        (change(["state_dict", 7], torch.zeros(1)), "weight 7: its name is no text"),
        (change(["state_dict", "net.new\nline"], torch.zeros(1)), r"1 unknown: new\\nline$"),
        (change(["state_dict", "loss.weight"], torch.zeros(1)), r"not of this module: 1 unknown: loss\.weight$"),
        (change(["state_dict", WEIGHT], None), "is of type NoneType, not a tensor"),
        (change(["state_dict", WEIGHT], lambda w: w[:, :3]), r"1 of another shape: heads\.4\.1\.weight$"),
        (change(["state_dict", WEIGHT], lambda w: w.int()), r"1 of another type: heads\.4\.1\.weight$"),
        (change(["state_dict", WEIGHT], lambda w: w.bool()), "1 of another type"),
        (change(["state_dict", WEIGHT], lambda w: w + 0j), r"is of type torch\.complex64"),
        (change(["state_dict", WEIGHT], lambda w: w.to(torch.float8_e4m3fn)), r"is of type torch\.float8"),
        (change(["state_dict", WEIGHT], lambda w: w.to_sparse()), "is no dense tensor with values"),
        (change(["state_dict", WEIGHT], lambda w: w.to("meta")), "is no dense tensor with values"),
        (change(["state_dict", WEIGHT], lambda w: w[:1, :1].clone().expand(w.shape)), "repeats fewer values"),
        (change(["state_dict", WEIGHT], torch.zeros(1).expand(10**12)), "repeats fewer values"),
        (change(["state_dict", WEIGHT], with_value(torch.nan)), "holds values that are not finite"),
        (change(["state_dict", WEIGHT], with_value(-torch.inf)), "holds values that are not finite"),
        (change(["state_dict", "net.std"], lambda std: std / 0), "not finite"),
        (change(["state_dict", "policy.thresholds"], with_value(torch.nan)), "policy.thresholds: holds values"),
        (change(["state_dict", "policy.thresholds"], torch.zeros(3)), r"policy.thresholds must be float \(4,\)"),
        (change(["state_dict", "policy.thresholds"], torch.zeros(4, dtype=torch.long)), "must be float"),
        (change(["state_dict", "curve_thresholds"], torch.zeros(4)), r"curve_thresholds must be float \(280, 4\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_contents_of_another_kind_are_named(mine, tmp_path, changed, reason):
    changed(mine)
    torch.save(mine, tmp_path / "odd.ckpt")
    message = refused(tmp_path / "odd.ckpt")
    assert re.search(reason, message), message


@pytest.mark.parametrize("whole", [[], torch.zeros(1), 5, "text", {"weights": 1}])
def test_files_of_something_else(tmp_path, whole):
    torch.save(whole, tmp_path / "odd.ckpt")
    assert refused(tmp_path / "odd.ckpt") == "holds no Lightning checkpoint"


def test_a_compressed_file_is_not_unfolded(content, tmp_path):
    """A file that torch would read, and that would take a thousand times its size."""
    torch.save({"state_dict": {"x": torch.zeros(10**6)}}, tmp_path / "plain.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "plain.ckpt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for part in plain.infolist():
            bomb.writestr(part.filename, plain.read(part))
    assert (tmp_path / "bomb.ckpt").stat().st_size < 10**4
    assert torch.load(tmp_path / "bomb.ckpt", weights_only=True)["state_dict"]["x"].numel() == 10**6
    assert "compressed" in refused(tmp_path / "bomb.ckpt")


def test_one_flipped_bit_in_a_weight_is_found(content, tmp_path):
    """Torch does not look at the checksums."""
    path = tmp_path / "flipped.ckpt"
    torch.save(content, path)
    whole = bytearray(path.read_bytes())
    begin = whole.index(content["state_dict"][WEIGHT].numpy().tobytes())
    whole[begin + 40] ^= 1
    path.write_bytes(whole)
    assert torch.load(path, weights_only=True).keys() == content.keys()
    assert "a part is damaged" in refused(path)


def test_files_of_torch_before_its_zip_format_are_read(content, tmp_path):
    path = tmp_path / "old.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert load(path).net.num_classes == 5
    path.write_bytes(path.read_bytes()[:-50_000])
    assert "is truncated" in refused(path)


# A small state dict, and descriptions of nets that would take gigabytes or minutes to build.
HOSTILE = """
import resource, sys, time, torch
from dynvid.checkpoint import net_from_checkpoint, read_checkpoint
from dynvid.errors import DynvidError
from dynvid import UnifiedExitNet
net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32)
torch.save({f"net.{k}": v for k, v in net.state_dict().items()}, sys.argv[1])
UnifiedExitNet("deit_tiny_patch16_224", backbone_args={"img_size": 32, "depth": 4})  # what is imported on the way
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 300 * 2**20,) * 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shared = {k: v if v.dim() < 4 else v.flatten()[:1].expand(2**28) for k, v in net.state_dict().items()}
for change in (
    {"num_classes": 10**9}, {"num_classes": 10**6}, {"heads": "exit", "num_frames": 4096},
    {"backbone": "vit_giant_patch14_224"}, {"backbone": "eva02_enormous_patch14_clip_224"},
    {"backbone": "convnextv2_huge"}, {"backbone": "resnet50"},
    {"backbone_args": {"layers": [9000] * 4}}, {"backbone_args": {"layers": [10**9] * 4}},
    {"backbone_args": {"channels": [16000] * 4}}, {"backbone_args": {"stem_width": 16000}},
    {"backbone": "deit_tiny_patch16_224", "backbone_args": {"depth": 9000}},
    {"backbone": "deit_tiny_patch16_224", "backbone_args": {"embed_dim": 15999, "num_heads": 3}},
    {"backbone": "swin_tiny_patch4_window7_224", "backbone_args": {"img_size": 1024, "window_size": 256}},
    {"backbone": "msdnet38", "backbone_args": {"num_blocks": 9000, "step_mode": "lin_grow"}},
    {"backbone": "msdnet38", "backbone_args": {"channels": 16000}}, {"shared": True},
):
    spec = net.spec()
    arguments = spec["init_args"] | {"route": None} | ({"shift": "none"} if "backbone" in change else {}) | change
    state = shared if arguments.pop("shared", False) else net.state_dict()
    content = {"state_dict": {f"net.{k}": v for k, v in state.items()}}
    content["dynvid"] = {"net": spec | {"init_args": arguments}, "score": "margin", "class_names": None}
    torch.save(content, sys.argv[1])
    start = time.process_time()
    try:
        net_from_checkpoint(read_checkpoint(sys.argv[1]), sys.argv[1])
        print("built", change)
    except DynvidError as error:
        if "memory" in str(error) and "than its weights" not in str(error):
            print("ran out of it", change, error)
    if time.process_time() - start > 3:
        print("slow", change)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print("ok" if grown < 200 else f"{grown} MB")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its own size from /proc")
@pytest.mark.slow
def test_a_description_cannot_ask_for_more_than_its_weights(tmp_path):
    run = subprocess.run([sys.executable, "-c", HOSTILE, tmp_path / "x.ckpt"], capture_output=True, text=True)
    assert run.stdout.strip() == "ok", run.stdout + run.stderr


def test_weights_that_share_their_memory_cannot_ask_for_more_than_the_file(tmp_path):
    """Each is whole by itself: all are views of one."""
    net = ExitNet("test_resnet", num_classes=5, num_frames=2, input_size=32, backbone_args={"layers": [6] * 4})
    module = DynamicInferenceModule(net)
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    one = torch.zeros(max(value.numel() for value in net.state_dict().values()))
    content["state_dict"] |= {
        f"net.{name}": one[: value.numel()].view(value.shape)
        for name, value in net.state_dict().items()
        if value.is_floating_point()
    }
    torch.save(content, tmp_path / "shared.ckpt")
    assert "takes more memory than its weights" in refused(tmp_path / "shared.ckpt")


class Stepped(ExitNet):
    """Computes with values as it is built, as many nets do for stochastic depth."""

    def __init__(self, rate=0.1, classes=5):
        super().__init__("test_resnet", num_classes=classes, num_frames=2, input_size=32)
        self.rates = [x.item() for x in torch.linspace(0, rate, 4)]
        self.arguments = {"rate": rate, "classes": classes}

    def spec(self):
        return {"class_path": f"{__name__}.Stepped", "init_args": self.arguments}


def test_a_net_class_of_ones_own_with_arguments_of_its_own(tmp_path):
    module, path = DynamicInferenceModule(Stepped(rate=0.3)), tmp_path / "own.ckpt"
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    torch.save(content, path)
    assert load(path).net.rates == pytest.approx([0, 0.1, 0.2, 0.3])
    content["dynvid"]["net"]["init_args"] = {"rate": 0.3, "classes": "five"}
    torch.save(content, path)
    assert "num_classes='five'" in refused(path)
    content["dynvid"]["net"]["init_args"] = {"num_frames": 2}
    torch.save(content, path)
    assert "Stepped has no argument 'num_frames'" in refused(path)


ODD = [
    *(None, True, False, 0, 1, -1, 3, 64, HUGE, 2**63, 10**5000, 0.5, -0.0, float("nan"), float("inf"), 1e300),
    *("", "x", "online", "resnet18", "test_resnet", "msdnet38", "a\n\x1b[31mb", "x" * 100_000, b"bytes"),
    *([], {}, (), [[]], [[1, 4], [4, 4]], {"": {}}, {"img_size": 32}, {"depths": [9, 9]}, {1: 2}, {"layers": (1, 1)}),
    *(torch.zeros(2), torch.zeros(()), torch.zeros(3).expand(2, 3), torch.ones(1, dtype=torch.long), torch.Size([1])),
    *(torch.zeros(1).expand(10**10), torch.zeros(1, device="meta"), nn.Parameter(torch.zeros(5)), endless()),
]


@pytest.mark.parametrize("net", [UnifiedExitNet, ExitNet])
def test_what_is_withheld_belongs_to_weights_and_thresholds(net, tmp_path):
    route = {"route": [(4, 4)]} if net is ExitNet else {}
    module = DynamicInferenceModule(net("test_resnet", num_classes=5, num_frames=4, input_size=32, **route))
    module.class_names, module.background = list("abcde"), "b"
    reject = Reject(0.05, 0.95, 0.75, "val", 400, 400, answered=0.9, error=0.02)

    def saved():
        content = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(content)
        torch.save(content, tmp_path / "net.ckpt")
        return load(tmp_path / "net.ckpt")

    module.set_thresholds(module.policy.thresholds, reject=reject)
    assert (saved().reject, saved().background) == (reject, "b")
    assert saved().state_dict().keys() == module.state_dict().keys()
    again = saved()
    again.set_thresholds(again.policy.thresholds)
    assert again.reject is None
    with torch.no_grad():
        next(module.net.parameters()).add_(1)
    assert saved().reject is None


@pytest.mark.parametrize("background", ["f", "", 3, ["a"], torch.zeros(2)])
def test_a_background_that_is_no_class_is_refused(mine, tmp_path, background):
    mine["dynvid"]["background"] = background
    torch.save(mine, tmp_path / "x.ckpt")
    assert "background" in refused(tmp_path / "x.ckpt")


@pytest.mark.parametrize("reject", [{}, [], 0.5, {"threshold": 0.5}, Reject(0.05).plain() | {"threshold": 2.0}])
def test_a_reject_that_is_none_is_refused(mine, tmp_path, reject):
    mine["dynvid"]["reject"] = reject
    torch.save(mine, tmp_path / "x.ckpt")
    assert "reject" in refused(tmp_path / "x.ckpt")


def places(x, depth=0):
    """Every dictionary or list and key in nested plain data."""
    inner = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()
    for key, value in inner:
        yield x, key
        if depth < 6:
            yield from places(value, depth + 1)


def mutate(content, chance):
    """Drop, replace or add one entry, anywhere; more often than not in what describes the net."""
    described = [*places(content.get("dynvid"))]
    holder, key = chance.choice(described if described and chance.random() < 0.6 else [*places(content)])
    what = chance.random()
    if what < 0.2:
        del holder[key]
    elif what < 0.3 and isinstance(holder, dict):
        holder[chance.choice(["new", "pretrained", 5, "net.new", "self", "a\nb"])] = chance.choice(ODD)
    elif what < 0.5 and isinstance(holder[key], torch.Tensor):
        x = holder[key].clone()
        holder[key] = chance.choice([x.T, x.flatten()[:1], x[None], x.half(), x.double(), x.long(), x * torch.inf])
    else:
        holder[key] = chance.choice(ODD)


def works_or_says_why(path):
    """Whether it loads; anything but a module that works or a one-line error of dynvid's own is a failure."""
    start, why = time.monotonic(), ""
    try:
        module = load(path)
    except DynvidError as error:
        why = str(error)
    assert time.monotonic() - start < 10
    if why:
        assert why.startswith(f"{path}: ")
        assert len(why.splitlines()) == 1
        assert len(why) < 2000
        return False
    size = module.net.input_size
    module.net.predict(torch.zeros(1, module.net.num_frames, 3, size, size, dtype=torch.uint8), module.policy)
    return True


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore")
def test_random_changes_of_the_contents(content, tmp_path, seed):
    chance, path = random.Random(seed), tmp_path / "odd.ckpt"
    loaded = 0
    for _ in range(12):
        changed = copy.deepcopy(content)
        for _ in range(chance.choice([1, 1, 2, 3])):
            mutate(changed, chance)
        torch.save(changed, path)
        loaded += works_or_says_why(path)
    assert loaded < 12


@pytest.mark.filterwarnings("ignore")
def test_random_damage_of_the_file(content, tmp_path):
    chance, path = random.Random(0), tmp_path / "odd.ckpt"
    torch.save(content, path)
    whole, loaded = path.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(whole)
        kind = chance.random()
        if kind < 0.2:
            del damaged[chance.randrange(len(damaged)) :]
        elif kind < 0.3:
            begin = chance.randrange(len(damaged))
            del damaged[begin : begin + chance.choice([1, 100, 10_000])]
        for _ in range(chance.choice([1, 1, 8])):
            end = chance.choice([len(damaged), 2000])  # names and descriptions lie at the front
            if damaged:
                damaged[chance.randrange(min(end, len(damaged)))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        loaded += works_or_says_why(path)
    assert loaded < 15  # parts have check sums, so that a single bit tells but in the gaps between them
