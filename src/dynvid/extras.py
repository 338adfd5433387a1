"""Packages that only some need: each comes with an extra, and is imported when it is first needed."""

from importlib import import_module
from typing import Any

from dynvid.errors import InputError

EXTRA_OF = {
    "fastapi": "demo",
    "gradio": "demo",
    "nncf": "openvino",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "openvino": "openvino",
    "python_multipart": "serve",
    "ray": "ray",
    "uvicorn": "serve",
}


def require(module: str) -> Any:
    """Import a module of an extra.

    Args:
        module: Its name, such as `onnxruntime` or `ray.data`.

    Raises:
        ValueError: It is not installed; the message is the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise  # something that the package itself lacks
        raise InputError(f"{package} is not installed: pip install 'dynvid[{EXTRA_OF[package]}]'") from error
