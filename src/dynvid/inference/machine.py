"""What a figure was measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import dynvid
from dynvid.profile import processor_name

# Of the many that a processor has, those that matrix products are made of.
_INSTRUCTIONS = (
    *("avx2", "avx_vnni", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16"),
    *("neon", "bf16", "sve", "sve2", "sve_bf16"),
)


def machine(device: torch.device) -> dict[str, Any]:
    """Versions, processor and device, as plain data.

    Example:
        >>> sorted(machine(torch.device("cpu")))
        ['device', 'processor', 'versions']
        >>> machine(torch.device("cpu"))["processor"]["threads"] == torch.get_num_threads()
        True
    """
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "versions": {
            "dynvid": dynvid.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "timm", "av")},
            "cuda": torch.version.cuda if device.type == "cuda" else None,
        },
        "processor": {
            "name": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "instructions": [name for name in _INSTRUCTIONS if capabilities.get(name) is True],
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def _version(package: str) -> str | None:
    """None where it is not installed; nothing is imported to see it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
