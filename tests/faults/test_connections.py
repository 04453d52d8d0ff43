"What looking after the connections must leave alone."

import subprocess
import sys
from pathlib import Path

from prodml_nb.record.ledger import Ledger
from prodml_nb.serve.connections import end_silent, listening_ports


def test_the_ledger_is_followed_after_the_connections_were_looked_at(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    first = Ledger(url)
    first.append("run", model="late")
    first.close()
    ours = Ledger(url)  # as a service has it: open, and read again and again
    assert ours.head()[0] == 1
    end_silent(listening_ports(), seconds=15)
    writing = f"from prodml_nb.record.ledger import Ledger\nLedger({url!r}).append('run', model='late')"
    subprocess.run([sys.executable, "-c", writing], check=True)
    assert ours.head()[0] == 2
    ours.close()
