import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from weigher import __version__
from weigher.cli import main as cli
from weigher.errors import RequestError, WeigherError

HEAVY = "('torch', 'numpy', 'scipy', 'tyro', 'rich')"


def call(code, **kwargs):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **kwargs)


def fake_verb(monkeypatch, run):
    """Put a verb in the place of `doctor`, whose real options main still parses."""
    from weigher.cli import doctor

    module = SimpleNamespace(Options=doctor.Options, run=run)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)


@pytest.mark.parametrize("flag", ["--help", "-h", "--version"])
def test_help_and_version_import_nothing_heavy(flag):
    done = call(
        f"import sys; from weigher.cli.main import main; code = main([{flag!r}])\n"
        f"print([name for name in {HEAVY} if name in sys.modules], code)"
    )
    assert done.stderr == ""
    assert done.stdout.endswith("[] 0\n")


def test_python_dash_m_weigher_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "weigher", "score"], capture_output=True, text=True, check=False)
    assert done.returncode == cli.BAD_REQUEST
    printed = subprocess.check_output([sys.executable, "-m", "weigher", "--version"], text=True)
    assert printed == f"weigher {__version__}\n"


def test_help_has_one_line_for_each_verb(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for verb, summary in cli.VERBS.items():
        assert [line.split() for line in lines].count([verb, *summary.split()]) == 1
        assert max(map(len, lines)) <= 100


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"weigher {__version__}\n"


def test_unknown_verb_names_the_nearest_and_all_others(capsys):
    assert cli.main(["traim", "cast.csv"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "did you mean `weigher train`?" in shown.err
    assert all(verb in shown.err for verb in cli.VERBS)
    assert cli.main(["rename", "Ann", "Bob"]) == 2
    assert "did you mean `weigher people rename`?" in capsys.readouterr().err
    assert cli.main(["--colour"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_no_verb_is_a_wrong_request(capsys):
    assert cli.main([]) == 2
    assert "no verb was given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["cast.csv", "--out", ""], "--out"),
        (["cast.csv", "--out="], "--out"),
        (["cast.csv", "--out", "run", "--from", "", "--quiet"], "--from"),
        (["", "--out", "run"], "CAST"),
    ],
)
def test_an_empty_argument_is_a_wrong_request(given, what, capsys):
    assert cli.main(["train", *given]) == 2
    assert f"{what} is given nothing" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [*cli.VERBS, *(f"people {verb}" for verb in ("list", "merge", "export", "map"))])
def test_no_option_shows_that_its_default_is_none(verb, capsys):
    assert cli.main([*verb.split(), "--help"]) == 0
    assert "None" not in capsys.readouterr().out


def test_unknown_option_is_a_wrong_request(capsys):
    assert cli.main(["doctor", "--jsn"]) == 2
    shown = capsys.readouterr()
    assert "--jsn" in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_help_of_a_verb(capsys):
    assert cli.main(["doctor", "--help"]) == 0
    out = capsys.readouterr().out
    assert "weigher doctor" in out
    assert "--json" in out
    assert "--no-json" not in out


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RequestError("no such model"), 2, "weigher doctor: no such model\n"),
        (WeigherError("the loss is not finite"), 1, "weigher doctor: the loss is not finite\n"),
        (OSError(28, "No space left on device"), 1, "weigher doctor: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "weigher doctor: interrupted\n"),
        (ModuleNotFoundError("x", name="sklearn.cluster"), 2, "Python package sklearn.cluster"),
    ],
)
def test_failures_are_one_message_and_a_code(monkeypatch, capsys, error, code, text):
    def run(options):
        raise error

    fake_verb(monkeypatch, run)
    assert cli.main(["doctor"]) == code
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_a_warning_is_one_line_without_its_place_in_the_code(monkeypatch, capsys):
    def run(options):
        warnings.simplefilter("always")
        warnings.warn("a batch of 8 rows", stacklevel=1)
        return 0

    fake_verb(monkeypatch, run)
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().err == "warning: a batch of 8 rows\n"


@pytest.mark.parametrize("error", [ZeroDivisionError(), ModuleNotFoundError("x", name="weigher.lost")])
def test_a_fault_of_weigher_keeps_its_traceback(monkeypatch, error):
    def run(options):
        raise error

    fake_verb(monkeypatch, run)
    with pytest.raises(type(error)):
        cli.main(["doctor"])


def test_options_reach_the_verb_and_its_code_comes_back(monkeypatch):
    seen = []
    fake_verb(monkeypatch, lambda options: seen.append(options) or 7)
    assert cli.main(["doctor", "--json"]) == 7
    assert seen[0].json is True


@pytest.mark.parametrize("lines", [1, 100_000])  # one waits in the buffer for the last flush, many do not fit in it
def test_a_reader_that_leaves_is_no_fault(lines):
    writer = (
        "import sys, weigher.cli.main as cli\n"
        "from weigher.cli import doctor\n"
        "def run(options):\n"
        "    sys.stdin.read()\n"
        f"    for _ in range({lines}): print('a line of output')\n"
        "    return 0\n"
        "doctor.run = run\n"
        "sys.exit(cli.main(['doctor']))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", writer], stdin=pipe, stdout=pipe, stderr=pipe, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_the_installed_command_answers():
    done = call("from weigher.cli.main import main; import sys; sys.exit(main(['nonsense']))")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
