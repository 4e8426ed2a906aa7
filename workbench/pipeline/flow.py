"""The answer flow: find, retrieve, draft, check; then respond, try again, escalate, or refuse with the reason.

Steps are plain functions; every way that the flow can take stands in `answer`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.codec import to_plain
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evalset.evalset import Evalset, Split, load_evalset
from workbench.inference.client import Client
from workbench.inference.messages import PREFIX, CacheUse
from workbench.orchestration.flows import Flows
from workbench.orchestration.steps import FlowRun, StepCall, flow, outside
from workbench.orchestration.user_modules import files_of_module, import_module_of
from workbench.records import Document, Query, content_hash
from workbench.routing.prompts import Prompts, load_prompts
from workbench.routing.recorded_hits import Search, accepted_hits_search
from workbench.routing.recorded_outcomes import ANSWER, FIND
from workbench.telemetry.attribution import attributed

DRAFT_CHARACTERS = 600
NAMES_LOOKED_UP = 8
PROMPT_VERSION = "1"  # of what `Prompts.messages` writes around the question
# A name of the library as people write it: `name`, a.b, name(...) or snake_case.
_NAME = re.compile(r"`([^`\s]{2,80})`|\b([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)|\b([A-Za-z_]\w*)(?=\()|\b([a-z]+_\w+)\b")
_SENTENCE = re.compile(r"[.!?](?:\s|$)")
_CITED = re.compile(r"\[([A-Za-z_][\w.]*\.[\w.]+)\]")


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """A configuration of the flow.

    Attributes
    ----------
    evalset : str
        Whose corpus is searched, by the accepted retrieval decision, and whose ``prompts.toml`` is used.
    model, strong : str
        Models for the first drafts and for the last one; ``router/NAME`` asks a routing policy, and the model that it
        picks drafts again too. Without a strong one nothing is escalated.
    context, wide : str
        How much of what was retrieved a draft gets, at first and when it is tried again; names in ``prompts.toml``. A
        router that picks the first one itself gets it only where it names none.
    rewrite : bool or str
        Who makes a search query of a question that names nothing of the library: nobody (False), the drafting model
        (True), the named model, or ``module:function`` of your own, which gets the question and the tenant.
    check : bool
        Check drafts; else the first one is the answer.
    """

    evalset: str
    model: str
    strong: str = ""
    context: str = "top2"
    wide: str = "top5"
    rewrite: bool | str = False
    check: bool = True

    def to_plain(self) -> dict[str, Any]:
        """JSON values, as the flow takes them."""
        return asdict(self)


Rewriter = Callable[[str, str], str]


def is_function(name: str) -> bool:
    """Whether a name is ``module:function``, and not that of a model.

    >>> is_function("mine:rewritten"), is_function("local/smollm2-135m"), is_function("off")
    (True, False, False)
    """
    module, _, function = name.partition(":")
    return "/" not in name and all(part.isidentifier() for part in (*module.split("."), function))


def own_rewriter(name: str, root: Path) -> Rewriter:
    """Function of the project that makes a search query of a question, for a tenant.

    Raises
    ------
    ConfigError
        If it cannot be imported or called.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module_of(module, root), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"rewriter {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ConfigError(f"rewriter {name!r} cannot be called; it is {found!r}")
    rewriter: Rewriter = found
    return rewriter


def rewriter_files(name: str, root: Path) -> list[Path]:
    """Files of the project that a rewriter rests on."""
    return files_of_module(import_module_of(name.partition(":")[0], root), root)


class Library:
    """What steps read beside their arguments: documents, prompts and search of the evalsets of a project.

    Parameters
    ----------
    search : callable, optional
        Ids of documents for a `Query`, best first; by default what each evalset's accepted retrieval finds.
    """

    def __init__(self, settings: Settings, search: Search | None = None) -> None:
        self._settings, self._search = settings, search
        self._shelves = dict[str, Shelf]()

    def rewriter(self, name: str) -> Rewriter:
        """A project's own function that makes search queries."""
        return own_rewriter(name, self._settings.root)

    def of(self, evalset: str) -> "Shelf":
        """Documents, prompts and search of one evalset."""
        if evalset not in self._shelves:
            found = load_evalset(evalset, settings=self._settings)
            self._shelves[evalset] = Shelf(found, self._search or accepted_hits_search(found, self._settings))
        return self._shelves[evalset]

    def add(self, name: str, evalset: Evalset) -> "Shelf":
        """Keep an evalset that is loaded already, also one of another folder, by the name that plans have for it."""
        return self._shelves.setdefault(
            name, Shelf(evalset, self._search or accepted_hits_search(evalset, self._settings))
        )


