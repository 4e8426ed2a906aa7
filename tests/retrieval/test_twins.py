"""Arms that do the same on a corpus: the simpler one stays, it is said, and the run ends in a decision."""

from dataclasses import dataclass, replace

import pytest

from tests.evalset.small_evalset import write
from tests.retrieval.tiny import HYBRID, TEXT, judge, open_bench
from workbench.config import SystemClock
from workbench.evaluation.gate import Gate
from workbench.evaluation.run_record import close_run
from workbench.evaluation.run_summary import Summary
from workbench.retrieval.ask_arms import our_arm
from workbench.retrieval.notebook import RetrievalParameters
from workbench.retrieval.strategies import FullText
from workbench.runner import RunRecord, accept_decision

_GIVEN = RetrievalParameters()
DEFAULTS = {"chunkers": list(_GIVEN.chunkers), "strategies": list(_GIVEN.strategies), "reference": ""}
EXACT, CUT_TEXT, CUT_HYBRID = "whole · full_text_exact_words", "structure · full_text", "structure · hybrid_rrf"
TASKS = ("开启", "关闭", "修改", "删除")
SUBJECTS = ("深色模式", "双重验证", "账单提醒", "团队成员", "自动备份", "快捷回复", "导出记录", "登录密码", "默认语言",
            "消息通知", "访问权限", "数据同步", "个人资料", "试用套餐", "发票抬头")  # fmt: skip


def part_numbers() -> tuple[list[dict], list[dict]]:
    """A catalogue whose words nothing is stemmed of, and that holds no stop words."""
    documents = [
        {"_id": f"d{i}", "title": f"AX{i:04}", "text": f"valve AX{i:04} dn{20 + i} pn{10 + i % 7} brass"}
        for i in range(60)
    ]
    return documents, [{"_id": f"q{i}", "text": f"AX{i:04} brass"} for i in range(60)]


def chinese() -> tuple[list[dict], list[dict]]:
    """A script without spaces, in which an index of words finds next to nothing."""
    named = [f"{task}{subject}" for subject in SUBJECTS for task in TASKS]
    documents = [{"_id": f"d{i}", "title": f"如何{n}", "text": f"在设置里找到{n}即可。"} for i, n in enumerate(named)]
    return documents, [{"_id": f"q{i}", "text": f"请问如何{n}"} for i, n in enumerate(named)]


def bench_on(root, made, **given):
    """Experiment with the default arms over a folder as practitioners bring it: one split, one document a question."""
    documents, queries = made()
    qrels = [f"q{i}\td{i}\t1" for i in range(len(queries))]
    write(root / "evalsets" / "tiny", documents=documents, queries=queries, test=qrels)
    return open_bench(root, **{**DEFAULTS, **given})


def check_told(bench, arms, twins):
    """Run to the end; each twin is left out of the arms and named in the table of arms and in the report."""
    dev, _, _, decision = judge(bench, arms)
    assert not set(dev.answers) & set(twins)
    told = {f"{n} is left out: what makes it differ from {t} has no effect on this corpus" for n, t in twins.items()}
    assert told <= set(bench.left_out)
    caption = bench.arms_table(arms).caption
    summary = Summary.load(bench.folder / "summary.json")
    shown = " ".join([*summary.warnings, *(section.note for section in summary.sections)])
    assert all(said in caption and f"{said}." in shown for said in told)
    return decision


def test_a_corpus_that_no_chunker_splits_is_judged_by_its_simpler_arms(tmp_path):
    bench = open_bench(tmp_path, **DEFAULTS)
    arms = bench.prepare()
    too_small, words = "vector_ivf_pq", "full_text_exact_words"  # in which nothing is stemmed either
    twins = {f"structure · {s}": f"whole · {s}" for s in DEFAULTS["strategies"] if s not in (too_small, words)}
    decision = check_told(bench, arms, twins | {EXACT: TEXT, f"structure · {words}": TEXT})
    assert {a.name.partition(" · ")[0] for a in map(our_arm, arms)} == {"whole"}
    assert decision.verdict in ("chosen", "keep_reference")


@pytest.mark.parametrize("made", [part_numbers, chinese])
def test_a_corpus_on_which_two_default_arms_agree_is_judged_without_the_second(tmp_path, made):
    bench = bench_on(tmp_path, made)
    decision = check_told(bench, bench.prepare(), {EXACT: TEXT, CUT_TEXT: TEXT})
    assert decision.n_items == 46, "the questions of the test split"


def test_the_same_again_leaves_out_the_same(tmp_path):
    first, second = (bench_on(tmp_path, part_numbers) for _ in range(2))
    assert [repr(a) for a in first.prepare()] == [repr(a) for a in second.prepare()]
    assert first.left_out == second.left_out


def accepted(bench, dev, test, decision):
    """Accept the decision as its runner would have left it."""
    bench.gate(decision, test, dev)
    close_run(RunRecord(bench.folder, "running", "retrieval", "ci"), SystemClock(), status="done", gate="stale")
    accept_decision(bench.settings, "retrieval", reason="first of its kind", clock=SystemClock())


def test_an_arm_that_is_accepted_or_named_is_not_left_out_and_is_judged_again_by_its_name(tmp_path):
    given = {"chunkers": ["whole", "structure"], "reference": CUT_HYBRID}
    bench = open_bench(tmp_path, **given)
    arms = bench.prepare()
    assert [a.name for a in arms] == [TEXT, "whole · vector", HYBRID, CUT_HYBRID], (
        "the named one stays, beside its twin"
    )
    dev, finalists, test, decision = judge(bench, arms)
    assert finalists.rule.reference == CUT_HYBRID
    accepted(bench, dev, test, decision)

    again = open_bench(tmp_path, **given)
    dev, finalists, test, repeated = judge(again, again.prepare())
    again.gate(repeated, test, dev)
    assert finalists.names == decision.arms
    assert Gate.load(again.folder / "gate.json").status == "holds"

    other = open_bench(tmp_path, chunkers=["whole", "structure"], reference="", depth=50)  # no longer asked for
    assert set(decision.arms) <= {a.name for a in other.prepare()}


@dataclass(frozen=True)
class Backwards(FullText):
    """A full-text search that turns its hits round, for these questions alone."""

    texts: tuple[str, ...] = ()

    def search(self, handle, question, k):
        hits = super().search(handle, question, k)
        return hits[::-1] if question.text in self.texts else hits


def test_finalists_that_agree_on_the_test_questions_are_told_and_judged(tmp_path):
    bench = open_bench(tmp_path)
    one_dev_question = bench.evalset.split("dev").queries[0].text
    text, *others = bench.prepare()
    like = replace(text, name="like", strategy=Backwards(texts=(one_dev_question,)))
    dev = bench.score([text, like, *others], "dev")
    assert dev.notes == ()
    finalists = replace(bench.finalists(dev), roles=dict.fromkeys((HYBRID, TEXT, "like"), "named here"))
    test = bench.test(dev, finalists)
    said = f"{TEXT} and like returned the same hits for every test question by the same plan"
    assert [note.partition(":")[0] for note in test.notes] == [said]
    decision = bench.decide(test, finalists)
    assert decision.arm == TEXT, "of two that are as good and cost the same the simpler is chosen"
    assert any(w.startswith(said) for w in bench.save(decision, test, dev=dev).warnings)
