"""Our own service with its configuration and its middleware, but nothing behind the door."""

from types import SimpleNamespace

from benchmarks.servers.empty import app
from prodml_nb.serve import service


class Nothing:
    "An endpoint that answers without looking."

    router = SimpleNamespace(stop=lambda: None)
    writer = SimpleNamespace(close=lambda: None)
    requests = 0

    async def __call__(self, scope, receive, send):
        await app(scope, receive, send)
        self.requests += 1


service.open_endpoint = lambda *_, **__: Nothing()
Prediction = service.Prediction