class Shelf:
    """Documents, prompts and search of one evalset."""

    def __init__(self, evalset: Evalset, search: Search) -> None:
        self.evalset, self._search = evalset, search

    @cached_property
    def prompts(self) -> Prompts:
        """What its ``prompts.toml`` says."""
        return load_prompts(self.evalset)

    @cached_property
    def documents(self) -> Mapping[str, Document]:
        """Documents by id."""
        return {document.doc_id: document for document in self.evalset.documents}

    @cached_property
    def _by_last_name(self) -> Mapping[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for document in self.evalset.documents:
            for name in (document.doc_id, *document.aliases):
                found.setdefault((document.tenant_id, name.rpartition(".")[2]), []).append(document.doc_id)
        return found

    def search(self, query: str, tenant_id: str) -> list[str]:
        """Ids of the documents that the accepted retrieval finds, best first."""
        return self._search(Query("", query, tenant_id))

    def named(self, name: str, tenant_id: str) -> list[str]:
        """Ids of the tenant's documents that a name may mean: the whole name, or its end."""
        whole = [d for d in self._by_last_name.get((tenant_id, name.rpartition(".")[2]), []) if _means(name, d)]
        return sorted(dict.fromkeys(whole))[:5]


def _means(name: str, doc_id: str) -> bool:
    parts = name.split(".")
    if len(parts) == 1:
        return True
    return doc_id == name or doc_id.endswith("." + ".".join(parts[1:])) or doc_id.endswith("." + name)


def find(question: str, tenant_id: str, plan: Mapping[str, Any], *, library: Library, client: Client) -> str:
    """Search query for a vague question, written by a model or by a function of the project."""
    by = plan["model"] if plan["rewrite"] is True else plan["rewrite"]
    if is_function(by):
        return library.rewriter(by)(question, tenant_id).strip() or question
    prompts = library.of(plan["evalset"]).prompts
    messages = prompts.messages(FIND, "bare", tenant_id=tenant_id, question=question, documents=())
    done = client.complete(messages, model=by, max_tokens=prompts.features[FIND].max_tokens,
                           tenant_id=tenant_id, feature=FIND, question=question, **prompts.sampling)  # fmt: skip
    return done.text.strip() or question


@outside("retrieval")
def retrieve(query: str, tenant_id: str, evalset: str, *, library: Library) -> list[str]:
    """Ids of the documents that the accepted retrieval finds for the tenant, best first."""
    return library.of(evalset).search(query, tenant_id)


def draft(
    question: str, tenant_id: str, found: Sequence[str], plan: Mapping[str, Any], *, model: str, context: str,
    library: Library, client: Client,
) -> dict[str, Any]:  # fmt: skip
    """One answer of one model that is shown a part of what was found, with what it cost."""
    shelf = library.of(plan["evalset"])
    documents = [shelf.documents[doc_id] for doc_id in found]

    def messages(chosen: str) -> Any:
        return shelf.prompts.messages(
            ANSWER, chosen or context, tenant_id=tenant_id, question=question, documents=documents
        )

    done = client.complete(
        messages if model.startswith(PREFIX) else messages(""), model=model, question=question,
        max_tokens=shelf.prompts.features[ANSWER].max_tokens, tenant_id=tenant_id, feature=ANSWER,
        use=CacheUse("tenant", corpus_version=_version_of(documents), intent=question, prompt_version=PROMPT_VERSION,
                     sources=tuple(found)), **shelf.prompts.sampling,
    )  # fmt: skip
    configuration = done.route.configuration or context
    shown = list(found)[: shelf.prompts.contexts[configuration].documents]
    drafted = {
        "text": done.text.strip(), "finish": done.response.finish_reason, "model": done.route.model,
        "shown": shown, "source": done.source, "cost_nanos": done.cost_nanos, "usage": to_plain(done.usage),
    }  # fmt: skip
    return drafted | ({"context": configuration} if model.startswith(PREFIX) else {})  # what the router picked


def _version_of(documents: Sequence[Document]) -> str:
    return content_hash(*(document.content_hash for document in documents))[:12]


def names_in(text: str) -> list[str]:
    """Names of a library that a text writes, in their order, at most 8.

    >>> names_in("Use `df.merge` or pandas.merge_asof(left, right), not join().")
    ['df.merge', 'pandas.merge_asof', 'join']
    """
    found = (next(filter(None, match.groups())) for match in _NAME.finditer(text))
    bare = (name.partition("(")[0].strip(".,:;`") for name in found)
    return list(dict.fromkeys(name for name in bare if name))[:NAMES_LOOKED_UP]


@outside("execute_tool")
def look_up(names: Sequence[str], tenant_id: str, evalset: str, *, library: Library) -> dict[str, list[str]]:
    """Documents of the tenant that each name may mean."""
    return {name: library.of(evalset).named(name, tenant_id) for name in names}


def check(drafted: Mapping[str, Any], found: Sequence[str], known: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong with a draft; nothing where it may be shown.

    It must have a whole sentence and be short, name something that exists, and cite nothing that was not retrieved.

    >>> check({"text": "Use `merge`.", "finish": "stop"}, ["pandas.merge"], {"merge": ["pandas.merge"]})
    []
    >>> check({"text": "See [pandas.concat].", "finish": "stop"}, ["pandas.merge"], {})
    ['it names nothing that exists', 'it cites pandas.concat, which was not retrieved']
    """
    text, wrong = drafted["text"], []
    if not text:
        wrong.append("it is empty")
    if drafted["finish"] == "length" and not _SENTENCE.search(text):
        wrong.append("it was cut off in its first sentence")
    if len(text) > DRAFT_CHARACTERS:
        wrong.append(f"it has more than {DRAFT_CHARACTERS} characters")
    if not any(known.values()):
        wrong.append("it names nothing that exists")
    wrong += [f"it cites {cited}, which was not retrieved" for cited in dict.fromkeys(_CITED.findall(text))
              if cited not in found]  # fmt: skip
    return wrong


def is_vague(question: str) -> bool:
    """Whether a question names nothing as a library writes names.

    >>> is_vague("How do I glue two tables together?"), is_vague("What does merge_asof do?")
    (True, False)
    """
    return not names_in(question)


@flow(tools={"library": Library, "client": Client.open})
def answer(step: StepCall, question: str, *, tenant_id: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a tenant's question by its documents, or say why not.

    Returns
    -------
    dict
        ``status`` answered or refused, ``answer``, ``reasons`` why drafts were refused, ``documents``, ``model``,
        ``drafts`` made, ``cost_nanos``.
    """
    query = step(find, question, tenant_id, plan) if plan["rewrite"] and is_vague(question) else question
    found = step(retrieve, query, tenant_id, plan["evalset"])
    tries = [(plan["model"], plan["context"]), ("", plan["wide"]), (plan["strong"], plan["wide"])]
    asked, drafted, reasons, cost = set[tuple[str, str]](), dict[str, Any](), list[list[str]](), 0
    for model, context in tries if plan["strong"] else tries[:2]:  # draft; once more, wider; the stronger model
        model = model or drafted["model"]
        if (model, context) in asked:
            continue
        drafted = step(draft, question, tenant_id, found, plan, model=model, context=context)
        asked.add((drafted["model"], drafted.get("context", context)))
        cost += drafted["cost_nanos"]
        wrong = _wrong(step, drafted, found, tenant_id, plan) if plan["check"] else []
        if not wrong:
            return _ended("answered", drafted, reasons, cost)
        reasons.append(wrong)
    return _ended("refused", {"text": "", "model": "", "shown": []}, reasons, cost)


def _wrong(
    step: StepCall, drafted: Mapping[str, Any], found: Sequence[str], tenant_id: str, plan: Mapping[str, Any]
) -> list[str]:
    known = step(look_up, names_in(drafted["text"]), tenant_id, plan["evalset"])
    wrong: list[str] = step(check, drafted, found, known)
    return wrong


def _ended(status: str, drafted: Mapping[str, Any], reasons: list[list[str]], cost_nanos: int) -> dict[str, Any]:
    drafts = len(reasons) + (status == "answered")
    return {
        "status": status, "answer": drafted["text"], "reasons": reasons, "documents": drafted["shown"],
        "model": drafted["model"], "drafts": drafts, "cost_nanos": cost_nanos,
    }  # fmt: skip


def run_items(flows: Flows, part: Split, plan: AnswerPlan, *, key: str = "") -> dict[str, FlowRun]:
    """Run the answer flow for every question of a split, and return the runs by question.

    A question that was run before, by the same code and plan, is not run again.
    """
    runs = {}
    for query in part.queries:
        with attributed(tenant_id=query.tenant_id, item_id=query.query_id, purpose="eval"):
            given: dict[str, Any] = {"tenant_id": query.tenant_id, "plan": plan.to_plain()}
            run_id = flows.begin(answer, query.text, key=key, **given)
            flows.wait(run_id)
        runs[query.query_id] = flows.show(run_id)
    return runs
