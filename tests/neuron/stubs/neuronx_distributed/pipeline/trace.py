"""Base classes for tracing a model into stages, which is not implemented."""

from __future__ import annotations


class NxDTracer:
    pass


class HFTracerWrapper(NxDTracer):
    pass


def trace_model(model, **kwargs):
    raise NotImplementedError("A pipeline is traced on a device only")
