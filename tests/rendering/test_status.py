"""Every status has a sign and a tone of its own, and what is not known is never good."""

from typing import get_args

import pytest

from workbench.records import GateStatus, Verdict
from workbench.rendering.text import SIGNS, VERDICTS, signed, tone, verdict_label


@pytest.mark.parametrize("status", get_args(GateStatus))
def test_every_status_of_the_gate_has_a_sign(status):
    assert status in SIGNS
    assert signed(status).split()[0] != "\u00b7"


@pytest.mark.parametrize("status", ["new", "not tested", "too far below", "not compared"])
def test_what_is_no_alarm_and_no_success_is_neutral(status):
    assert tone(status) == "neutral"


@pytest.mark.parametrize(("status", "expected"), [("broken", "bad"), ("holds", "good"), ("cannot tell", "open")])
def test_tones(status, expected):
    assert tone(status) == expected
    assert tone("never heard of") == "open"


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_every_verdict_has_words(verdict):
    assert verdict in VERDICTS
    assert "_" not in verdict_label(verdict, "")
