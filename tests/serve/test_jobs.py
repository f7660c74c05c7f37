import threading

import pytest

from weigher.errors import RequestError, WeigherError
from weigher.serve.jobs import Jobs, NoSuchJobError, NotDoneError, QueueFullError


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def jobs(tmp_path, clock):
    made = Jobs(tmp_path, capacity=3, keep_seconds=100, clock=clock)
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == []


def submit(jobs, work, name="talk"):
    with jobs.admit() as folder:
        (folder / "recording").write_bytes(b"sound")
        return jobs.submit(folder, name, work)


class Gate:
    """Work that goes on, reporting progress, until somebody opens it."""

    def __init__(self):
        self.started, self.open = threading.Event(), threading.Event()

    def __call__(self, progress):
        self.started.set()
        for step in range(1000):
            progress("apply", step, 1000)
            if self.open.wait(0.01):
                return "through"
        raise AssertionError("nobody opened the gate")


def held(jobs):
    gate = Gate()
    number = submit(jobs, gate)
    assert gate.started.wait(10)
    return gate, number


def test_work_reports_progress_and_its_result_is_kept(jobs, tmp_path):
    gate, number = held(jobs)
    status = jobs.status(number)
    assert (status.state, status.stage, status.total) == ("running", "apply", 1000)
    with pytest.raises(NotDoneError, match="running"):
        jobs.result(number)
    gate.open.set()
    assert jobs.wait(number).state == "done"
    assert jobs.result(number) == "through"
    assert [path.name for path in tmp_path.glob("*/*")] == ["recording"]


def test_jobs_are_done_in_order_and_know_how_many_are_ahead(jobs):
    gate, _ = held(jobs)
    order = []
    numbers = [submit(jobs, lambda _, name=name: order.append(name) or name, name) for name in "ab"]
    assert [jobs.status(number).ahead for number in numbers] == [1, 2]
    gate.open.set()
    assert [jobs.wait(number).state for number in numbers] == ["done", "done"]
    assert order == ["a", "b"]


def test_no_more_are_taken_in_than_there_are_places_and_those_being_sent_count(jobs):
    gate, _ = held(jobs)
    submit(jobs, lambda _: 1)
    with jobs.admit(), pytest.raises(QueueFullError, match="3 recordings"):
        submit(jobs, lambda _: 1)
    last = submit(jobs, lambda _: 1)  # the place that was held for nothing is free again
    gate.open.set()
    jobs.wait(last)
    submit(jobs, lambda _: 1)  # what has ended takes no place


def test_what_is_admitted_and_not_submitted_leaves_nothing(jobs, tmp_path):
    with jobs.admit() as folder:
        (folder / "recording").write_bytes(b"half of it")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RequestError, match="not admitted"):
        jobs.submit(folder, "talk", lambda _: 1)


def test_running_and_waiting_work_can_be_cancelled(jobs, tmp_path):
    _, running = held(jobs)
    waiting = submit(jobs, lambda _: pytest.fail("cancelled work was begun"))
    jobs.cancel(waiting)
    assert jobs.status(waiting).state == "cancelled"
    jobs.cancel(running)
    assert jobs.wait(running, 10).state == "cancelled"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotDoneError, match="cancelled"):
        jobs.result(running)
    assert submit(jobs, lambda _: 1)  # the worker lives on


def test_work_that_fails_says_why_without_paths_and_the_worker_lives_on(jobs, tmp_path, caplog):
    folders = []

    def work(_):
        folders.extend(tmp_path.iterdir())
        raise WeigherError(f"{folders[-1] / 'recording'} is damaged")

    number = submit(jobs, work, "talk.wav")
    status = jobs.wait(number)
    assert (status.state, status.error) == ("failed", "talk.wav is damaged")
    assert list(tmp_path.iterdir()) == []
    fault = submit(jobs, lambda _: {}["secret"])
    assert jobs.wait(fault).error == "KeyError; the server's messages tell more"
    assert "secret" in caplog.text
    assert jobs.wait(submit(jobs, lambda _: 1)).state == "done"


def test_results_go_a_while_after_the_last_look(jobs, tmp_path, clock):
    looked, forgotten = (submit(jobs, lambda _: 1) for _ in range(2))
    jobs.wait(looked), jobs.wait(forgotten)
    clock.now = 60.0
    jobs.status(looked)
    clock.now = 110.0
    assert jobs.status(looked).state == "done"
    with pytest.raises(NoSuchJobError):
        jobs.status(forgotten)
    assert len(list(tmp_path.iterdir())) == 1
    clock.now = 1000.0
    with pytest.raises(NoSuchJobError):
        jobs.result(looked)


def test_no_more_results_are_kept_than_four_for_each_place(jobs, tmp_path):
    numbers = []
    for _ in range(14):
        numbers.append(submit(jobs, lambda _: 1))
        jobs.wait(numbers[-1])
    with pytest.raises(NoSuchJobError):
        jobs.status(numbers[1])
    assert jobs.status(numbers[2]).state == "done"
    assert len(list(tmp_path.iterdir())) == 12


def test_work_is_not_swept_while_it_goes_on(jobs, clock):
    gate, number = held(jobs)
    clock.now = 1000.0
    assert jobs.status(number).state == "running"
    gate.open.set()
    assert jobs.wait(number).state == "done"


@pytest.mark.parametrize("ended", [True, False])
def test_a_removed_job_leaves_nothing(jobs, tmp_path, ended):
    gate, number = held(jobs)
    if ended:
        gate.open.set()
        jobs.wait(number)
    jobs.remove(number)
    with pytest.raises(NoSuchJobError):
        jobs.status(number)
    jobs.wait(submit(jobs, lambda _: 1))  # after this the worker has let go of the other
    assert len(list(tmp_path.iterdir())) == 1


def test_closing_cancels_and_removes_everything(tmp_path):
    jobs = Jobs(tmp_path, capacity=4, keep_seconds=100)
    held(jobs)
    submit(jobs, lambda _: 1)
    jobs.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(QueueFullError):
        submit(jobs, lambda _: 1)


def test_results_can_be_changed(jobs):
    one, two = (submit(jobs, lambda _, n=n: n) for n in (1, 2))
    jobs.wait(one), jobs.wait(two)
    assert jobs.update(one, lambda result: result + 10) == 11
    jobs.update_all(lambda result: result * 2)
    assert (jobs.result(one), jobs.result(two)) == (22, 4)


def test_numbers_cannot_be_guessed(jobs):
    numbers = {submit(jobs, lambda _: 1) for _ in range(3)}
    assert len(numbers) == 3
    assert min(map(len, numbers)) >= 22  # 128 bits
