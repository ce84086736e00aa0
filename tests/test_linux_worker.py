"""A worker is told what to do, and neither side is ever kept waiting by the other's end."""

import fcntl
import os
import select
import signal
import time

import pytest

from memreap.linux.worker import FDS_MAX, Line, Worker

pytestmark = pytest.mark.usefixtures("nothing_left")


def echo(line: Line) -> None:
    """Say what is heard; descriptors come back as well."""
    try:
        while True:
            heard = line.hear()
            assert heard is not None
            line.say(heard[0], heard[1])
            for fd in heard[1]:
                os.close(fd)
    except EOFError:
        return


def answers(worker: Worker, count: int = 1) -> list[tuple[object, list[int]]]:
    got: list[tuple[object, list[int]]] = []
    poll = select.poll()
    poll.register(worker, select.POLLIN)
    while len(got) < count and not worker.ended and poll.poll(5000):
        got += worker.hear()
    return got


def test_what_is_told_is_heard_whole_and_in_order() -> None:
    worker = Worker(echo)
    messages: list[object] = [{"a": 1}, ["x" * 200_000], "\ud800 \n \0", None, 7]
    for message in messages:
        assert worker.tell(message)
    assert answers(worker, len(messages)) == [(message, []) for message in messages]
    worker.give_up()
    assert not worker.tell("too late")


def test_as_many_descriptors_as_a_message_can_carry() -> None:
    read, write = os.pipe()
    worker = Worker(echo)
    assert worker.tell("many", [write] * FDS_MAX)
    [(message, fds)] = answers(worker)
    assert (message, len(set(fds))) == ("many", FDS_MAX)
    for fd in fds:
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert os.fstat(fd) == os.fstat(write)
        os.close(fd)
    os.close(read)
    os.close(write)
    worker.give_up()


def test_the_workers_descriptors_are_not_inherited_either() -> None:
    def report(line: Line) -> None:
        heard = line.hear(5.0)
        assert heard is not None
        line.say([os.get_inheritable(fd) for fd in heard[1]])

    worker = Worker(report)
    assert worker.tell("", [0, 1, 2])
    assert answers(worker) == [([False, False, False], [])]
    worker.give_up()


def test_a_worker_that_does_not_listen_never_keeps_the_parent() -> None:
    worker = Worker(lambda _: time.sleep(60))
    began_s = time.monotonic()
    told = 0
    while worker.tell("x" * 10_000):
        told += 1
        assert told < 10_000
    assert told > 5
    assert time.monotonic() - began_s < 2
    worker.give_up()


def test_a_message_that_can_never_be_sent_is_the_callers_mistake() -> None:
    worker = Worker(echo)
    with pytest.raises(OSError, match="too long"):
        worker.tell("x" * (8 << 20))
    assert worker.tell("next")
    assert answers(worker) == [("next", [])]
    worker.give_up()


def test_telling_the_dead_is_no_error() -> None:
    worker = Worker(lambda _: None)
    assert list(worker.hear_within(5.0)) == []
    assert not worker.tell("anyone?")
    worker.close()


def test_hear_gives_up_after_its_time() -> None:
    def patient(line: Line) -> None:
        began_s = time.monotonic()
        line.say([line.hear(0), line.hear(0.05), time.monotonic() - began_s >= 0.05])
        poll = select.poll()
        poll.register(line, select.POLLIN)
        line.say(bool(poll.poll(5000)))

    worker = Worker(patient)
    assert answers(worker) == [([None, None, True], [])]
    assert worker.tell("now")
    assert answers(worker) == [(True, [])]
    worker.give_up()


def test_a_parent_that_goes_is_noticed_though_younger_workers_live() -> None:
    read, write = os.pipe()

    def until_the_end(line: Line) -> None:
        line.say("unheard")
        try:
            line.hear()
        except EOFError:
            os.write(write, b"!")

    older = Worker(until_the_end)
    younger = Worker(echo)
    assert select.select([older], [], [], 5)[0], "it waits in hear, having said its word"
    older.close()
    poll = select.poll()
    poll.register(read, select.POLLIN)
    assert poll.poll(5000)
    assert younger.tell("alive")
    assert answers(younger) == [("alive", [])]
    younger.give_up()
    os.close(read)
    os.close(write)


def test_one_that_ends_long_after_it_was_given_up_leaves_no_zombie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, write = os.pipe()
    late = Worker(lambda _line: [os.read(read, 1)].clear())
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)  # as if it hung
    late.give_up()
    monkeypatch.undo()
    assert late.pid in Worker.living, "it may not be killed for a stranger"
    os.write(write, b"!")
    os.waitid(os.P_PID, late.pid, os.WEXITED | os.WNOWAIT)
    Worker(echo).give_up()
    assert late.pid not in Worker.living
    with pytest.raises(ChildProcessError):
        os.waitpid(late.pid, os.WNOHANG)
    os.close(read)
    os.close(write)


def test_last_words_are_heard_of_one_who_did_not_listen() -> None:
    def rude(line: Line) -> None:
        select.select([line], [], [], 5)
        line.say("last words")

    worker = Worker(rude)
    assert worker.tell("unheard")
    assert list(worker.hear_within(5.0)) == [("last words", [])]
    assert worker.ended
    worker.close()


@pytest.mark.parametrize("setsid", [False, True])
def test_a_session_of_its_own(setsid: bool) -> None:
    worker = Worker(lambda line: line.say(os.getsid(0)), setsid=setsid)
    [(session, _)] = answers(worker)
    assert session == (worker.pid if setsid else os.getsid(0))
    worker.give_up()
