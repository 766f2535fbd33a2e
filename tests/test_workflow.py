"""The workflow for clusters, run by Snakemake on a study of seconds in a copy of the checkout."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import edit
from tiny import wait_for, written

pytest.importorskip("snakemake", reason="Snakemake is not installed: the extra `workflow` has it")

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 300

STUDY = "tiny.toml"
RUNS = 3 * 2 + 2 + 2 * (3 + 1)  # tuning, its pre-trainings; for each seed all arms, a pre-training

# The package, where a job has all runs: each takes a moment, and is done once.
STAND_IN = f"""
import os, pathlib, sys, time
command, study, *others = sys.argv[1:]
assert (command, others) == ("run", "--shard 1/1 --workers 1".split())
assert pathlib.Path(study).name == "{STUDY}" and pathlib.Path(study).is_file()
for number in range({RUNS}):
    path = pathlib.Path(os.environ["ECGNB_CACHE"], "runs", "ab", f"{{number}}.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        time.sleep(0.1)
        path.touch()
"""


class Checkout:
    """A copy of the checkout with a tiny study, and a `make` that only writes down its call."""

    def __init__(self, folder, cache):
        self.folder, self.cache, self.bin = folder, cache, folder / "bin"
        self.built = folder / "_build" / "html" / "index.html"
        for name in ("ecgnb", "workflow", "notebooks"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        self.bin.mkdir()
        self.program("make", 'mkdir -p _build/html; echo "$@" > _build/html/index.html')
        shutil.copy(ROOT / "tests" / STUDY, folder)
        self.configure(tuning=1, runs=2)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ECGNB_", "SNAKEMAKE"))}
        self.environment = kept | {"ECGNB_CACHE": str(cache), "TQDM_DISABLE": "1"}
        self.environment["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        self.environment["XDG_CACHE_HOME"] = str(folder / ".cache")

    def program(self, name, text):
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def configure(self, tuning, runs, **others):
        path = self.folder / "workflow" / "config.yaml"
        studies = {STUDY: {"tuning": tuning, "runs": runs, "record": False}}
        config = yaml.safe_load(path.read_text()) | {"studies": studies, "workers": 1, **others}
        path.write_text(yaml.safe_dump(config))

    def start(self, *arguments, profile="local", stdout=subprocess.DEVNULL, **options):
        command = [sys.executable, "-m", "snakemake", "--nocolor", *arguments]
        command += ["--profile", f"workflow/profiles/{profile}"]
        options |= {"cwd": self.folder, "env": self.environment, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, stdout=stdout, text=True, **options)

    def snakemake(self, *arguments, profile="local", status=0):
        process = self.start(*arguments, profile=profile, stdout=subprocess.PIPE)
        output = process.communicate(timeout=TIMEOUT_S)[0]
        assert process.returncode == status, output
        return output

    def finished(self):
        return written(self.cache)


@pytest.fixture
def checkout(tmp_path, cache):
    return Checkout(tmp_path / "checkout", cache)


@pytest.fixture
def one_job(checkout):
    """A checkout whose study is one job, of a stand-in for the package."""
    (checkout.folder / "ecgnb" / "__init__.py").write_text("")
    (checkout.folder / "ecgnb" / "__main__.py").write_text(STAND_IN)
    checkout.configure(tuning=0, runs=1, gpu=True)
    return checkout


def _jobs(output, *rules):
    return [sum(line.endswith(f"rule {rule}:") for line in output.splitlines()) for rule in rules]


def _most_at_once(output):
    """Count how many shards ran at the same time at most."""
    running = most = 0
    for line in output.splitlines():
        running += line.endswith("rule runs:")
        running -= line.startswith("Finished jobid") and "(Rule: runs)" in line
        most = max(most, running)
    return most


@pytest.mark.slow
def test_a_study_from_the_first_run_to_an_edited_package(checkout):
    output = checkout.snakemake("--cores", "2")
    assert _most_at_once(output) == 2
    first = checkout.finished()
    assert len(first) == RUNS
    assert checkout.built.read_text() == "-j2 book\n"

    assert "Nothing to be done" in checkout.snakemake("--cores", "2")

    # One more seed, and an edited package, for which no run is repeated; one GPU for two shards.
    edit(checkout.folder / STUDY, "seeds = 2", "seeds = 3")
    edit(checkout.folder / "ecgnb" / "cli.py", "\n", "\n# edited\n", 1)
    checkout.configure(tuning=1, runs=2, gpu=True)
    output = checkout.snakemake("--cores", "2", "--resources", "gpu=1")
    assert _most_at_once(output) == 1
    assert _jobs(output, "tuning", "runs", "book") == [1, 2, 1]
    more = checkout.finished()
    assert first.items() < more.items()
    assert len(more) == len(first) + 3 + 1


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(one_job):
    process = one_job.start("--cores", "1", "studies", start_new_session=True)
    wait_for(lambda: len(one_job.finished()) >= 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = one_job.finished()
    assert "--unlock" in one_job.snakemake("--cores", "1", "studies", status=1)
    one_job.snakemake("--unlock")
    one_job.snakemake("--cores", "1", "studies")
    assert before.items() < one_job.finished().items()
    assert len(one_job.finished()) == RUNS


# Stand-ins for Slurm's programs. A job is a process; its state is what its file says.
LISTED = """for file in "$SLURM_JOBS"/*.state; do
echo "$(basename "$file" .state)|$(cat "$file")"; done"""
SLURM = {
    "sinfo": 'echo "main*"',
    "scontrol": 'echo "MinJobAge = 300 sec"',
    "squeue": LISTED,
    "sacct": f'case "$*" in *Account*) echo none ;; *) {LISTED} ;; esac',
    "scancel": """
for id in "$@"; do
    kill -s KILL -- "-$(cat "$SLURM_JOBS/$id.process")"
    echo CANCELLED > "$SLURM_JOBS/$id.state"
done""",
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    "job": """
echo $$ > "$SLURM_JOBS/$1.process"
if sh -c "$2" > "$SLURM_JOBS/$1.log" 2>&1; then state=COMPLETED; else state=FAILED; fi
echo $state > "$SLURM_JOBS/$1.new"
mv "$SLURM_JOBS/$1.new" "$SLURM_JOBS/$1.state" """,
    "sbatch": """
id=$(ls "$SLURM_JOBS" | grep -c state); echo "$*" > "$SLURM_JOBS/$id.call"
for word in "$@"; do case "$word" in --wrap=*) job=${word#--wrap=} ;; esac; done
echo RUNNING > "$SLURM_JOBS/$id.state"
setsid job "$id" "$job" > /dev/null 2>&1 &
echo "$id" """,
}


@pytest.mark.slow
def test_slurm_profile_against_stand_ins(one_job):
    """Not yet tried on a real cluster: what is held is how jobs are sent, followed and cancelled.

    Snakemake is interrupted, and asks sacct before and squeue after that.
    """
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="the Slurm plugin is not there")
    jobs = one_job.folder / "jobs"
    jobs.mkdir()
    for name, text in SLURM.items():
        one_job.program(name, text)
    one_job.environment["SLURM_JOBS"] = str(jobs)
    soon = ("--slurm-init-seconds-before-status-checks", "1")
    asks = (*soon, "--slurm-status-command", "sacct")
    # Where the tests run in the background, programs begin with their ears closed to it.
    hears = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = one_job.start(*asks, profile="slurm", **hears)
    wait_for(lambda: len(one_job.finished()) >= 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) != 0
    assert (jobs / "0.state").read_text() == "CANCELLED\n"
    before = one_job.finished()
    assert len(before) < RUNS
    one_job.snakemake(*soon, "--slurm-status-command", "squeue", profile="slurm")
    calls = sorted(path.read_text() for path in jobs.glob("*.call"))
    assert len(calls) == 2  # the book is built here
    for call in calls:
        assert {"--gpus=1", "--cpus-per-task=1", "--mem", "-t", "-p"} <= set(call.split())
    assert before.items() < one_job.finished().items()
    assert len(one_job.finished()) == RUNS
    assert one_job.built.exists()


@pytest.mark.slow
def test_kubernetes_profile_against_a_stand_in(one_job):
    """Not yet tried on a real cluster: what is held is how jobs are submitted and followed.

    A pod is a process in an empty folder of its own.
    """
    pytest.importorskip("snakemake_executor_plugin_kubernetes", reason="its plugin is not there")
    # The plugin installs the storage plugin in each pod; and not every computer has rsync.
    one_job.program("pip", "exit 0")
    one_job.program("python", f'exec {sys.executable} "$@"')
    one_job.program("rsync", 'while [ $# -gt 2 ]; do shift; done; cp -r "$1" "$2"')
    # In a pod the package is installed from the checkout on the shared volume.
    environment = one_job.environment | {"PYTHONPATH": str(one_job.folder)}
    pods, started = {}, []

    class Kubernetes(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/jobs"):
                name = body["metadata"]["name"]
                started.extend(body["spec"]["template"]["spec"]["containers"])
                (folder := one_job.folder / "pods" / name).mkdir(parents=True)
                command = ["sh", *started[-1]["args"]]
                pods[name] = subprocess.Popen(command, cwd=folder, env=environment)
            self._answer(body, 201)

        def do_GET(self):
            name, what = self.path.split("/")[-2:]
            if what == "status":
                code = pods[name].poll()
                status = {} if code is None else {"failed" if code else "succeeded": 1}
                self._answer({"kind": "Job", "metadata": {"name": name}, "status": status})
            else:
                self._answer({"kind": "PodList", "metadata": {}, "items": []})

        def do_DELETE(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer({"kind": "Status", "status": "Success"})

        def _answer(self, value, status=200):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Kubernetes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        one = {"name": "one", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "one", "context": {"cluster": "one", "user": "one"}}
        config = {"clusters": [one], "contexts": [context], "current-context": "one"}
        config["users"] = [{"name": "one", "user": {}}]
        (path := one_job.folder / "kube.yaml").write_text(yaml.safe_dump(config))
        one_job.environment |= {"KUBECONFIG": str(path), "NO_PROXY": "127.0.0.1"}
        asked = ["--default-storage-prefix", str(one_job.folder), "--set-resources"]
        asked += ["runs:gpu_manufacturer=nvidia", "runs:scale=0"]
        asked += ["--seconds-between-status-checks", "1"]
        try:
            one_job.snakemake(*asked, profile="kubernetes")
        finally:
            server.shutdown()
            for pod in pods.values():
                pod.kill()
    (container,) = started  # the book is built where Snakemake runs
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "ecgnb", "mountPath": "/shared"} in container["volumeMounts"]
    assert len(one_job.finished()) == RUNS
    assert one_job.built.exists()


def test_a_study_is_recorded_when_all_its_shards_are_done_and_paths_may_have_spaces(checkout):
    (checkout.folder / STUDY).rename(checkout.folder / "my tiny.toml")
    studies = {
        "my tiny.toml": {"tuning": 0, "runs": 1, "record": False},
        "clinical": {"tuning": 4, "runs": 20, "record": True},
    }
    checkout.configure(tuning=0, runs=1, studies=studies)
    output = checkout.snakemake("-n", "-p", "studies")
    assert _jobs(output, "tuning", "runs", "record") == [4, 20 + 1, 1]
    assert " -m ecgnb run 'my tiny.toml' --shard 1/1" in output
    assert "shlex.quote(sys.executable)" in (ROOT / "workflow" / "Snakefile").read_text()
