import pytest

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
