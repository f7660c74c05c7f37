"""The index of people on disk: what goes in comes out, survives kills and rivals, and what is forgotten is gone."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.recordings import cells, database, slot_store
from weigher.recordings.calibrate import Calibration
from weigher.recordings.index import PeopleIndex
from weigher.recordings.people_store import Thresholds
from weigher.recordings.recorded import Recorded

WIDTH = 16


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def draw(rng, *shape):
    return unit(rng.standard_normal((*shape, WIDTH)))


def recorded(name, vectors, people=None, seconds=1.0):
    turns = [np.array([[i, i + seconds]]) for i in range(len(vectors))]
    return Recorded(name, vectors, np.linspace(0.9, 0.5, len(vectors)), turns, people or [None] * len(vectors))


def holds(folder, vector):
    """Whether the bytes of a vector, as float32, are in any file of the folder."""
    wanted = vector.astype("<f4").tobytes()
    return any(wanted in path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def index(tmp_path):
    return PeopleIndex.create(tmp_path / "index", model="m", width=WIDTH)


def test_what_goes_in_comes_out_in_another_process(index):
    rng = np.random.default_rng(0)
    ann, ben = draw(rng, 2), draw(rng)
    index.enroll({"Ann": [("a.wav", ann[0] * 3), ("b.wav", ann[1])], "Ben; jr Ü": [("a.wav", ben)]})
    again = PeopleIndex(index.folder)
    assert (again.model, again.width) == ("m", WIDTH)
    np.testing.assert_allclose(again.vectors()["Ann"], ann, atol=1e-6)  # brought to unit length
    np.testing.assert_allclose(again.vectors()["Ben; jr Ü"], ben[None], atol=1e-6)
    assert [(person.name, person.vectors) for person in again.people()] == [("Ann", 2), ("Ben; jr Ü", 1)]
    index.enroll({" Ann ": [("a.wav", ben)]})  # the same source again, and the same name
    np.testing.assert_allclose(again.vectors()["Ann"], [ben, ann[1]], atol=1e-6)


@pytest.mark.parametrize("name", ["", "  ", "unknown", "Unknown3", "a\nb", "a\x00b", "\ud800"])
def test_names_that_cannot_be(index, name):
    with pytest.raises(RequestError, match="cannot be a person's name"):
        index.enroll({name: [("a", np.ones(WIDTH))]})
    index.enroll({"Ann": [("a", np.ones(WIDTH))]})
    with pytest.raises(RequestError, match="cannot be a person's name"):
        index.rename("Ann", name)


def test_one_name_however_it_was_typed(index):
    index.enroll({"Zoe\u0308": [("a", np.ones(WIDTH))]})
    index.rename("Zo\u00eb", "Löf")
    assert [person.name for person in index.people()] == ["Löf"]


@pytest.mark.parametrize(
    "vector", [np.zeros(WIDTH), np.full(WIDTH, np.nan), np.ones(WIDTH + 1), np.full(WIDTH, np.inf)]
)
def test_vectors_that_cannot_be(index, vector):
    for call in (
        lambda: index.enroll({"Ann": [("a", np.ones(WIDTH)), ("b", vector)]}),
        lambda: index.remember([recorded("a", vector[None])]),
        lambda: index.search(vector),
        lambda: index.name(vector[None]),
    ):
        with pytest.raises(RequestError, match="finite vectors of size 16"):
            call()
    assert index.people() == []  # all or nothing


def test_parts_of_a_recording_that_do_not_fit(index):
    broken = Recorded("a", np.ones((2, WIDTH)), np.ones(1), [], [None])
    with pytest.raises(RequestError, match="2 embeddings, 1 confidences"):
        index.remember([broken])


def test_an_unknown_name_is_answered_with_the_nearest(index):
    index.enroll({"Annegret": [("a", np.ones(WIDTH))], "Ben": [("a", -np.ones(WIDTH))]})
    for call in (
        lambda: index.rename("Anegret", "B"),
        lambda: index.merge(["Anegret"], "Ben"),
        lambda: index.merge(["Ben"], "Anegret"),
        lambda: index.forget(["Ben", "Anegret"]),
        lambda: index.export(["Anegret"]),
    ):
        with pytest.raises(RequestError, match="did you mean 'Annegret'"):
            call()
    assert len(index.people()) == 2  # Ben was not forgotten either
    with pytest.raises(RequestError, match="there is a 'Ben' already"):
        index.rename("Annegret", "Ben")
    index.rename("Ben", "Ben")


def test_merging_moves_vectors_and_recordings(index):
    rng = np.random.default_rng(1)
    x = draw(rng, 4)
    index.enroll({"A": [("1", x[0]), ("2", x[1])], "B": [("2", x[2]), ("3", x[3])]}, [recorded("3", x[3:], ["B"])])
    index.merge(["B", "A"], "A")
    assert [(p.name, p.vectors, p.recordings) for p in index.people()] == [("A", 3, 1)]
    np.testing.assert_allclose(index.vectors()["A"], [x[0], x[1], x[3]], atol=1e-6)  # of two from 2, A's own stays
    assert not holds(index.folder, x[2])


def test_export_is_all_there_is(index):
    rng = np.random.default_rng(2)
    x = draw(rng, 3)
    index.enroll({"A": [("1", x[0])], "B": [("1", x[1])]}, [recorded("1", x[:2], ["A", "B"])])
    (told,) = index.export(["B"])["people"]
    assert told["name"] == "B"
    np.testing.assert_allclose(told["vectors"][0]["vector"], x[1], atol=1e-6)
    assert told["recordings"] == [{"recording": "1", "confidence": 0.5, "turns": [[1.0, 2.0]]}]
    assert [person["name"] for person in index.export()["people"]] == ["A", "B"]


def brute_force(recordings, query, top):
    best = {each.recording: float((each.embeddings @ query).max()) for each in recordings if len(each.embeddings)}
    return sorted(best.items(), key=lambda item: -item[1])[:top]


def test_search_is_brute_force(index):
    rng = np.random.default_rng(3)
    recordings = [recorded(f"r{i}", draw(rng, int(rng.integers(0, 5)))) for i in range(300)]
    index.remember(recordings[:200])
    index.remember(recordings[150:])  # some of them again
    assert index.count() == (300, sum(len(each.embeddings) for each in recordings))
    for query in draw(rng, 20):
        found = [(hit.slot.recording, hit.score) for hit in index.search(query, 7)]
        truth = brute_force(recordings, query, 7)
        assert [name for name, _ in found] == [name for name, _ in truth]
        np.testing.assert_allclose([score for _, score in found], [score for _, score in truth], atol=1e-5)
    assert len(index.search(draw(rng), 1000)) == sum(len(each.embeddings) > 0 for each in recordings)


def test_a_hit_says_who_when_and_how_sure(index):
    rng = np.random.default_rng(4)
    ann, ben, guest = draw(rng, 3)
    index.enroll({"Ann": [("1", ann)]}, [recorded("1", np.stack([ann, guest]), ["Ann", None])])
    index.enroll({"Ben": [("2", ben)]})
    index.remember([recorded("3", np.stack([guest, ben]))])
    hit = index.search(ben, 1)[0]
    assert (hit.slot.recording, hit.name, hit.same, hit.slot.person) == ("3", "Ben", True, None)  # by likeness
    assert (hit.slot.turns.tolist(), hit.slot.confidence) == ([[1.0, 2.0]], 0.5)
    hit = index.search(ann, 1)[0]
    assert (hit.slot.recording, hit.slot.person, hit.slot.confidence) == ("1", "Ann", 0.9)  # as told
    index.rename("Ann", "Anna")
    assert index.search(ann, 1)[0].name == "Anna"
    with pytest.raises(RequestError, match="1 or more"):
        index.search(ann, 0)


def test_remembering_leaves_what_was_told(index):
    x = draw(np.random.default_rng(5), 2)
    index.enroll({"Ann": [("1", x[0])]}, [recorded("1", x, ["Ann", None])])
    index.remember([recorded("1", x[::-1]), recorded("2", x[:1])])
    assert index.people()[0].recordings == 1
    assert index.count() == (2, 3)


def archive(rng, recordings, voices, noise=0.1):
    """Recordings of voices [p, e], two to five each, every slot with noise."""
    return [
        recorded(f"r{i}", unit(voices[rng.choice(len(voices), int(rng.integers(2, 6)), replace=False)]
                               + noise * rng.standard_normal((1, WIDTH))))
        for i in range(recordings)
    ]  # fmt: skip


def test_many_slots_are_searched_by_cells_and_nearly_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "PROBES", 6)
    monkeypatch.setattr(slot_store, "PROBES", 6)
    rng = np.random.default_rng(6)
    voices = draw(rng, 120)
    recordings = archive(rng, 900, voices)
    index = PeopleIndex.create(tmp_path, model="m", width=WIDTH, exact_slots=500)
    sizes = []
    for begin in range(0, 900, 75):
        index.remember(recordings[begin : begin + 75])
        with database.reading(tmp_path) as db:
            sizes.append(db.execute("SELECT COUNT(*) FROM cells").fetchone()[0])
    assert sizes[0] == 0
    assert len(set(sizes)) == 3  # grouped past 500 slots, and again at four times as many
    with database.reading(tmp_path) as db:
        held = [(slots, vectors) for slots, vectors in slot_store.blocks(db, WIDTH)]
        numbers = np.concatenate([slots for slots, _ in held])
        assert sorted(numbers) == [
            slot for (slot,) in db.execute("SELECT id FROM slots ORDER BY id")
        ]  # none lost, none twice
        for slots, vectors in held[:5]:
            assert (slot_store.look_up(db, int(slots[0])).vector == vectors[0]).all()
    recall, looked_at = [], []
    for query in unit(voices[:60] + 0.1 * rng.standard_normal((60, WIDTH))):
        truth = {name for name, _ in brute_force(recordings, query, 10)}
        assert {hit.slot.recording for hit in index.search(query, exact=True)} == truth
        recall.append(len(truth & {hit.slot.recording for hit in index.search(query)}) / 10)
        with database.reading(tmp_path) as db:
            looked_at.append(len(slot_store.compare(db, query)[0]) / len(numbers))
    assert np.mean(recall) > 0.9
    assert np.mean(looked_at) < 0.25


def test_cells_of_well_apart_groups_are_those_groups():
    rng = np.random.default_rng(7)
    centers = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0][:6].astype(np.float32)
    group = np.repeat(np.arange(6), 50)
    found = cells.learn_centers(unit(centers[group] + 0.05 * draw(rng, 300)), 6, np.random.default_rng(2))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    near = cells.nearest_cell(centers[group], found)
    assert all(len(set(near[group == k])) == 1 for k in range(6))


@pytest.mark.parametrize("exact_slots", [10**6, 300], ids=["one cell", "cells"])
def test_the_forgotten_are_gone_from_the_disk(tmp_path, exact_slots):
    rng = np.random.default_rng(8)
    index = PeopleIndex.create(tmp_path / "i", model="m", width=WIDTH, exact_slots=exact_slots)
    ann = draw(rng)
    hers = unit(ann + 0.08 * rng.standard_normal((12, WIDTH)))
    others = draw(rng, 900)
    others = others[others @ ann < 0.4]
    alone = {"Ann": [(f"s{i}", hers[i]) for i in range(4)], "Ben": [("b", others[0])], "Cid": [("c", others[1])]}
    index.enroll(alone, [recorded("told", np.stack([hers[4], others[2], others[3]]), ["Ann", "Ben", None])])
    index.remember([recorded(f"r{i}", others[3 * i : 3 * i + 3]) for i in range(len(others) // 3)])
    index.remember([recorded(f"u{i}", np.stack([hers[i], others[i]])) for i in range(5, 12)])
    index.enroll({"Ann": [("s0", hers[5])]})  # in the place of hers[0], whose bytes must go as well
    before = index.count()[1]
    assert all(holds(tmp_path, vector) for vector in hers[1:])
    assert index.forget(["Ann"]) == {"Ann": (4, 8)}
    assert not any(holds(tmp_path, vector) for vector in hers)
    assert not any(b"Ann" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert index.count()[1] == before - 8
    assert all(holds(tmp_path, vector) for vector in others[:30])
    assert index.search(others[7], 1)[0].score > 0.999
    assert [person.name for person in index.people()] == ["Ben", "Cid"]
    with database.reading(index.folder) as db:
        assert database.get_meta(db, "purge") is None
        assert (db.execute("SELECT COUNT(*) FROM cells").fetchone()[0] > 0) == (exact_slots == 300)


def test_a_slot_told_to_be_somebody_elses_is_not_forgotten(index):
    x = np.eye(WIDTH)[0]
    index.enroll({"A": [("a", x)], "B": [("b", np.eye(WIDTH)[1])]}, [recorded("told", x[None], ["B"])])
    index.remember([recorded("untold", x[None])])
    assert index.forget(["A"]) == {"A": (1, 1)}
    assert index.search(x, 1)[0].slot.recording == "told"


def test_the_file_shrinks_when_somebody_is_forgotten(index):
    x = draw(np.random.default_rng(16), 3000)
    index.enroll({"A": [("a", x[0])], "B": [("b", x[1])]}, [recorded("a", x[2:], ["A"] * 2998)])
    before = (index.folder / database.FILE).stat().st_size
    assert index.forget(["A"]) == {"A": (1, 2998)}
    assert (index.folder / database.FILE).stat().st_size < before - 2998 * 4 * WIDTH


def test_a_cell_that_had_one_member_does_not_remember_it(tmp_path):
    rng = np.random.default_rng(9)
    index = PeopleIndex.create(tmp_path, model="m", width=WIDTH, exact_slots=40)
    lonely = unit(np.eye(WIDTH)[0])
    crowd = unit(np.abs(draw(rng, 60)) * -1)
    index.enroll({"A": [("a", lonely)], "B": [("b", crowd[0])]}, [recorded("1", lonely[None], ["A"])])
    index.remember([recorded(f"r{i}", crowd[i : i + 1]) for i in range(60)])
    with database.reading(tmp_path) as db:
        assert lonely.tobytes() in {center for (center,) in db.execute("SELECT center FROM cells")}  # else no test
    index.forget(["A"])
    assert not holds(tmp_path, lonely)


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


WRITER = """
import sys, numpy as np
from weigher.recordings.index import PeopleIndex
from weigher.recordings.recorded import Recorded
folder, me = sys.argv[1], sys.argv[2]
index = PeopleIndex.create(folder, model="m", width=16, exact_slots=40)
rng = np.random.default_rng(int(me))
for k in range(10):
    x = rng.standard_normal((4, 16))
    turns = [np.array([[0.0, 1.0]])] * 4
    people = [f"P{k}", None, None, None]
    index.enroll({people[0]: [(f"{me}-{k}", x[0])]}, [Recorded(f"{me}-{k}", x, np.ones(4), turns, people)])
    if k % 5 == 4:  # both give vectors to P0 ... P9; a name that one changes must be its own
        index.enroll({f"Q{me}": [(f"{me}-{k}", x[1])]})
        index.rename(f"Q{me}", f"Q{me}-{k}")
