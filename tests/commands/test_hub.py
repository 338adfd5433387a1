"""timm's weights where there is no network: real processes, and a hub at a port where nobody listens."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from dynvid.commands.hub import hub_asked_once
from dynvid.errors import InputError

NOBODY = "http://127.0.0.1:9"
FIT = ["fit", "--config", "quickstart.yaml", "--model.net.pretrained", "true", "--data.num_workers", "0"]
FIT += ["--data.clips_per_class", "1", "--data.clip_frames", "8", "--data.size", "32", "--data.num_frames", "4"]
FIT += ["--trainer.fast_dev_run", "true"]


def fit(folder):
    environment = os.environ | {"HF_HOME": str(folder / "hub"), "HF_ENDPOINT": NOBODY}
    program = Path(sys.executable).with_name("dynvid")
    return subprocess.run([program, *FIT], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_without_a_network_the_error_comes_at_once(tmp_path):
    start = time.monotonic()
    run = fit(tmp_path)
    assert time.monotonic() - start < 40  # the hub's own tries take 46 s of waiting alone
    assert run.returncode == 1
    (line,) = (line for line in run.stderr.splitlines() if "Seed set" not in line)
    assert line.startswith("dynvid: error: the weights of test_resnet are not in the cache")
    assert "--model.net.pretrained FILE" in line


@pytest.mark.slow
def test_without_a_network_cached_weights_are_used(tmp_path):
    model = timm.create_model("test_resnet")
    commit = "0" * 40
    repository = tmp_path / "hub" / "hub" / "models--timm--test_resnet.r160_in1k"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    save_file(model.state_dict(), repository / "snapshots" / commit / "model.safetensors")
    run = fit(tmp_path)
    assert run.returncode == 0, run.stderr
    assert "Retrying" not in run.stderr


def test_only_while_a_net_is_built_is_the_hub_left_alone(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", NOBODY)
    before = constants.HF_HUB_OFFLINE
    within = []
    with pytest.raises(InputError, match="weights of gone are not in the cache"), hub_asked_once("gone"):
        # The second is how timm gets what is not on the hub.
        within += [constants.HF_HUB_OFFLINE, torch.hub.load_state_dict_from_url(f"{NOBODY}/gone.pth")]
    with hub_asked_once("other"):
        within.append(constants.HF_HUB_OFFLINE)
    assert within == [True]
    assert before == constants.HF_HUB_OFFLINE


def test_other_errors_are_not_the_hubs(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", NOBODY)
    with pytest.raises(FileNotFoundError) as caught, hub_asked_once("net"):
        raise FileNotFoundError("other")
    assert str(caught.value) == "other"
