"""The site as people see it: built without a warning, every link followed, looked at and searched in Chromium."""

import functools
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from ..chromium import launched

pytestmark = pytest.mark.extra
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", str(DOCS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Anchors(HTMLParser):
    """Where a page can be led to, and where it leads."""

    def __init__(self, page):
        super().__init__()
        self.names, self.links = set(), []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.names.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def test_every_link_within_the_site_leads_somewhere(site):
    pages = {page: Anchors(page) for page in site.rglob("*.html")}
    assert len(pages) > 30
    broken, followed = [], 0
    for page, anchors in pages.items():
        for link in anchors.links:
            if re.match(r"\w+:|//", link):
                continue
            path, _, name = link.partition("#")
            target = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
            followed += 1
            if not target.exists() or (name and target in pages and unquote(name) not in pages[target].names):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken
    assert followed > 1000


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served: browsers let no page from a disk be searched."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def chromium():
    with launched() as found:
        yield found


@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_fits_a_phone_and_a_desk(site, address, chromium, width):
    page = chromium.new_page(viewport={"width": width, "height": 800})
    failed = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("response", lambda answer: answer.status < 400 or failed.append(answer.url))
    page.on("request", lambda asked: asked.url.startswith((address, "data:")) or failed.append(asked.url))
    wide = []
    for file in sorted(site.rglob("*.html")):
        name = str(file.relative_to(site))
        page.goto(f"{address}/{name}")
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(name)
    assert not wide
    assert not failed, "nothing is missing, and nothing is asked of another host"
    page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_word_is_searched_and_found(address, chromium, width):
    page = chromium.new_page(viewport={"width": width, "height": 800})
    page.goto(f"{address}/index.html")
    if width < 1000:
        page.click("label[for=__navigation]:visible")
    page.fill("input[name=q]", "macro recall")
    page.press("input[name=q]", "Enter")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("document.querySelector('.search-summary').innerText.includes('finished')")
    found = page.locator("#search-results li a").all_inner_texts()
    assert "Your own videos" in found
    page.close()
