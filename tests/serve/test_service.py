"""What page and API share: work that goes wrong, and names that several people give at once, of which none is lost."""

import threading

import numpy as np
import pytest

from weigher.io.audio import AudioError

BOTH = 2
TWO = {"min_speakers": 2, "max_speakers": 2, "num_speakers": None}


@pytest.fixture
def recording(make_service, talk):
    service = make_service()
    number = service.submit_file(talk, "talk.flac", TWO)
    assert service.jobs.wait(number).state == "done"
    return service, number


def test_a_fault_of_ours_is_no_end_of_the_server(make_service, talk, monkeypatch):
    service = make_service()
    monkeypatch.setattr(service.listener, "listen", lambda *_: np.zeros(3)[5])
    number = service.submit_file(talk, "talk.flac", TWO)
    assert service.jobs.wait(number).error.startswith("IndexError")
    monkeypatch.undo()
    assert service.jobs.wait(service.submit_file(talk, "talk.flac", TWO)).state == "done"


def test_damage_found_later_is_told(make_service, talk, monkeypatch):
    service = make_service()

    def damaged(*_):
        raise AudioError(f"{next(service.jobs.folder.glob('*/*'))} is damaged")

    monkeypatch.setattr(service.listener, "listen", damaged)
    number = service.submit_file(talk, "a.flac", TWO)
    assert service.jobs.wait(number).error == "a.flac is damaged"


class Meeting:
    """Stands in the place of a step: whoever takes it waits a while for the other one."""

    def __init__(self, step):
        self.step, self.barrier = step, threading.Barrier(BOTH)

    def __call__(self, *arguments):
        found = self.step(*arguments)
        try:
            self.barrier.wait(0.5)
        except threading.BrokenBarrierError:  # the other one waits until this one is through
            return found
        return found


def at_once(*calls):
    wrong = []

    def run(call):
        try:
            call()
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_two_voices_named_at_once_both_keep_their_names(recording, monkeypatch):
    service, number = recording
    monkeypatch.setattr(service.jobs, "result", Meeting(service.jobs.result))
    at_once(
        lambda: service.name_voice(number, "unknown1", "Ann"), lambda: service.name_voice(number, "unknown2", "Ben")
    )
    assert service.jobs.result(number).result.speakers == ("Ann", "Ben")
    assert {person.name for person in service.listener.people().people()} == {"Ann", "Ben"}


def test_a_person_renamed_while_a_voice_is_named_bears_the_new_name(recording, monkeypatch):
    service, number = recording
    service.name_voice(number, "unknown1", "Ann")
    meeting = Meeting(lambda: None)
    listener = service.listener
    named, renamed = listener.name_voice, listener.rename_person
    monkeypatch.setattr(listener, "name_voice", lambda *told: (named(*told), meeting())[0])
    monkeypatch.setattr(listener, "rename_person", lambda *told: (renamed(*told), meeting())[0])
    at_once(lambda: service.name_voice(number, "unknown2", "Ben"), lambda: service.rename_person("Ann", "Anna"))
    assert service.jobs.result(number).result.speakers == ("Anna", "Ben")
