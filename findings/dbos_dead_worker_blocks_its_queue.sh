#!/usr/bin/env bash
# dbos 3.4.0: a workflow whose process was killed stays PENDING for good when every process has an executor_id of its own,
# and on a queue with a concurrency limit everything behind it waits for good too, although another worker is there.
#
# A good guess says that any worker that listens to the queue takes over what a dead one left, as workers of other queues
# do after a time-out. It does not: a process recovers at launch what its own executor_id left, nobody watches others, and
# the dead one's workflow keeps its slot. With the default executor_id ("local" for all) the opposite goes wrong: a second
# process re-runs what the first is running. So whoever runs several processes without Conductor has to know which are
# dead, and ask for the recovery of exactly those.
#
# Seen: worker a is killed in the middle of the first of two workflows on a queue with global_concurrency=1. Worker b
# listens to the queue for 8 s: the first is PENDING in a's name, the second still ENQUEUED. After
# DBOS._recover_pending_workflows(["a"]) both are SUCCESS within seconds.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "dbos==3.4.0" "sqlalchemy==2.1.9"
cd "$work"
cat > worker.py <<'PY'
import os, signal, sys, time
from importlib.metadata import version
from dbos import DBOS, SetWorkflowID

name = sys.argv[1]
database = "sqlite:///" + os.path.abspath("runs.sqlite")
DBOS(config={"name": "finding", "system_database_url": database, "application_version": "1",
             "executor_id": name, "log_level": "CRITICAL"})

@DBOS.workflow()
def job(n):
    if name == "a":
        os.kill(os.getpid(), signal.SIGKILL)
    return n

def states():
    return [(w.workflow_id, w.status, w.executor_id) for w in DBOS.list_workflows()]

DBOS.launch()
DBOS.register_queue("one", global_concurrency=1, polling_interval_sec=0.2)
if name == "a":
    for n in ("first", "second"):
        with SetWorkflowID(n):
            DBOS.enqueue_workflow("one", job, n)
    time.sleep(30)
time.sleep(8)
print("dbos", version("dbos"), "after 8 s of worker b:", states())
assert [status for _, status, _ in states()] == ["PENDING", "ENQUEUED"], "a live worker takes over now"
DBOS._recover_pending_workflows(["a"])
time.sleep(5)
print("after recovery of a by name:", states())
assert [status for _, status, _ in states()] == ["SUCCESS", "SUCCESS"]
DBOS.destroy()
PY
"$work/venv/bin/python" worker.py a || true
"$work/venv/bin/python" worker.py b
