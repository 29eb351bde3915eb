"""A page taken apart with the standard library's parser, which knows nothing of how it was put together."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"img", "input", "meta", "br", "wbr"}


class ParsedPage(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.data: dict[str, dict[str, Any]] = {}
        self._figure: str | None = None
        self._raw: list[str] | None = None
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script" and ("type", "application/json") in attrs:
            self._raw = []

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        if tag == "script" and self._raw is not None:
            data = json.loads("".join(self._raw), parse_constant=self._refuse)
            self.data[data["title"]] = data
            self._raw = None

    def handle_data(self, data):
        if self._raw is not None:
            self._raw.append(data)
        elif self.open and self.open[-1] not in ("script", "style"):
            self.texts.setdefault(self.open[-1], []).append(data)

    @staticmethod
    def _refuse(name):
        raise AssertionError(f"{name} is not JSON; browsers refuse it")

    @property
    def text(self) -> str:
        return " ".join(text for texts in self.texts.values() for text in texts)

    def addresses(self) -> list[str]:
        """Everything a browser might fetch."""
        found = [value or "" for _, attributes in self.tags for key, value in attributes.items()
                 if key in ("src", "href", "srcset", "data", "action", "poster", "xlink:href")]  # fmt: skip
        return found + re.findall(r"url\(([^)]*)\)", self.source) + re.findall(r"@import[^;]*", self.source)
