"""A recognizer behind HTTP: one process, one event loop, one thread that computes.

`walks` (requests as they come, in the pool), `uploads` (what is read of a request, within bounds), `metrics`, `app`
(what is said on which path), `server` (sockets and signals). Plain ASGI under uvicorn: LitServe would hold the net in a
process of its own, behind queues that pickle every upload, where neither the pool nor a client's leaving can be seen.
"""
