"Settings files and variables that say something else than they seem to."

import subprocess
import sys
from pathlib import Path

import pytest

from prodml_nb.errors import SettingsError
from prodml_nb.settings import as_environment, load_settings

PRODML = "from prodml_nb.cli import main; main()"


@pytest.mark.parametrize(
    "content, named",
    [
        (b"[serve]\nhost = caf\xe9\n", "not UTF-8 text"),
        (b"[DEFAULT]\nport = 1\n", "DEFAULT"),
        (b"[serve]\nport = 1\nport = 2\n", "[serve] port stands twice, again in line 3"),
        (b"[serve]\n[train]\n[serve]\n", "[serve] stands twice, again in line 3"),
        (b"# ours\nport = 1\n", "line 2 stands before any section"),
        (b"[serve]\nport = 1\npassword\n", "line 3 is neither"),
        (b"[serve]\nport = many\n", "[serve] port must be a whole number (in "),
        (b"[serve]\ndurability = maybe\n", "must be one of: written, synced (in "),
        (b"[state]\nroot =\n", "[state] root"),
        (b"[state]\nledger = sqlite://\n", "[state] ledger"),
        (b"[state]\nledger = sqlite:///:memory:\n", "[state] ledger"),
        (b"[state]\nledger = sqlite+pysqlite:///?cache=shared\n", "[state] ledger"),
        (b"[state]\nledger = sqlite:///file:x?mode=memory&uri=true\n", "[state] ledger"),
        (b"[train]\nseed = -1\n", "[train] seed"),
        (b"[train]\nseed = 99999999999\n", "[train] seed"),
        (b"[serve]\nmax_body_mb = nan\n", "[serve] max_body_mb"),
        (b"[monitor]\npsi_alert = nan\n", "[monitor] psi_alert"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_name(tmp_path, content, named):
    file = tmp_path / "settings.ini"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        load_settings(file, env={})
    assert named in str(refused.value) and str(file) in str(refused.value)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("PRODML_SERVE_PORT", "many", r"\[serve\] port must be a whole number \(variable PRODML_SERVE_PORT\)"),
        ("PRODML_FOO", "1", r"\[foo\] is not a section .* \(variable PRODML_FOO\)"),
        ("PRODML_SERVE", "1", r"such as PRODML_SERVE_PORT \(variable PRODML_SERVE\)"),
        ("PRODML_SERVE_PROT", "1", r"did you mean 'port'\? \(variable PRODML_SERVE_PROT\)"),
    ],
)
def test_a_variable_that_is_wrong_is_named_even_where_the_file_is_right(tmp_path, variable, text, said):
    file = tmp_path / "settings.ini"
    file.write_text("[serve]\nport = 3001\n")
    with pytest.raises(SettingsError, match=said):
        load_settings(file, env={variable: text})


def test_a_file_that_an_editor_began_with_a_byte_order_mark_is_read(tmp_path):
    file = tmp_path / "settings.ini"
    file.write_bytes(b"\xef\xbb\xbf[serve]\nport = 3001\n")
    assert load_settings(file, env={}).serve.port == 3001


def test_a_log_of_less_than_one_event_is_wrong_usage(tmp_path):
    for last in ("0", "-1"):
        done = subprocess.run(
            [sys.executable, "-c", PRODML, "log", "--last", last],
            env={"PRODML_STATE_ROOT": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2 and "--last" in done.stderr


def test_paths_in_a_file_are_seen_from_its_folder(tmp_path, monkeypatch):
    (tmp_path / "project" / "deep" / "er").mkdir(parents=True)
    file = tmp_path / "project" / "settings.ini"
    file.write_text("[model]\nmodule = models/loan.py\n[state]\nroot = state\nledger = sqlite:///decisions.db\n")
    monkeypatch.chdir(tmp_path / "project" / "deep" / "er")
    found = load_settings(env={})
    assert (found.file, found.home) == (file, file.parent)
    assert found.model.module == str(file.parent / "models" / "loan.py")
    assert found.ledger_url == f"sqlite:///{file.parent / 'decisions.db'}"
    assert found.models_dir == file.parent / "state" / "models"
    assert load_settings(env=as_environment(found)) == found
    assert load_settings(env={"PRODML_STATE_ROOT": "here"}).models_dir == Path.cwd() / "here" / "models"
    file.write_text("[train]\nseed = 3\n")
    assert load_settings(env={}).models_dir == file.parent / ".prodml" / "models"


def test_the_search_for_a_file_ends_at_the_top_of_a_repository(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[train]\nseed = 3\n")
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    (tmp_path / "repository" / "nbs").mkdir()
    monkeypatch.chdir(tmp_path / "repository" / "nbs")
    assert load_settings(env={}).file is None
    (tmp_path / "repository" / "settings.ini").touch()
    assert load_settings(env={}).file == tmp_path / "repository" / "settings.ini"


def test_a_file_of_another_program_is_named(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[uwsgi]\nhttp = 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=str(tmp_path / "settings.ini")):
        load_settings(env={})


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("PRODML_MONITOR_PSI_ALERT", "inf", "psi_alert must be finite"),
        ("PRODML_MONITOR_QUALITY_MARGIN", "1e999", "quality_margin must be finite"),
        ("PRODML_MONITOR_QUALITY_MARGIN", "nan", "quality_margin must be finite"),
        ("PRODML_SERVE", "1", r"PRODML_SECTION_KEY, such as PRODML_SERVE_PORT \(variable PRODML_SERVE\)"),
        ("PRODML_SERVE_HOST", "", "host must be an address"),
        ("PRODML_SERVE_HOST", "not a host", "host must be an address"),
        ("PRODML_SERVE_HOST", "127.0.0.1:3000", "host must be an address"),
    ],
)
def test_a_value_that_would_mean_nothing_is_refused(variable, text, said):
    with pytest.raises(SettingsError, match=said):
        load_settings(env={variable: text})


def test_addresses_and_names_are_hosts():
    for host in ("0.0.0.0", "::", "::1", "localhost", "my-machine.example.org"):
        assert load_settings(env={"PRODML_SERVE_HOST": host}).serve.host == host
