import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weigher.errors import RequestError
from weigher.recordings.configs import from_plain, overlay, read_config, to_plain
from weigher.recordings.diarizer import DiarizerConfig


@dataclass(frozen=True)
class Inner:
    size: int = 3
    share: float = 0.5
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.size < 1:
            raise RequestError(f"size = {self.size}; needed is 1 at least")


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    stride: Literal[1, 2, 4] = 4
    sizes: tuple[int, ...] = (1, 1, 2)
    limit: float | None = None
    often: int | None = 5
    name: str = ""
    is_on: bool = True


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_of_a_diarizer_survive_json(tmp_path):
    config = DiarizerConfig()
    text = json.dumps(to_plain(config), allow_nan=False)
    assert from_plain(DiarizerConfig, json.loads(text), "config.json") == config
    assert read_config(written(tmp_path / "config.json", text), config) == config


def test_every_setting_of_a_diarizer_is_read_back():
    config = DiarizerConfig()

    def paths(plain, path=()):
        for name, value in plain.items():
            yield from paths(value, (*path, name)) if isinstance(value, dict) else [(*path, name)]

    every = list(paths(to_plain(config)))
    assert len(every) > 50
    for path in every:
        plain = to_plain(config)
        for name in path:
            plain = plain[name]
        for name in reversed(path):
            plain = {name: plain}
        assert overlay(config, plain, "config.json") == config


@given(
    st.builds(
        Outer,
        inner=st.builds(Inner, size=st.integers(1, 10**9), share=st.floats(-1e300, 1e300), kind=st.sampled_from("ab")),
        stride=st.sampled_from([1, 2, 4]),
        sizes=st.lists(st.integers()).map(tuple),
        limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        often=st.none() | st.integers(),
        name=st.text(),
        is_on=st.booleans(),
    )
)
@settings(deadline=None)
def test_any_settings_survive_json(config):
    assert from_plain(Outer, json.loads(json.dumps(to_plain(config))), "x.json") == config


def test_what_is_left_out_stays():
    base = Outer(inner=Inner(size=7), name="base")
    assert overlay(base, {"inner": {"share": 2}}, "x") == replace(base, inner=Inner(size=7, share=2.0))
    assert overlay(base, {}, "x") == base
    assert isinstance(overlay(base, {"inner": {"share": 2}}, "x").inner.share, float)
    assert overlay(base, {"often": None, "limit": 3}, "x") == replace(base, often=None, limit=3.0)


DEEP = "[" * 900 + "]" * 900

WRONG = [
    ('{"sizs": [1]}', ["'sizs'", "inner, stride, sizes"]),
    ('{"inner": {"sizes": 1}}', ["'inner.sizes'", "size, share, kind"]),
    ('{"inner": {"size": "3"}}', ["inner.size", "'3'", "whole number"]),
    ('{"inner": {"size": 3.0}}', ["inner.size", "3.0", "whole number"]),
    ('{"inner": {"size": true}}', ["inner.size", "True", "whole number"]),
    ('{"inner": {"size": null}}', ["inner.size", "None", "whole number"]),
    ('{"inner": {"size": 0}}', ["inner.size = 0", "1 at least"]),
    ('{"inner": {"share": "much"}}', ["inner.share", "'much'", "finite number"]),
    ('{"inner": {"share": false}}', ["inner.share", "False", "finite number"]),
    ('{"inner": {"share": NaN}}', ["inner.share", "nan", "finite number"]),
    ('{"limit": Infinity}', ["limit", "inf", "finite number"]),
    ('{"limit": 1e999}', ["limit", "inf", "finite number"]),
    (f'{{"limit": 1{"0" * 400}}}', ["limit", "100000", "finite number"]),
    ('{"inner": {"kind": "c"}}', ["inner.kind", "'c'", "'a', 'b'"]),
    ('{"inner": {"kind": ["a"]}}', ["inner.kind", "['a']", "'a', 'b'"]),
    ('{"stride": 3}', ["stride", "3", "1, 2, 4"]),
    ('{"stride": 2.0}', ["stride", "2.0", "1, 2, 4"]),
    ('{"stride": true}', ["stride", "True", "1, 2, 4"]),
    ('{"inner": 5}', ["inner is 5", "an object"]),
    ('{"inner": null}', ["inner is None", "an object"]),
    ('{"sizes": 3}', ["sizes is 3", "a list"]),
    ('{"sizes": {"0": 3}}', ["sizes", "a list"]),
    ('{"sizes": [3, "x"]}', ["sizes", "'x'", "whole number"]),
    ('{"is_on": 1}', ["is_on is 1", "true or false"]),
    ('{"name": 7}', ["name is 7", "a text"]),
    ("[1, 2]", ["the file is [1, 2]", "an object"]),
    ("null", ["the file is None", "an object"]),
    ('"text"', ["the file is 'text'", "an object"]),
    (DEEP, ["the file is [[", "an object"]),
    (f'{{"name": {DEEP}}}', ["name is [[", "a text"]),
    (f'{{"stride": {DEEP}}}', ["stride is [[", "1, 2, 4"]),
    (f'{{"sizes": {DEEP}}}', ["sizes is [[", "whole number"]),
    (f'{{"inner": {DEEP}}}', ["inner is [[", "an object"]),
    (f'{{"name": [{"1," * 100_000}1]}}', ["name is [1, 1", "a text"]),
]


@pytest.mark.parametrize(("text", "told"), WRONG, ids=[text[:40] for text, _ in WRONG])
def test_what_is_wrong_is_named_with_its_file(text, told, tmp_path):
    path = written(tmp_path / "my settings.json", text)
    with pytest.raises(RequestError) as caught:
        read_config(path, Outer())
    message = str(caught.value)
    assert str(path) in message
    assert all(part in message for part in told), message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"{'name': 1}", "no JSON"),
        (b'{"name": "\xff"}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"limit": ' + b"1" * 5000 + b"}", "no JSON"),
    ],
)
def test_what_is_no_json(content, told, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=told) as caught:
        read_config(path, Outer())
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.json", tmp_path, Path("/dev/null/x")):
        with pytest.raises(RequestError, match="cannot be read") as caught:
            read_config(path, Outer())
        assert str(path) in str(caught.value)


def test_a_combination_that_cannot_be_names_the_file():
    with pytest.raises(RequestError, match=r"config\.json: windows of 30 s cannot overlap by 40 s"):
        from_plain(DiarizerConfig, {"overlap_seconds": 40}, "config.json")
    with pytest.raises(RequestError, match=r"config\.json: model\.weigher\.slots = 0; "):
        from_plain(DiarizerConfig, {"model": {"weigher": {"slots": 0}}}, "config.json")
