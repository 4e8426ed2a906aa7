"""The progress object, without a kernel (with one: tests/notebooks/test_zoo.py)."""

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
