"""What several files of tests need."""

import pytest
import torch

from dynvid.inference.export import Step


def steps(net):
    """The steps as another runtime would run them: arrays in, arrays out."""

    def runner(position):
        step = Step(net, position)

        @torch.no_grad()
        def run(given):
            tensors = [torch.from_numpy(x) for x in given]
            frames, state = (tensors[0], tensors[1:]) if step.frames else (None, tensors)
            return [x.numpy() for x in step(frames, *state)]

        return run

    return [runner(position) for position in range(len(net.route))]


@pytest.fixture(scope="session")
def steps_of():
    return steps
