"""The pipeline behind FastAPI, as one would write it without Triton; `uvicorn` starts the processes."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from dualpath.readability.reference import Reference

app = FastAPI()
reference = Reference(Path(os.environ["MODEL_REPOSITORY"]), int(os.environ["THREADS"]))
one_at_a_time = ThreadPoolExecutor(1)  # in the order in which they came, which FastAPI's own threads do not keep


class Asked(BaseModel):
    excerpt: str
    weight: float


@app.get("/health")
def health() -> str:
    return "ok"


@app.post("/score")
async def score(asked: Asked) -> float:
    row = [asked.excerpt.encode()], np.array([asked.weight], np.float32)
    scores = await asyncio.get_running_loop().run_in_executor(one_at_a_time, reference.score, *row)
    return float(scores[0])
