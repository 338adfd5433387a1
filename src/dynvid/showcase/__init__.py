"""A page that shows a net stopping early: `walk` (what happened to one video), `picture` (drawn), `page` (Gradio)."""