print("done")
"""


def test_a_writer_waits_and_then_sees_what_the_other_has_done(index):
    index.enroll({"Ann": [("1", np.ones(WIDTH))]})
    second = threading.Thread(target=index.rename, args=("Anna", "Hannah"))
    with database.writing(index.folder) as db:
        second.start()
        second.join(0.3)
        assert second.is_alive()
        assert [person.name for person in index.people()] == ["Ann"]  # readers need not wait
        db.execute("UPDATE people SET name = 'Anna'")
    second.join(60)
    assert [person.name for person in index.people()] == ["Hannah"]


def test_two_writers_at_once_lose_nothing(tmp_path):
    writers = [run_python(WRITER, tmp_path / "i", me) for me in (1, 2)]  # they race for making the index too
    for writer in writers:
        out, error = writer.communicate(timeout=120)
        assert (out, error) == ("done\n", "")
    index = PeopleIndex(tmp_path / "i")
    assert index.count() == (20, 80)
    people = {person.name: person.vectors for person in index.people()}
    assert people == {f"P{k}": 2 for k in range(10)} | {f"Q{me}-{k}": 1 for me in (1, 2) for k in (4, 9)}
    assert sum(person.recordings for person in index.people()) == 20
    with database.reading(index.folder) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


KILLED_WITHIN = """
import os, signal, sys, numpy as np
from weigher.recordings import database, slot_store
from weigher.recordings.index import PeopleIndex
from weigher.recordings.recorded import Recorded
database._CACHE_KIB = 64  # so that pages reach the file before the end
put = slot_store.put
def killed(*arguments):
    put(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
slot_store.put = killed
x = np.random.default_rng(0).standard_normal((4000, 16))
turns = [np.array([[0.0, 1.0]])] * 4000
PeopleIndex(sys.argv[1]).enroll({"New": [("n", x[0])]}, [Recorded("new", x, np.ones(4000), turns, [None] * 4000)])
"""


def test_a_writer_killed_in_mid_write_leaves_no_trace(index):
    x = draw(np.random.default_rng(10), 3)
    index.enroll({"Ann": [("1", x[0])]}, [recorded("1", x)])
    before = (index.folder / database.FILE).read_bytes()
    writer = run_python(KILLED_WITHIN, index.folder)
    writer.communicate(timeout=120)
    assert writer.returncode == -signal.SIGKILL
    assert (index.folder / database.FILE).read_bytes() != before  # it was in the middle of writing
    assert [path.name for path in index.folder.iterdir() if path.name.endswith("-journal")]
    assert [person.name for person in index.people()] == ["Ann"]
    assert index.count() == (1, 3)
    index.enroll({"New": [("n", x[1])]})  # and the rerun completes
    assert not [path.name for path in index.folder.iterdir() if path.name.endswith("-journal")]
    with database.reading(index.folder) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


ENDLESS = """
import sys, numpy as np
from weigher.recordings.index import PeopleIndex
from weigher.recordings.recorded import Recorded
index = PeopleIndex(sys.argv[1])
rng, me = np.random.default_rng(0), sys.argv[2]
for k in range(10**6):
    turns = [np.array([[0.0, 1.0]])] * 3
    index.enroll({f"P{me}-{k}": [("s", rng.standard_normal(16))]},
                 [Recorded(f"{me}-{k}", rng.standard_normal((3, 16)), np.ones(3), turns, [None] * 3)])
    print(k, flush=True)
"""


def test_writers_killed_at_any_time_lose_nothing_they_finished(index):
    rng = np.random.default_rng(11)
    for me in range(4):
        writer = run_python(ENDLESS, index.folder, me)
        assert writer.stdout is not None
        for _ in range(int(rng.integers(1, 12))):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        finished = [k for k in writer.communicate(timeout=60)[0].split("\n") if k]
        names = {person.name for person in index.people()}
        assert {f"P{me}-{k}" for k in finished} <= names
    recordings, slots = index.count()
    assert slots == 3 * recordings  # each whole
    assert recordings == len(index.people())  # both or none
    with database.reading(index.folder) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_purge_that_was_cut_off_is_made_up_for(index, monkeypatch):
    x = draw(np.random.default_rng(12), 3)
    index.enroll({"A": [("1", x[0])], "B": [("2", x[1])]})

    def killed(db):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(database, "_purge", killed)
        with pytest.raises(KeyboardInterrupt):
            index.forget(["A"])
    assert [person.name for person in index.people()] == ["B"]  # the deletion itself was committed
    with database.reading(index.folder) as db:
        assert database.get_meta(db, "purge") == "due"
    index.enroll({"B": [("3", x[2])]})
    with database.reading(index.folder) as db:
        assert database.get_meta(db, "purge") is None
    assert not holds(index.folder, x[0])


def test_an_index_that_holds_nothing_is_anyones(index):
    again = PeopleIndex.create(index.folder, model="other", width=3)
    assert (again.model, again.width) == ("other", 3)
    again.enroll({"A": [("a", np.ones(3))]})


def test_an_index_belongs_to_its_model(index):
    index.enroll({"A": [("a", np.ones(WIDTH))]})
    for model, width in (("other", WIDTH), ("m", WIDTH + 1)):
        with pytest.raises(RequestError, match="Use the model it was made with"):
            index.check_model(model, width)
        with pytest.raises(RequestError, match="Use the model it was made with"):
            PeopleIndex.create(index.folder, model=model, width=width)


@pytest.mark.parametrize("value", [b'{"name": \xff}', b"{", b"[1]", b'{"name": {"what": 1}}', b'{"who": null}'])
def test_thresholds_that_are_damaged_are_named(index, value):
    index.enroll({"A": [("a", np.ones(WIDTH))]})
    with database.writing(index.folder) as db:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('thresholds', CAST(? AS TEXT))", (value,))
    with pytest.raises(RequestError, match="damaged"):
        PeopleIndex(index.folder).thresholds()


def test_a_table_whose_name_is_no_text_is_damage(index):
    path = index.folder / database.FILE
    index.enroll({"A": [("a", np.ones(WIDTH))]})
    content = path.read_bytes()
    row = b"tablesamplessamples"  # of the schema: its kind, its name, its table; and what makes it
    assert row in content
    content = content.replace(row, b"table\xff\xffmplessamples").replace(
        b"CREATE TABLE samples", b"CREATE TABLX samples"
    )
    path.write_bytes(content)
    with pytest.raises(RequestError, match="damaged"):
        PeopleIndex(index.folder).people()


@pytest.mark.parametrize("damage", ["text", "cut", "empty", "header", "other", "middle"])
def test_a_damaged_index_is_named(index, damage):
    path = index.folder / database.FILE
    x = draw(np.random.default_rng(13), 4000)
    index.enroll({"A": [("a", x[0])]}, [recorded("a", x)])
    content = path.read_bytes()
    changed = {
        "text": b"not a database, whatever its name says" * 100,
        "cut": content[: len(content) // 2],
        "empty": b"",
        "header": b"\x00" * 100 + content[100:],
        "middle": content[:32768] + b"\xa5" * (len(content) - 32768),
    }
    if damage == "other":
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE meta (key TEXT)")
        other.close()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(RequestError, match=r"people\.sqlite"):
        PeopleIndex(index.folder).search(x[0])


def test_where_there_is_no_index(tmp_path):
    with pytest.raises(RequestError, match="no index of people"):
        PeopleIndex(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="cannot make the index folder"):
        PeopleIndex.create(tmp_path / "file", model="m", width=2)


@contextmanager
def somebody_without_rights():
    """The rest as a user who owns nothing: to root, nothing is read-only."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_folder_can_be_read_and_refuses_writing():
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, "index")
        index = PeopleIndex.create(folder, model="m", width=WIDTH)
        x = draw(np.random.default_rng(14), 2)
        index.enroll({"Ann": [("a", x[0])]}, [recorded("a", x)])
        os.chmod(top, 0o755)
        os.chmod(folder, 0o555)
        os.chmod(folder / database.FILE, 0o444)
        with somebody_without_rights():
            assert [person.name for person in PeopleIndex(folder).people()] == ["Ann"]
            assert index.search(x[0], 1)[0].name == "Ann"
            with pytest.raises(RequestError, match="may write to"):
                index.rename("Ann", "Ben")
            with pytest.raises(RequestError, match=r"may write to|name another place"):
                PeopleIndex.create(folder / "new", model="m", width=2)
        os.chmod(folder, 0o755)


