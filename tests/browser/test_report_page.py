"""A report as its readers see it: in Chromium, on a phone and on a desk, light and dark."""

import os
from dataclasses import replace

import numpy as np
import pytest

from dynvid.data.synthetic import write_clip
from dynvid.report import write_report

from ..chromium import launched
from ..report.conftest import make_outputs

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module", params=["names as they come", "names of strangers"])
def report(request, tmp_path_factory):
    """A report with curve, published rows, folded classes and a gallery."""
    folder = tmp_path_factory.mktemp("report")
    outputs = make_outputs(videos=60, classes=25, per_recording=2)
    name = "clip" if request.param == "names as they come" else "<script>alert(1)<" + "long" * 40
    paths = [str(folder / f"{name}{n}.mp4") for n in range(60)]
    write_clip(folder / "clip.mp4", np.random.default_rng(0).integers(0, 255, (8, 64, 112, 3), np.uint8))
    for path in paths:
        os.symlink(folder / "clip.mp4", path)
    if name != "clip":
        outputs = replace(outputs, class_names=[f"<b onclick=alert(1)>{'class' * 30}{n}" for n in range(25)])
    write_report(replace(outputs, paths=paths), folder, published="kinetics400")
    return folder / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_readable(browser, report, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    for details in page.locator("summary").all():
        details.click()  # what is folded away is to fit as well
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h1").inner_text() == "Dynamic inference on test"
    headings = page.locator("h2").all_inner_texts()
    assert {"Accuracy against cost", "Exits", "Classes", "What the net looked at", "What was run"} <= set(headings)
    pictures = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert pictures == [96] * len(pictures)
    assert len(pictures) > 10
    drawn = page.evaluate("[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().width)")
    assert min(drawn) > 340
    colours = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    ground, ink = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
    assert (ground > ink) is (scheme == "light")
    assert abs(ground - ink) > 400
    assert [url for url in asked if not url.startswith("data:image/jpeg;")] == [report.as_uri()]
    assert said == []
    page.close()
