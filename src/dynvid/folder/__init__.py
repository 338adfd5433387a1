"""A model as a folder that can be handed on: weights, what they are for, and a card for people. Nothing in it is run.

```
model.safetensors   the weights and buffers of the net, by its own names
config.json         what a checkpoint says of it: net, thresholds and their promise, class names, frames
README.md           the model card
onnx/ openvino/ int8/   one graph per step of the route, where they were asked for
```
"""

from dynvid.folder.card import Card, model_card
from dynvid.folder.files import Int8, check_graphs, read_folder, read_int8, write_files
from dynvid.folder.hub import local

__all__ = ["Card", "Int8", "check_graphs", "local", "model_card", "read_folder", "read_int8", "write_files"]
