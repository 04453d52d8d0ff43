"What looking after the connections must leave alone."

import os
import subprocess
import sys
from pathlib import Path

from conftest import Deployment

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


SILENT = """
import asyncio
from prodml_nb.serve import service

service.LONGER = 0.2


async def forever(*_):
    await asyncio.Event().wait()


async def main():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    client, _ = await asyncio.open_connection(*server.sockets[0].getsockname())
    life = asyncio.ensure_future(service.Door(forever)({"type": "lifespan"}, None, None))
    print(await asyncio.wait_for(client.read(), 5))
    life.cancel()


asyncio.run(main())
"""


def test_a_connection_over_which_nothing_ever_came_is_ended_by_the_service(deployment: Deployment) -> None:
    deployment.release(1.0)
    env = os.environ | {"PRODML_STATE_ROOT": str(deployment.root), "PRODML_SERVE_OBSERVER": "off"}
    env["PRODML_SERVE_BODY_SECONDS"] = "0.3"
    done = subprocess.run([sys.executable, "-c", SILENT], env=env, capture_output=True, text=True)
    assert done.stdout == "b''\n", done.stderr


CROWDED = """
import asyncio, os, resource, subprocess, sys

from prodml_nb.serve.connections import look_after_connections

SILENT = "import socket, sys, time; c = [socket.create_connection(('127.0.0.1', int(sys.argv[1]))) for _ in range(60)]; time.sleep(20)"


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    look_after_connections(loop, 1.0)
    clients = subprocess.Popen([sys.executable, "-c", SILENT, str(server.sockets[0].getsockname()[1])])
    while len(os.listdir("/proc/self/fd")) < 65:
        await asyncio.sleep(0.02)
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        print("no file is left")
    await asyncio.sleep(3)
    print("again" if os.open(os.devnull, os.O_RDONLY) else "")
    clients.kill()


asyncio.run(main())
"""


def test_silent_connections_are_ended_when_no_file_is_left_to_look_for_them() -> None:
    done = subprocess.run([sys.executable, "-c", CROWDED], capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == ["no file is left", "again"], done.stderr
