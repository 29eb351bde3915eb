"""The server of the live page: 127.0.0.1, its own address only, nothing sent twice; any run, begun or not."""

import http.client
import json
import re
import shutil
import threading
from pathlib import Path

import pytest

from headwise.cli import main
from headwise.report.live import ADDRESS, LivePage, LiveServer
from tests.report.builder import build_run, config, read_lines, write_lines


@pytest.fixture
def served():
    servers = []

    def start(*folders):
        server = LiveServer(LivePage(folders))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def get(server, path="/", host=None):
    port = server.server_address[1]
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=60)
    connection.request("GET", path, headers={"Host": host or f"{ADDRESS}:{port}"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def test_it_answers_on_this_machine_alone_and_to_its_own_name(tmp_path, served):
    server = served(build_run(tmp_path / "run", num_lines=12, samples=0))
    assert server.server_address[0] == "127.0.0.1"
    answer, text = get(server)
    assert answer.status == 200
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "connect-src 'self'; frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "Value of each term" in text
    assert get(server, host="evil.example:80")[0].status == 403
    assert get(server, "/../config.json")[0].status == 404


def test_a_browser_that_goes_away_is_not_an_error(tmp_path, served, capsys):
    server = served(build_run(tmp_path / "run", num_lines=12, samples=0))
    for error, told in ((BrokenPipeError(), False), (ConnectionResetError(), False), (KeyError("ours"), True)):
        try:
            raise error
        except (OSError, KeyError):
            server.handle_error(None, ("127.0.0.1", 1))
        assert bool(capsys.readouterr().err) == told


def test_only_what_is_new_is_sent(tmp_path, served):
    folder = build_run(tmp_path / "run", num_lines=12, samples=0)
    lines = read_lines(folder / "log.jsonl")
    write_lines(folder / "log.jsonl", lines[:10])
    server = served(folder)
    assert 'data-version="1"' in get(server)[1]
    assert get(server, "/page?since=1")[0].status == 204
    with (folder / "log.jsonl").open("a") as log:
        log.write("".join(json.dumps(line) + "\n" for line in lines[10:]) + '{"step": 130, "to')
    server.page._next = 0.0
    answer, text = get(server, "/page?since=1")
    assert answer.status == 200
    assert 'data-version="2"' in text
    assert '"steps":[10,20,30,40,50,60,70,80,90,100,110,120]' in text


def test_a_run_that_has_not_begun_is_waited_for(tmp_path, served):
    server = served(tmp_path / "later", build_run(tmp_path / "now", num_lines=12, samples=0))
    assert "later: the run has not begun; the page waits for it." in get(server)[1]
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "config.json").write_text(json.dumps(config()))
    write_lines(tmp_path / "later" / "log.jsonl", read_lines(tmp_path / "now" / "log.jsonl"))
    server.page._next = 0.0
    text = get(server)[1]
    assert "later: Value of each term" in text
    assert text.index("later: Value of each term") < text.index("now: Value of each term")
    assert text.index("<h3>later</h3>") < text.index("<h3>now</h3>")  # whose facts they are


def test_a_log_that_a_resumed_run_writes_anew_is_read_anew(tmp_path, served):
    folder = build_run(tmp_path / "run", num_lines=12, samples=0)
    server = served(folder)
    get(server)
    lines = read_lines(folder / "log.jsonl")
    (folder / "log.jsonl").unlink()
    write_lines(folder / "log.jsonl", lines[:9])
    server.page._next = 0.0
    assert '"steps":[10,20,30,40,50,60,70,80,90]' in get(server)[1]


def test_a_run_that_is_removed_is_shown_no_more(tmp_path, served):
    folder = build_run(tmp_path / "run", num_lines=3, samples=0)
    server = served(folder)
    assert "Value of each term" in get(server)[1]
    server.page._next = 0
    shutil.rmtree(folder)
    text = get(server)[1]
    assert "the run has not begun" in text
    assert "Value of each term" not in text


def test_runs_in_folders_of_one_name_are_told_apart(tmp_path, served, monkeypatch):
    """Both were called `run`, their figures had one id, and of a folder called `.` there was no name."""
    folders = [build_run(tmp_path / name / "run", num_lines=12, samples=0) for name in ("one", "two")]
    page = get(served(*folders))[1]
    assert all(title in page for title in ("one/run: Value of each term", "two/run: Value of each term"))
    ids = re.findall(r' id="(figure-[^"]+)"', page)
    assert len(set(ids)) == len(ids) > 10
    monkeypatch.chdir(folders[0])
    assert "<h1>run</h1>" in get(served(Path()))[1]


def test_mistakes_are_told_and_ctrl_c_ends_it(tmp_path, capsys, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    assert main(["live", str(file)]) == 2
    assert main(["live", str(tmp_path), "--port", "70000"]) == 2
    with LiveServer(LivePage([tmp_path])) as server:
        assert main(["live", str(tmp_path), "--port", str(server.server_address[1])]) == 2
        assert "Give another --port" in capsys.readouterr().err

    def interrupted(self, poll_interval):
        raise KeyboardInterrupt

    monkeypatch.setattr(LiveServer, "serve_forever", interrupted)
    assert main(["live", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Live at http://127.0.0.1:")
    assert out.endswith("\nStopped.\n")
