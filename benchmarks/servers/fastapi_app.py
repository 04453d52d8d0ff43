"""FastAPI with pydantic in front of the pipeline or of the graph, and nothing else."""

import os
from typing import Any

import orjson
from fastapi import FastAPI, Response
from pydantic import RootModel, create_model

from benchmarks.servers.model import COLUMNS, Graph, Pipeline

numbers: dict[str, Any] = dict.fromkeys(COLUMNS["numbers"], (float | None, ...))
categories: dict[str, Any] = dict.fromkeys(COLUMNS["categories"], (str, ...))
Record = create_model("Record", **numbers, **categories)
Records = RootModel[list[Record]]

app = FastAPI(openapi_url=None)
score = {"pipeline": Pipeline, "graph": Graph}[os.environ["BENCH_SCORER"]]()


def answer(records: list[Any]) -> Response:
    return Response(
        orjson.dumps([{"score": p} for p in score([vars(r) for r in records])]), 200, None, "application/json"
    )


@app.post("/one")
async def one(record: Record) -> Response:
    return answer([record])


@app.post("/many")
async def many(records: Records) -> Response:
    return answer(records.root)
