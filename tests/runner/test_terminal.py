"""Runs on a terminal and in a log."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.rendering.test_progress import Moving
from workbench.runner import Event, TerminalProgress

RUN = Path("runs/x")
EVENTS = [
    Event("start", "retrieval", RUN),
    Event("cell", "retrieval", RUN, 2, 9),
    Event("progress", "retrieval", RUN, 2, 9, {"label": "[questions]", "done": 3, "total": 40}),
    Event("progress", "retrieval", RUN, 2, 9, {"label": "q", "done": 40, "total": 40, "sentence": "40 done"}),
    Event("end", "retrieval", RUN, data={"status": "failed", "error": "no gate.json [in the folder]"}),
]


def shown(events: list[Event], *, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    with TerminalProgress(console) as progress:
        for event in events:
            progress(event)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_log_has_a_line_a_step_and_no_control_characters() -> None:
    assert shown(EVENTS, terminal=False).splitlines() == [
        "retrieval  started: runs/x",
        "retrieval  cell 2/9",
        "retrieval  40 done",
        "retrieval  failed: no gate.json [in the folder]",
    ]


def test_terminal_shows_cell_and_message() -> None:
    assert "retrieval" in shown(EVENTS[:3], terminal=True)
    assert "cell 2/9" in shown(EVENTS[:3], terminal=True)
    assert "[questions] 3/40" in shown(EVENTS[:3], terminal=True)
    assert "failed: no gate.json [in the folder]" in shown(EVENTS, terminal=True)


@pytest.mark.parametrize("terminal", [True, False])
def test_text_of_a_notebook_neither_steers_the_terminal_nor_begins_a_line(terminal: bool) -> None:
    hostile = "\u202egnp \x1b]0;title\x07\r\nretrieval  done"
    told = [
        Event("progress", "retrieval", RUN, 2, 9, {"label": hostile, "done": 1, "total": 1, "sentence": hostile}),
        Event("end", "retrieval", RUN, data={"status": "failed", "error": hostile}),
    ]
    for event in told:
        text = shown([*EVENTS[:2], event], terminal=terminal)
        assert "[U+202E]gnp ␛]0;title␇ retrieval  done" in text
        assert not [sign for sign in ("\u202e", "\x1b]", "\x07", "\nretrieval  done") if sign in text]


def test_a_log_has_a_line_every_ten_seconds_of_a_long_cell() -> None:
    clock, console = Moving(), Console(file=io.StringIO(), force_terminal=False, width=120, color_system=None)
    with TerminalProgress(console, clock=clock) as progress:
        progress(Event("cell", "routing", RUN, 1, 9))
        for done in range(1, 36):
            clock.sleep(1)
            told = f"prompts {done}/100, 1 a second"
            progress(
                Event("progress", "routing", RUN, 1, 9, {"label": "prompts", "done": done, "total": 100, "told": told})
            )
    lines = console.file.getvalue().splitlines()
    assert lines == ["routing  cell 1/9", *(f"routing  prompts {n}/100, 1 a second" for n in (10, 20, 30))]
