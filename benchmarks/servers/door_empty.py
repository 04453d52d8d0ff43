"""Our own service with its configuration and its middleware, but nothing behind the door."""

from types import SimpleNamespace

from benchmarks.servers.empty import app
from prodml_nb.serve import service
from prodml_nb.serve.admission import Admission


class Nothing:
    "An endpoint that answers without looking."

    def __init__(self):
        self.router = SimpleNamespace(stop=lambda: None)
        self.recorder = SimpleNamespace(close=lambda: 0)
        self.meters = SimpleNamespace(gauge=lambda **_: None)
        self.admission, self.max_bytes, self.requests = Admission(), 4_000_000, 0

    async def __call__(self, scope, receive, send):
        await app(scope, receive, send)
        self.requests += 1

    def tick(self):
        "There is nothing to look after."


service.open_endpoint = lambda *_, **__: Nothing()
Prediction = service.Prediction
