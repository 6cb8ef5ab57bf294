"""What every page must be: texts are only texts; a report is one file that loads nothing."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

# What a name or a text may try in a page.
EVIL = (
    '"><script>window.pwned=1;alert(1)</script><img src=http://198.51.100.1/x.png onerror="window.pwned=1;alert(1)">'
    "<svg onload=alert(1)> [a](javascript:alert(1)) ![b](http://198.51.100.1/y.png) {{ 11111 * 11111 }} ../../x"
)

VOID = {"meta", "link", "img", "input", "br", "path", "circle", "rect"}


class Page(HTMLParser):
    """An HTML file, read; a tag that is not closed in its place raises an AssertionError."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if not set(self.open) & {"style", "script"} else ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def check(self) -> None:
        """That the page loads nothing, names its parts, and describes its images."""
        for tag, attributes in self.elements:
            for name in ("src", "srcset", "data", "poster", "action", "background"):
                assert (attributes.get(name) or "data:").startswith("data:"), tag
            assert not any(name.startswith("on") for name in attributes), tag
            if tag in ("link", "a"):
                allowed = r"data:,|#[\w-]+|https://arxiv\.org/abs/[\d.]+"
                assert re.fullmatch(allowed, attributes.get("href") or ""), attributes
        assert not re.search(r"url\(|@import", self.html)
        [policy] = [found["content"] for found in self.all("meta") if found.get("http-equiv")]
        assert policy and policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
        assert len(self.all("script")) == policy.count("script-src 'sha256-")
        assert all(image.get("alt") for image in self.all("img"))
        assert all(drawing.get("aria-label") for drawing in self.all("svg") if drawing.get("role") == "img")
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        used = [link["href"] for link in self.all("a") if (link["href"] or "").startswith("#")]
        used += ["#" + button["aria-describedby"] for button in self.all("button")]
        assert {target.removeprefix("#") for target in used} <= set(ids)
        levels = [int(tag[1]) for tag, _ in self.elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))


class Visit:
    """A page in a browser that notes what texts must not achieve."""

    def __init__(self, browser: Any, url: str, **options: Any):
        self.own = url
        self.dialogs: list[str] = []
        self.requests: list[str] = []
        self.blocked: list[str] = []  # by the page's policy: Chromium announces some of these requests, and sends none
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(120_000)
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "requestfailed", lambda request: self.blocked.append(request.url) if request.failure == "csp" else None
        )
        self.page.goto(url)

    def check(self) -> None:
        """That no script of a text has run and nothing was asked of another host."""
        self.page.wait_for_timeout(300)
        assert not self.dialogs
        assert self.page.evaluate("window.pwned") is None
        own = (self.own, "data:", "blob:", "about:")
        assert [url for url in self.requests if not url.startswith(own) and url not in self.blocked] == []
