"""The progress object, without a kernel (with one: tests/notebooks/test_zoo.py)."""

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from workbench.rendering.progress import MIME_TYPE, Progress


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
    assert bundle[MIME_TYPE] == {"label": "a < b", "done": 12, "total": 40, "sentence": ""}


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
