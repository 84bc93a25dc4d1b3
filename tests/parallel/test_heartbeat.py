"""Who holds the others up, said from signs of life alone."""

from dataclasses import replace

from alexnet.parallel.heartbeat import Heartbeat, StallDetector


def sign(rank: int, beat: int, step: int, phase: int = 0) -> Heartbeat:
    return Heartbeat(who=f"rank {rank}", count=beat, step=step, phase=phase, activity="its computation")


def test_one_that_stands_while_others_wait_is_named_once_and_again_after_twice_as_long() -> None:
    stalls = StallDetector(10)
    said = [(now, text) for now in range(0, 60) for text in stalls.update([sign(0, now, 5, 1), sign(1, now, 5)], now)]
    assert [now for now, _ in said] == [10, 20, 40]
    assert said[0][1] == "rank 1, in step 5, has been at its computation for 10 s; the others wait for it"


def test_one_that_is_silent_is_named_though_it_is_where_the_others_are() -> None:
    stalls = StallDetector(10)
    said = [(now, text) for now in range(0, 15) for text in stalls.update([sign(0, now, 5), sign(1, 3, 5)], now)]
    assert said == [(10, "rank 1, in step 5, has sent no heartbeat for 10 s; the others wait for it")]


def test_none_is_named_while_all_stand_together_or_move() -> None:
    stalls = StallDetector(10)
    for now in range(100):
        assert stalls.update([sign(0, now, 5), sign(1, now, 5)], now) == []  # all measure, say
    for now in range(100, 200):
        assert stalls.update([sign(0, now, now, 1), sign(1, now, now)], now) == []


def test_time_in_which_nobody_waited_does_not_count() -> None:
    stalls = StallDetector(10)
    for now in range(50):
        assert stalls.update([sign(0, now, 5), sign(1, now, 5)], now) == []
    said = [(now, text) for now in range(50, 65) for text in stalls.update([sign(0, now, 6), sign(1, now, 5)], now)]
    assert [now for now, _ in said] == [60]
    assert "for 10 s" in said[0][1]


def test_one_that_goes_on_is_said_to_and_may_be_named_anew() -> None:
    stalls = StallDetector(10)
    behind = sign(1, 0, 5)
    texts = []
    for now in range(12):
        texts += stalls.update([sign(0, now, 5, 1), replace(behind, count=now)], now)
    for now in range(12, 40):
        texts += stalls.update([sign(0, now, 6, 1), replace(behind, count=now, step=6)], now)
    assert [text.split(", ")[0] for text in texts] == ["rank 1", "rank 1 continues", "rank 1", "rank 1"]
