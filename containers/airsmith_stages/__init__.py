"""The code that runs in task pods: one module per stage, each with `run(context) -> Output`."""

__version__ = "0.1.0"
