"""The progress object, without a kernel (with one: tests/notebooks/test_zoo.py)."""

import time

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from workbench.rendering.progress import MIME_TYPE, Progress, waiting


def test_silent_outside_of_ipython(capsys) -> None:
    bar = Progress("questions", 3)
    bar.update(1)
    bar.done("3 questions")
    assert capsys.readouterr() == ("", "")


def test_all_three_forms_say_the_same() -> None:
    bar = Progress("a < b", 40)
    bar.update(12)
    bundle = bar._repr_mimebundle_()
    assert bundle["text/plain"] == "a < b 12/40"
    assert bundle["text/html"] == '<label>a &lt; b 12/40 <progress max="40" value="12"></progress></label>'
    assert bundle[MIME_TYPE] == {"label": "a < b", "done": 12, "total": 40, "sentence": "", "told": "a < b 12/40"}


def test_what_stays_is_the_closing_sentence_without_a_bar() -> None:
    bar = Progress("fit", 1)
    bar.done("fit: learned on 40 prompts")
    assert bar._repr_mimebundle_()["text/html"] == "<label>fit: learned on 40 prompts</label>"


def test_a_bar_without_a_step_is_never_shown() -> None:
    InteractiveShell.instance()
    try:
        with capture_output() as shown:
            Progress("chunks", 1)
            Progress("questions", 4).update(1)
    finally:
        InteractiveShell.clear_instance()
    assert [output.data["text/plain"] for output in shown.outputs] == ["questions 1/4"]


class Moving:
    """A clock that is moved by hand."""

    s = 0.0

    def now(self):
        raise NotImplementedError

    def monotonic(self) -> float:
        return self.s

    def sleep(self, seconds: float) -> None:
        self.s += seconds


def test_work_that_cannot_tell_how_far_it_is_says_how_long_it_takes(capsys) -> None:
    clock, lines = Moving(), []
    with waiting("index of 9 rows", clock=clock):
        clock.s = 4.0
        time.sleep(1.2)  # two looks, at work that is not long yet
        assert capsys.readouterr().err == ""
        for clock.s in (12.0, 23.0):
            deadline = time.monotonic() + 10
            while not (told := capsys.readouterr().err) and time.monotonic() < deadline:
                time.sleep(0.05)
            lines.append(told)
    assert lines == ["index of 9 rows, 12 s so far\n", "index of 9 rows, 23 s so far\n"]


def test_work_of_no_known_length_has_a_bar_without_an_end_and_closes_with_its_time() -> None:
    clock = Moving()
    bar = Progress("index", 0, clock=clock)
    assert bar._repr_mimebundle_()["text/html"] == "<label>index <progress></progress></label>"
    InteractiveShell.instance()
    try:
        with capture_output() as shown:
            bar.finish()
            clock.sleep(9)
            bar.wait()
            bar.finish()
    finally:
        InteractiveShell.clear_instance()
    assert [output.data["text/plain"] for output in shown.outputs][-1] == "index, 9 s"
    assert len(shown.outputs) == 2


def test_long_work_says_its_rate_and_the_time_left() -> None:
    clock = Moving()
    bar = Progress("prompts embedded", 14_000, clock=clock)
    clock.sleep(4)
    bar.update(64)
    assert repr(bar) == "prompts embedded 64/14,000"
    clock.sleep(6)
    bar.update(200)
    assert repr(bar) == "prompts embedded 200/14,000, 20 a second, 11 min 30 s left"
    bar.update(14_000)
    assert repr(bar) == "prompts embedded 14,000/14,000"
    bar.done("14,000 prompts")
    assert repr(bar) == "14,000 prompts"


def test_where_nothing_can_be_drawn_there_is_a_line_every_ten_seconds(capsys) -> None:
    clock = Moving()
    bar = Progress("questions", 1_000, clock=clock)
    for done in range(1, 36):
        clock.sleep(1)
        bar.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"questions {n}/1,000, 1 a second, {left} left" for n, left in
                     ((10, "16 min 30 s"), (20, "16 min 20 s"), (30, "16 min 10 s"))]  # fmt: skip
