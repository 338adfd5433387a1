"""What nets do in training only: gradient equilibrium and gradient checkpointing."""

import pytest
import torch

from dynvid import DepthExitNet, InputExitNet, UnifiedExitNet

VIDEO = torch.randint(0, 256, (4, 4, 3, 32, 32), dtype=torch.uint8)


def make(cls=DepthExitNet):
    torch.manual_seed(0)
    net = cls("test_resnet", num_classes=5, num_frames=4).train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)  # fresh residual branches are zero
    return net


def gradients(net, exits):
    """Of the sum of the given exits' squared logits, by segment."""
    net.zero_grad()
    net(VIDEO)[exits].square().sum().backward()
    return [torch.cat([p.grad.flatten() for p in segment.parameters()]) for segment in net.segments]


@pytest.mark.parametrize("cls", [DepthExitNet, InputExitNet, UnifiedExitNet])
def test_gradient_equilibrium_weighs_all_later_exits_alike(cls):
    """A segment gets the mean of the gradients of the exits at its depth and beyond."""
    plain = make(cls)
    exits = range(len(plain.route))
    alone = [gradients(plain, [k]) for k in exits]
    equal = make(cls)
    equal.gradient_equilibrium = True
    found = gradients(equal, list(exits))
    for depth, of_segment in enumerate(found, 1):
        ahead = [alone[k][depth - 1] for k in exits if plain.route[k].depth >= depth]
        expected = torch.stack(ahead).mean(0)
        torch.testing.assert_close(of_segment, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("cls", [DepthExitNet, UnifiedExitNet])
def test_gradient_checkpointing_changes_memory_only(cls):
    def run(checkpointing):
        net = make(cls)
        net.gradient_checkpointing = checkpointing
        held = {}

        def pack(x):
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            logits = net(VIDEO)
        logits.square().sum().backward()
        kept = sum(size for pointer, size in held.items() if pointer not in weights)
        return net, logits, kept

    plain, checkpointed = run(False), run(True)
    assert checkpointed[2] < plain[2] / 2
    assert torch.equal(plain[1], checkpointed[1])
    others = dict(checkpointed[0].named_parameters())
    for name, p in plain[0].named_parameters():
        torch.testing.assert_close(p.grad, others[name].grad, msg=name)
    assert plain[0].segments[0].conv1[0].weight.grad.abs().sum() > 0
    state = checkpointed[0].state_dict()
    for name, value in plain[0].state_dict().items():  # running statistics and their counters too
        assert torch.equal(value, state[name]), name
