import numpy as np
import pytest
import torch

from dynvid.outputs import Outputs
from dynvid.policy import ThresholdPolicy
from dynvid.routes import Exit

ROUTE = (Exit(2, 1), Exit(4, 1), Exit(4, 2), Exit(8, 2))


def make_outputs(seed=0, videos=40, classes=6, exits=4, labelled=True, per_recording=1, curve=5, **more):
    """Random answers that grow better from exit to exit, and random thresholds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, videos)
    logits = rng.normal(0, 1, (exits, videos, classes)).astype(np.float32)
    logits[:, np.arange(videos), labels] += np.linspace(0.5, 2.5, exits, dtype=np.float32)[:, None]
    if not labelled:
        labels = np.full(videos, -1)
    paths = [f"data/video_{n:03}.mp4" for n in range(videos)]
    rows = np.sort(rng.random((curve, exits)), 0).astype(np.float32).tolist()
    about = {
        "logits": torch.from_numpy(logits),
        "labels": torch.from_numpy(labels),
        "paths": paths,
        "recordings": paths if per_recording == 1 else [f"recording {n // per_recording}" for n in range(videos)],
        "route": ROUTE[-exits:],
        "gmacs": (1.0, 2.5, 4.0, 9.0)[-exits:],
        "full_gmacs": 8.5,
        "policy": ThresholdPolicy(
            thresholds=[*rng.uniform(0.2, 0.9, exits - 1).tolist(), 0.0],
            temperatures=rng.uniform(0.5, 2.0, exits).tolist(),
        ),
        "point": None,
        "split": "test",
        "class_names": [f"class {n}" for n in range(classes)],
        "run": {"seed": seed, "curve_thresholds": [["inf", *row[1:]] if n == 0 else row for n, row in enumerate(rows)]},
    }
    return Outputs(**about | more)


def make_sets(seed=0, videos=60, classes=4, exits=4, labelled=True, **more):
    """The same for sets of labels, of which a class may be in none."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((videos, classes)) < np.linspace(0.6, 0.1, classes)).astype(np.int64)
    logits = rng.normal(0, 1, (exits, videos, classes)).astype(np.float32)
    logits += np.linspace(0.5, 2.0, exits, dtype=np.float32)[:, None, None] * (2 * labels - 1)
    thresholds = [*rng.uniform(0.1, 0.6, exits - 1).tolist(), 0.0]
    policy = ThresholdPolicy(None, thresholds, temperatures=rng.uniform(0.5, 2.0, exits).tolist(), multi_label=True)
    about = {"logits": torch.from_numpy(logits), "labels": torch.from_numpy(labels if labelled else 0 * labels - 1)}
    return make_outputs(seed, videos, classes, exits, policy=policy, **about | more)


@pytest.fixture(name="make_sets", scope="session")
def make_sets_fixture():
    return make_sets


@pytest.fixture(name="make_outputs", scope="session")
def make_outputs_fixture():
    return make_outputs