def test_thresholds_are_stored_with_their_rates(index):
    rng = np.random.default_rng(15)
    voices = draw(rng, 8)
    assert index.recalibrate() == Thresholds()  # nobody is there
    samples = {
        f"P{p}": [(f"s{k}", unit(voices[p] + 0.2 * rng.standard_normal(WIDTH))) for k in range(5)] for p in range(8)
    }
    index.enroll(samples)
    found = index.recalibrate(false_accept=0.05)
    assert PeopleIndex(index.folder).thresholds() == found
    assert found.name is not None
    assert found.search is not None
    assert (found.name.same, found.name.different) == (40, 40)
    assert (found.search.same, found.search.different) == (8 * 10, 40 * 39 // 2 - 80)
    assert found.name.false_accept <= 0.05
    assert index.recalibrate() == found  # the bound is remembered
    index.forget([f"P{p}" for p in range(7)])
    assert index.recalibrate() == found  # one person gives no pairs of two: what was known stays
    index.set_thresholds(Thresholds())
    assert index.thresholds().to_dict()["name"]["false_accept"] is None


def test_the_threshold_decides_who_is_unknown(index):
    index.enroll({"A": [("1", np.eye(WIDTH)[0])]})
    halfway = unit(np.eye(WIDTH)[0] + np.eye(WIDTH)[1])  # cosine 0.71
    assert index.name(halfway[None])[0].name == "A"
    found = index.recalibrate()
    assert found.name is None
    index.set_thresholds(Thresholds(name=Calibration(0.8, 0.0, 0.0, 1, 1)))
    naming = index.name(halfway[None])[0]
    assert (naming.name, naming.nearest) == (None, "A")
    assert naming.score == pytest.approx(np.sqrt(0.5))
    assert index.name(np.empty((0, WIDTH))) == []
