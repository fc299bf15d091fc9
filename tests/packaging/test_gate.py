"""The public workflow and the gate run the same make targets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
WORKFLOW = REPOSITORY / ".github" / "workflows" / "ci.yml"
SCRIPTS = (REPOSITORY / ".ci" / "run", REPOSITORY / ".ci" / "cluster")
SET_UP = {"setup"}
"""A prerequisite of the other targets, which the gate runs first to time it."""


def make_targets(script: str) -> set[str]:
    """The targets of all `make` commands in a shell script."""
    code = re.sub(r"(^|\s)#.*", "", script).replace("\\\n", " ")
    return set(re.findall(r"(?<![\w/.-])make (?:--[\w-]+ )*([a-z][a-z-]*)", code))


def workflow_commands(job: str) -> str:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    return "\n".join(step["run"] for step in jobs[job]["steps"] if "run" in step)


def test_the_workflow_and_the_gate_run_the_same_targets():
    checks, cluster = (make_targets(workflow_commands(job)) for job in ("checks", "cluster"))
    gate, gate_cluster = (make_targets(script.read_text(encoding="utf-8")) for script in SCRIPTS)
    assert checks == gate - SET_UP
    assert cluster == gate_cluster


def test_every_target_exists():
    targets = {target for script in SCRIPTS for target in make_targets(script.read_text(encoding="utf-8"))}
    assert targets
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert targets <= set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))


def test_the_gate_contains_every_suite_of_make_test():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    [(first, second)] = re.findall(r"^test: (.*?)##.*\n\t@\$\(MAKE\) --[\w-]+ --[\w-]+ (.*)$", makefile, re.MULTILINE)
    assert {*first.split(), *second.split()} <= make_targets(SCRIPTS[0].read_text(encoding="utf-8"))


def test_the_scripts_are_valid_shell():
    for script in SCRIPTS:
        subprocess.run(["bash", "-n", script], check=True)
        assert script.stat().st_mode & 0o111
