"""Killed at any moment and started again, a comparison has the same rows to the last bit."""

import json
import os

import pytest
from fresh import run_python

# Children are forked from a process that has loaded what a run loads (torch's optimizers bring
# dynamo) but computed nothing: a kill would else hit imports, seconds of them, and not the run.
# `fused` is called at every write that reaches the disk.
SCRIPT = """
import json, os, random, signal, sys, time
sys.path.insert(0, "tests")
import accelerate, safetensors.torch, torch, torch._dynamo
from study.toy import toy_config, toy_task
from whatwhere.study import open_directory, read_rows, run
torch.set_num_threads(1)
base, task = sys.stdin.read(), toy_task()
config = toy_config(
    encodings=("rope+yarn", "pope(delta_init=uniform)"), dropout=0.2, steps=4, valid_points=2
)

def child(out, seconds=None, calls=None):
    pid = os.fork()
    if pid == 0:
        if calls is not None:
            burn(calls)
        with open_directory(__import__("pathlib").Path(out), config, task) as directory:
            run(config, task, directory, checkpoint_seconds=0.0)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def burn(calls):
    left = [calls]
    def fused(real):
        def call(*arguments):
            left[0] -= 1
            if left[0] == 0:
                tear()
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        return call
    os.fsync, os.replace = fused(os.fsync), fused(os.replace)

def tear():
    # What a kill in the middle of a write leaves: half a line.
    rows = base + "/calls/rows.jsonl"
    if os.path.exists(rows):
        content = open(rows, "rb").read()
        start = content.rstrip(b"\\n").rfind(b"\\n") + 1
        if start < len(content) and random.random() < 0.5:
            open(rows, "wb").write(content[: (start + len(content)) // 2])

def timeless(out):
    rows = read_rows(__import__("pathlib").Path(out) / "rows.jsonl")
    kept = [{k: v for k, v in row.items() if "seconds" not in k and k != "commit"} for row in rows]
    return sorted(kept, key=json.dumps), open(out + "/curves.csv").read()

random.seed(int(os.environ.get("KILL_SEED", "0")))
began = time.monotonic()
assert child(base + "/whole") == 0
whole = time.monotonic() - began
kills = 0
most = lambda: (0.4 + 0.02 * kills) * whole  # a loaded machine gets further at last
while (code := child(base + "/times", seconds=random.uniform(0.02, most()))) != 0:
    assert code == -signal.SIGKILL and (kills := kills + 1) < 100
# Anew: how many numbers the loop above drew depends on the machine's load.
random.seed(int(os.environ.get("KILL_SEED", "3")))
torn = 0
while (code := child(base + "/calls", calls=random.randint(3, 16))) != 0:
    assert code == -signal.SIGKILL and (torn := torn + 1) < 100
wanted = timeless(base + "/whole")
same = [timeless(base + "/times") == wanted, timeless(base + "/calls") == wanted]
print(json.dumps({"kills": kills, "torn": torn, "same": same, "rows": len(wanted[0])}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again(tmp_path):
    found = json.loads(run_python(SCRIPT, given=str(tmp_path)).splitlines()[-1])
    assert found["same"] == [True, True]
    assert found["rows"] == 6
    assert found["kills"] >= 1
    assert found["torn"] >= 4
