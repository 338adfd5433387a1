"""The report: what recorded outputs say, as plain data, as a page to look at, and as Markdown."""

from dynvid.report.page import render_report, write_report
from dynvid.report.summary import summarise

__all__ = ["render_report", "summarise", "write_report"]
