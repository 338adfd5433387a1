"""How a video file is read, in four parts: the container, the index, the decoder, the converter."""
