"""BentoML's own API: dictionaries in, numbers out, the pipeline between."""

from typing import Any

import bentoml

from benchmarks.servers.model import Pipeline


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Dicts:
    def __init__(self) -> None:
        self.score = Pipeline()

    @bentoml.api
    async def predict(self, records: list[dict[str, Any]]) -> list[float]:
        return self.score(records)
