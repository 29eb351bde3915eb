import pytest
import torch
import torch.distributed as dist

from headwise.training.processes.lifeline import Lost
from headwise.training.ranks import ALONE, Ranks, join_ranks, naming_lost_ranks


def break_off(*arguments: object, **named: object) -> None:
    raise RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4711")


def test_a_process_that_ends_while_they_meet(monkeypatch):
    """Before they have lines to each other nobody knows which one; a transfer that breaks off is all there is."""
    said = "process 1 stops because another one ended while they met. Continue with --resume."
    monkeypatch.setattr("torch.distributed.new_group", break_off)
    with pytest.raises(ConnectionError, match=said) as error:
        join_ranks(1, 2)
    assert "Connection closed" in str(error.value.__cause__)
    monkeypatch.setattr("torch.distributed.broadcast_object_list", break_off)
    with pytest.raises(ConnectionError, match=said), naming_lost_ranks(Ranks(1, 2)):
        pass


def test_one_process_meets_nobody(monkeypatch):
    monkeypatch.setattr("torch.distributed.new_group", break_off)
    assert join_ranks(0, 1) is ALONE
    with naming_lost_ranks(ALONE):
        pass


class Line:
    """One end, over which the news of a lost process comes after a while."""

    def __init__(self) -> None:
        self.told: list[str | None] = []

    def lost(self, seconds: float) -> Lost | None:
        return Lost(0) if seconds > 0 else None

    def close(self, reason: str | None = None) -> None:
        self.told.append(reason)


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer"), True),
        (dist.DistBackendError("NCCL communicator was aborted"), True),
        (torch.OutOfMemoryError("CUDA out of memory."), False),
        (NotImplementedError("no such operator"), False),
        (ValueError("nothing of a transfer"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_an_error_that_transfers_raise_waits_for_news_of_another_process(monkeypatch, error, waits):
    line = Line()
    monkeypatch.setattr("headwise.training.ranks.open_lifeline", lambda *arguments: line)
    kind, said = (ConnectionError, "process 0 was killed") if waits else (type(error), str(error))
    with pytest.raises(kind, match=said), naming_lost_ranks(Ranks(1, 2)):
        raise error
    assert line.told == [None if waits else str(error)]
