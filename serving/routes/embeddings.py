"""POST /v1/embeddings: the appliance's own embedding model, in OpenAI's shape."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from serving.appliance import Appliance, appliance_of
from serving.protocol import RequestError

router = APIRouter(tags=["embeddings"])
Holder = Annotated[Appliance, Depends(appliance_of)]


class EmbeddingsBody(BaseModel):
    input: str | list[str] = Field(max_length=100_000)
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"


@router.post("/v1/embeddings")
async def embed(body: EmbeddingsBody, appliance: Holder) -> dict[str, Any]:
    """One vector of length one per text. Whatever `model` says, the answer names the one that embedded."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts or not all(texts):
        raise RequestError("input: give at least one text, and none that is empty.", param="input")
    vectors = await asyncio.to_thread(appliance.ready_library().embed, texts)
    words = sum(len(text.split()) for text in texts)
    return {
        "object": "list",
        "model": appliance.settings.rag.embedding_model,
        "data": [
            {"object": "embedding", "index": place, "embedding": _encoded(vector, body.encoding_format)}
            for place, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": words, "total_tokens": words},
    }


def _encoded(vector: np.ndarray[Any, np.dtype[np.float32]], form: str) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
