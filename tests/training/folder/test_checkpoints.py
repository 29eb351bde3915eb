import errno
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headwise.files import write_atomically
from headwise.training.folder import checkpoints
from headwise.training.folder.checkpoints import (
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)


def state(number: float = 1.0, preset: str = "textsnake") -> dict[str, Any]:
    return {"preset": preset, "network": {"weight": torch.full((100,), number)}}


def test_a_checkpoint_comes_back(tmp_path):
    path = save_checkpoint(tmp_path / "new", 7, state(2.5))
    assert path.name == "step_00000007.pt"
    loaded = load_checkpoint(path, "textsnake")
    assert loaded["step"] == 7
    assert torch.equal(loaded["network"]["weight"], torch.full((100,), 2.5))


@pytest.mark.parametrize("value", [np.float64(0.1), np.ones(2), Path("data"), defaultdict(int), object()], ids=type)
def test_what_could_not_be_read_again_is_told_when_it_is_saved(tmp_path, value):
    """Once it was told when the run was resumed."""
    with pytest.raises(ValueError, match=r"state\['optimizer'\]\['groups'\]\[0\]\['rate'\] is of"):
        save_checkpoint(tmp_path, 7, {**state(), "optimizer": {"groups": [{"rate": value}]}})
    assert not list(tmp_path.iterdir())


def test_the_states_of_torch_can_be_read_again(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])
    weight.sum().backward()
    optimizer.step()
    held: dict[str, Any] = {
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": torch.get_rng_state(),
    }
    found = load_checkpoint(save_checkpoint(tmp_path, 7, {**state(), **held}))
    assert found["schedule"]["milestones"] == held["schedule"]["milestones"]
    assert torch.equal(found["optimizer"]["state"][0]["exp_avg"], held["optimizer"]["state"][0]["exp_avg"])


def test_the_newest_stay_in_the_order_of_their_steps(tmp_path):
    for step in (9, 10, 100, 20):
        save_checkpoint(tmp_path, step, state(), keep=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step_00000100.pt",
        "step_00000020.pt",
        "step_00000010.pt",
    ]


def full_disk(after: int) -> Any:
    """An open() whose files refuse to take more than `after` bytes."""
    real = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, content: bytes) -> int:
            self.file.write(content[:after])
            self.file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *details: object) -> None:
            self.file.close()

    def opened(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = real(self, mode, *arguments, **options)
        return Full(file) if "w" in mode else file

    return opened


def test_a_full_disk_leaves_the_last_checkpoint_and_no_half_written_file(tmp_path, monkeypatch):
    first = save_checkpoint(tmp_path, 5, state(1.0))
    before = first.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full_disk(after=100))
        with pytest.raises(OSError, match=r"step_00000010.pt: .*No space left.*step_00000005.pt.*--resume") as caught:
            save_checkpoint(tmp_path, 10, state(2.0))
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert first.read_bytes() == before
    assert save_checkpoint(tmp_path, 10, state(2.0)).is_file()


def test_a_limit_of_the_system_on_file_sizes_acts_like_a_full_disk(tmp_path):
    """The same with a real refusal of the kernel, in a process of its own."""
    save_checkpoint(tmp_path, 5, state())
    script = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from headwise.training.folder.checkpoints import save_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    save_checkpoint(Path(sys.argv[1]), 10, {'preset': 'p', 'network': torch.zeros(100_000)})\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "step_00000010.pt: the checkpoint could not be written" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005.pt"]


@pytest.mark.parametrize("kept", [0, 1, 200, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named_and_the_last_good_one_used(tmp_path, kept):
    save_checkpoint(tmp_path, 5, state(1.0))
    broken = save_checkpoint(tmp_path, 10, state(2.0))
    content = broken.read_bytes()
    broken.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    warnings: list[str] = []
    found = newest_checkpoint(tmp_path, "textsnake", warnings.append)
    assert found is not None
    assert found["step"] == 5
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{broken}: truncated, or no checkpoint")
    assert "\n" not in warnings[0]


def test_when_no_checkpoint_can_be_read_it_is_an_error(tmp_path):
    assert newest_checkpoint(tmp_path, "textsnake", pytest.fail) is None
    (tmp_path / "step_00000001.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match="none of its 1 checkpoints"):
        newest_checkpoint(tmp_path, "textsnake", lambda text: None)


def test_a_foreign_file_is_refused_without_running_its_code(tmp_path):
    path = tmp_path / "step_00000001.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="no checkpoint of Headwise"):
        load_checkpoint(path)
    torch.save({"format": checkpoints.FORMAT, "code": Evil()}, path)
    with pytest.raises(ValueError, match="truncated, or no checkpoint"):
        load_checkpoint(path)
    assert not Evil.ran


class Evil:
    ran = False

    def __reduce__(self) -> Any:
        return (setattr, (Evil, "ran", True))


def test_a_checkpoint_of_another_preset_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, 1, state(preset="cornernet"))
    with pytest.raises(ValueError, match="a checkpoint of preset 'cornernet', but the run is of 'textsnake'"):
        load_checkpoint(path, "textsnake")
    with pytest.raises(ValueError, match=r"another preset|preset 'cornernet'"):
        newest_checkpoint(tmp_path, "textsnake", pytest.fail)


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "VERSION", 99)
    path = save_checkpoint(tmp_path, 1, state())
    monkeypatch.setattr(checkpoints, "VERSION", 1)
    with pytest.raises(ValueError, match="format 99"):
        load_checkpoint(path)


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "step_00000001.pt")


def test_a_kill_while_writing_leaves_the_old_content(tmp_path):
    """SIGKILL between the bytes and the name: the worst moment there is."""
    path = tmp_path / "file"
    write_atomically(path, b"old")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from headwise.files import write_atomically\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(Path(sys.argv[1]), b'new content')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    again = "\n".join(line for line in script.splitlines() if "fsync" not in line)  # as a run that is resumed
    subprocess.run([sys.executable, "-c", again, str(path)], timeout=60, check=True)
    assert path.read_bytes() == b"new content"
    assert [file.name for file in tmp_path.iterdir()] == ["file"], "the next process's write clears the temporary file"
