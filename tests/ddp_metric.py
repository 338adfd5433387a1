"""Run by test_metrics under torchrun: the synced curve of two ranks equals the curve of all videos."""

import torch
import torch.distributed as dist

from dynvid.metrics import FlopsAccuracyCurve


def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(3, 21, 4, generator=generator), torch.randint(0, 4, (21,), generator=generator)

    synced = FlopsAccuracyCurve([1.0, 3.0, 4.0])
    rows = torch.arange(rank, 22, 2) % 21  # 11 videos each: the last of rank 1 is video 0 again
    for part in rows.split(4):
        synced.update(logits[:, part], target[part], part)
    alone = FlopsAccuracyCurve([1.0, 3.0, 4.0], sync_on_compute=False)
    alone.update(logits, target, torch.arange(21))
    assert synced.compute().scores.shape == (3, 21)
    found, expected = vars(synced.compute()), vars(alone.compute())
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    print("equal", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
