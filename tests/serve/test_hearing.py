import io

import numpy as np
import pytest
import soundfile

from weigher.errors import RequestError
from weigher.io.audio import AudioError, read_audio, write_audio
from weigher.serve import limits as limits_module
from weigher.serve.hearing import as_wav, columns, read_cut, read_envelope, with_person_renamed
from weigher.serve.limits import Limits, TooLargeError

TWO = {"min_speakers": 2, "max_speakers": 2, "num_speakers": None}


def nothing(stage, done, total):
    """No progress is shown."""


@pytest.fixture
def hear(make_service, talk):
    def hearing(service, name="talk.flac", path=talk):
        return service.listener.listen(path, name, TWO, nothing)

    return hearing


def people(service):
    return {person.name: person.vectors for person in service.listener.index.people()}


def test_the_envelope_is_the_loudest_sample_of_each_column(talk):
    told = []
    found = read_envelope(talk, Limits(), lambda *progress: told.append(progress))
    samples = np.abs(read_audio(talk))
    width = columns(5.0)
    places = np.minimum((np.arange(len(samples)) / 16000 / 5.0 * width).astype(int), width - 1)
    expected = np.array([samples[places == column].max() for column in range(width)])
    assert found == pytest.approx(expected / expected.max())
    assert told[-1] == ("read", 5, 5)


def test_a_recording_that_turns_out_too_long_is_refused_whatever_its_header_says(talk, monkeypatch):
    monkeypatch.setattr(limits_module, "audio_seconds", lambda _: 1.0)
    with pytest.raises(TooLargeError, match=r"longer than 0\.05 min"):
        read_envelope(talk, Limits(minutes=0.05), nothing)


def test_a_recording_cut_short_is_refused_while_it_is_read(talk, tmp_path):
    (tmp_path / "recording").write_bytes(talk.read_bytes()[:-20_000])
    with pytest.raises(AudioError, match="cut short"):
        read_envelope(tmp_path / "recording", Limits(), nothing)


def test_a_part_is_that_slice_of_the_recording(make_service, hear, talk):
    heard = hear(make_service(people=False))
    part = read_cut(heard, 1.25, 2.5)
    assert np.array_equal(part, read_audio(talk)[20_000:40_000])
    samples, rate = soundfile.read(io.BytesIO(as_wav(part)))
    assert rate == 16000
    assert samples == pytest.approx(part, abs=1e-4)
    for start, end in ((2, 1), (-1, 1), (0, float("nan"))):
        with pytest.raises(RequestError):
            read_cut(heard, start, end)
    with pytest.raises(AudioError, match="not in it"):
        read_cut(heard, 7, 8)


def test_without_an_index_names_are_kept_with_the_recording(make_service, hear):
    service = make_service(people=False)
    heard = hear(service)
    first, second = heard.result.speakers
    named = service.listener.name_voice(heard, first, "  Zoe\u0308 ")
    assert named.result.speakers == ("Zoë", second)
    assert {turn.speaker for turn in named.result.segments} <= {"Zoë", second}
    assert sum(turn.speaker == "Zoë" for turn in named.result.segments) == sum(
        turn.speaker == first for turn in heard.result.segments
    )
    with pytest.raises(RequestError, match="two voices are two people"):
        service.listener.name_voice(named, second, "Zoë")
    with pytest.raises(RequestError, match="nobody in"):
        service.listener.name_voice(named, first, "Ann")
    with pytest.raises(RequestError, match="cannot be a person's name"):
        service.listener.name_voice(named, second, "unknown7")
    with pytest.raises(RequestError, match="--people"):
        service.listener.rename_person("Zoë", "Ann")


def test_a_named_voice_is_known_when_it_is_heard_again(make_service, hear):
    service = make_service()
    heard = hear(service)
    assert heard.result.speakers == ("unknown1", "unknown2")
    named = service.listener.name_voice(heard, "unknown2", "Ann")
    assert [naming.name for naming in named.namings] == [None, "Ann"]
    again = hear(service, "another name.flac")
    assert again.result.speakers[1] == "Ann"
    assert again.to_dict()["speakers"][1]["known"]
    assert people(service) == {"Ann": 1}
    # the same recording sent twice counts once
    service.listener.name_voice(hear(service), "Ann", "Ann")
    assert people(service) == {"Ann": 1}


def test_a_name_given_here_alone_is_taken_back_and_one_that_others_gave_is_not(make_service, hear, talk, tmp_path):
    service = make_service()
    listener = service.listener
    heard = listener.name_voice(hear(service), "unknown1", "An")
    heard = listener.name_voice(heard, "An", "Ann")
    assert people(service) == {"Ann": 1}
    heard = listener.name_voice(heard, "unknown2", "Ben")
    assert people(service) == {"Ann": 1, "Ben": 1}
    # now somebody else has told who Ann is, too
    listener.index.enroll({"Ann": [("elsewhere", heard.result.embeddings[0])]})
    heard = listener.name_voice(heard, "Ann", "Cid")
    assert people(service) == {"Ann": 2, "Ben": 1, "Cid": 1}
    assert heard.result.speakers == ("Cid", "Ben")
    # Cid is known from here alone, and becomes one with the Ann of the index
    heard = listener.name_voice(heard, "Cid", "Ann")
    assert people(service) == {"Ann": 2, "Ben": 1}


def test_renaming_a_person_reaches_recordings_that_are_held(make_service, hear):
    service = make_service()
    heard = service.listener.name_voice(hear(service), "unknown1", "Ann")
    assert service.listener.rename_person("Ann", " Anna ") == "Anna"
    renamed = with_person_renamed(heard, "Ann", "Anna")
    assert renamed.result.speakers == ("Anna", "unknown2")
    assert with_person_renamed(renamed, "Ann", "Zoe") is renamed
    assert people(service) == {"Anna": 1}
    with pytest.raises(RequestError, match="nobody called"):
        service.listener.rename_person("Ann", "Zoe")


def test_silence_has_a_picture_too(make_service, tmp_path):
    write_audio(tmp_path / "silence.wav", np.zeros(16000))
    assert not read_envelope(tmp_path / "silence.wav", Limits(), nothing).any()


def test_nobody_speaks(make_service, tmp_path, monkeypatch):
    for people in (False, True):
        service = make_service(people)
        write_audio(tmp_path / "noise.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 5 * 16000))
        nobody = {"min_speakers": None, "max_speakers": 0, "num_speakers": None}
        heard = service.listener.listen(tmp_path / "noise.wav", "noise.wav", nobody, nothing)
        assert (heard.result.speakers, heard.namings, heard.result.segments) == ((), (), ())
        assert heard.to_dict()["speakers"] == []


def test_a_part_that_is_not_in_the_recording_is_told_by_its_name(make_service, hear, talk):
    heard = hear(make_service(people=False), "my talk.flac")
    for start, end in ((99.0, 100.0), (0.0, 0.00001), (1e305, 1.5e305)):
        with pytest.raises(AudioError) as error:
            read_cut(heard, start, end)
        assert str(error.value).startswith("my talk.flac")
        assert str(talk.parent) not in str(error.value)
