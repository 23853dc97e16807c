"""Serve the SavedModel with FastAPI and the transforms of training.

Start it with `uvicorn fastapi_:app` and BUNDLE set.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI, Request
from nightbid.models.runtime import tensorflow
from nightbid.scorer.rows import parse
from nightbid.serving.bundle import Bundle, read_columns

tf = tensorflow()
FOLDER = Path(os.environ["BUNDLE"])
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
bundle = Bundle.load(FOLDER)
columns = read_columns(FOLDER)
model = tf.saved_model.load(str(FOLDER / "saved_model"))
serve = model.signatures["serving_default"]
unknown = [
    name
    for name, transform in bundle.fitted.transforms.items()
    if all(column.training_only for column in transform.inputs)
]
app = FastAPI()


@app.post("/score")
async def score(request: Request) -> dict[str, list[float]]:
    rows = parse(await request.body(), columns)
    feed = bundle.feed(bundle.fitted.transform(rows, without=unknown))
    outputs = serve(**{name: tf.constant(values) for name, values in feed.items()})
    return {"probabilities": outputs["probability"].numpy().tolist()}
