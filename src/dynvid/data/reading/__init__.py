"""How a video file is read: the container, the index, the decoder, the access to frames, the converter."""
