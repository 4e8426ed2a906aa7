"""Whether the model hub answers, asked before its own library would try for 23 s."""

import threading
import urllib.error
import urllib.request

PROBE_SECONDS = 4.0


def why_unreachable() -> str:
    """Say why the hub cannot be asked, and what to do; empty where it can, or where it at least answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set; unset it"
    outcome: list[str] = []
    probe = threading.Thread(target=_probe, args=(constants.ENDPOINT, outcome), daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)  # a name look-up has no time-out of its own
    reason = outcome[0] if outcome else f"no answer within {PROBE_SECONDS:g} s"
    return reason and f"{reason}; make it reachable"


def _probe(endpoint: str, outcome: list[str]) -> None:
    """Append "" when anything answers at the endpoint, else why not."""
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
        outcome.append("")
    except urllib.error.HTTPError:
        outcome.append("")
    except (OSError, ValueError) as error:
        outcome.append(str(error))
