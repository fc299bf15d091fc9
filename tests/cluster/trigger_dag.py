"""Run a DAG of AIRFLOW__CORE__DAGS_FOLDER for each line of standard input: `python trigger_dag.py FILE FD`.

Each line is the trigger form of a run, as JSON. The states of its tasks are written as a line to the file descriptor.
"""

from __future__ import annotations

import json
import os
import sys

from airflow.dag_processing.dagbag import BundleDagBag


def main(file: str, descriptor: int) -> None:
    """Run the DAG for each line of standard input."""
    folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
    bag = BundleDagBag(dag_folder=f"{folder}/{file}", bundle_path=folder, bundle_name="dags-folder")
    assert not bag.import_errors, bag.import_errors
    (dag,) = bag.dags.values()
    with os.fdopen(descriptor, "w", buffering=1) as results:
        for line in sys.stdin:
            run = dag.test(run_conf=json.loads(line))
            states = {task.task_id: str(task.state) for task in run.get_task_instances()}
            print(json.dumps(states), file=results)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
