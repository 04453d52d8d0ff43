"""BentoML as it comes, with an empty ASGI application mounted on it."""

import bentoml

from benchmarks.servers.empty import app


@bentoml.service(workers=1)
@bentoml.asgi_app(app, path="/app")
class Mounted:
    pass
