"""Runs while they train: their page, served to browsers of this machine alone, which take over new points."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from headwise.report.figures.charts import Curves
from headwise.report.page.blocks import Block, Remarks, Tiles
from headwise.report.page.page import Page, Section
from headwise.report.sections.findings import find
from headwise.report.write import number_sections, opening
from headwise.runs.log_reading import LogReader
from headwise.runs.reading import Recording, distinct_names, read_run

ADDRESS = "127.0.0.1"
_REST = 3.0
"""A page is not made again sooner than so many times as long as making it took."""


class LivePage:
    """The page of runs that may still be under way, made anew when they have logged something.

    Args:
        folders: Of the runs; they need not exist yet.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._runs = [_Followed(folder) for folder in folders]
        self._lock = threading.Lock()
        self._version, self._html, self._policy = 0, "", ""
        self._next = 0.0

    def look(self) -> tuple[str, str, str]:
        """Read what the runs have logged since.

        Returns:
            The version of the page, the page, and its policy.
        """
        with self._lock:
            if not self._html or time.monotonic() >= self._next:
                changed = [run.follow() for run in self._runs]
                if any(changed) or not self._html:
                    self._make()
            return str(self._version), self._html, self._policy

    def _make(self) -> None:
        begun = time.monotonic()
        self._version += 1
        page = _page(self._runs, str(self._version))
        self._html, self._policy = page.html(), page.policy
        ended = time.monotonic()
        self._next = ended + _REST * (ended - begun)


class _Followed:
    """A run, read as it grows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log, self._evaluation = LogReader(folder / "log.jsonl"), LogReader(folder / "evaluation.jsonl")

    def follow(self) -> bool:
        """Read on; whether there was anything new."""
        return any([self._log.follow(), self._evaluation.follow()])

    def recording(self) -> Recording | None:
        """What there is so far; None where the run has not begun."""
        try:
            return read_run(self.folder, (self._log.log(), self._evaluation.log()))
        except ValueError:
            return None


def _page(runs: Sequence[_Followed], version: str) -> Page:
    names = distinct_names([run.folder for run in runs])
    found = [(name, run.recording()) for name, run in zip(names, runs, strict=True)]
    page = Page(" · ".join(name for name, _ in found), "While it trains: new points come by themselves.", version)
    alone = len(found) == 1
    sections: dict[str, tuple[str, list[Block]]] = {}
    for name, run in found:
        if run is None:
            waits = Remarks([("note", f"{name}: the run has not begun; the page waits for it.")])
            sections.setdefault("Findings", ("", []))[1].append(waits)
            continue
        groups = number_sections(run)
        first = Section("Findings", [*opening(run, groups if alone else []), Remarks(find(run))])
        for group in (first, *groups):
            blocks = group.blocks if alone else [_of_run(block, name) for block in group.blocks]
            sections.setdefault(group.title, (group.lead, []))[1].extend(blocks)
    for title, (lead, blocks) in sections.items():
        page.add(Section(title, blocks if alone else _side_by_side(blocks, len(found)), lead))
    return page


def _of_run(block: Block, name: str) -> Block:
    """A block that says whose it is; curves become narrow, so that those of two runs stand side by side."""
    if isinstance(block, Remarks):
        return Remarks([(kind, f"{name}: {text}") for kind, text, *_ in block.items])
    if isinstance(block, Curves):
        return replace(block, title=f"{name}: {block.title}", wide=False)
    if isinstance(block, Tiles):
        return replace(block, title=name)
    title = getattr(block, "title", None)
    return replace(block, title=f"{name}: {title}") if title else block  # type: ignore[type-var] # a dataclass


def _side_by_side(blocks: list[Block], num_runs: int) -> list[Block]:
    """The runs' blocks in turn, where each run has as many."""
    if len(blocks) % num_runs:
        return blocks
    each = len(blocks) // num_runs
    return [blocks[run * each + place] for place in range(each) for run in range(num_runs)]


class LiveServer(ThreadingHTTPServer):
    """Serves a `LivePage` on 127.0.0.1, to requests that name this address: other sites' scripts cannot read it.

    Args:
        page: What to serve.
        port: Where; 0 for any that is free.
    """

    daemon_threads = True

    def __init__(self, page: LivePage, port: int = 0) -> None:
        self.page = page
        super().__init__((ADDRESS, port), _Handler)

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:  # as the standard library calls it
        """Says what went wrong, unless it is that a browser went away before it had its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    server_version, sys_version = "headwise", ""

    def do_GET(self) -> None:  # as the standard library calls it
        """Send the page, or that there is nothing newer."""
        port = self.server.server_address[1]
        if self.headers.get("Host") not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
            return self.send_error(HTTPStatus.FORBIDDEN)
        asked = urlsplit(self.path)
        if asked.path not in ("/", "/page"):
            return self.send_error(HTTPStatus.NOT_FOUND)
        version, html, policy = self.server.page.look()
        if asked.path == "/page" and parse_qs(asked.query).get("since") == [version]:
            return self._send(HTTPStatus.NO_CONTENT, b"", policy)
        return self._send(HTTPStatus.OK, html.encode(), policy)

    def _send(self, status: HTTPStatus, content: bytes, policy: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(content)),
            "Content-Security-Policy": f"{policy}; frame-ancestors 'none'; form-action 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the terminal is the user's."""


def serve(folders: Sequence[Path], port: int, ready: Callable[[str], object]) -> None:
    """Serves the page of runs until Ctrl-C.

    Args:
        folders: Of the runs.
        port: Where; 0 for any that is free.
        ready: Called with the address, once it answers.

    Raises:
        OSError: The port is taken; the message names it.
    """
    try:
        server = LiveServer(LivePage(folders), port)
    except OSError as error:
        raise OSError(f"live: port {port} cannot be used ({error.strerror}). Give another --port, or 0") from None
    with server:
        ready(server.url)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return
