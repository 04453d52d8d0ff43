"Settings files and variables that say something else than they seem to."

import subprocess
import sys

import pytest

from prodml_nb.errors import SettingsError
from prodml_nb.settings import load_settings

PRODML = "from prodml_nb.cli import main; main()"


@pytest.mark.parametrize(
    "content, named",
    [
        (b"[serve]\nhost = caf\xe9\n", "UnicodeDecodeError"),
        (b"[DEFAULT]\nport = 1\n", "DEFAULT"),
        (b"[serve]\nport = 1\nport = 2\n", "DuplicateOptionError"),
        (b"port = 1\n", "MissingSectionHeaderError"),
        (b"[state]\nroot =\n", "[state] root"),
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
    assert named in str(refused.value)


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
