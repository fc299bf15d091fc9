"""Trigger a DAG of AIRFLOW__CORE__DAGS_FOLDER again and again in one process: `python trigger.py FILE FD`.

Each line of standard input is the form of a run, as JSON; each line to the file descriptor says how its tasks ended.
"""

from __future__ import annotations

import json
import os
import sys

from airflow.dag_processing.dagbag import BundleDagBag


def main(file: str, descriptor: int) -> None:
    """Answer each line of standard input."""
    folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
    bag = BundleDagBag(dag_folder=f"{folder}/{file}", bundle_path=folder, bundle_name="dags-folder")
    assert not bag.import_errors, bag.import_errors
    (dag,) = bag.dags.values()
    with os.fdopen(descriptor, "w", buffering=1) as answers:
        for line in sys.stdin:
            run = dag.test(run_conf=json.loads(line))
            states = {task.task_id: str(task.state) for task in run.get_task_instances()}
            print(json.dumps(states), file=answers)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
