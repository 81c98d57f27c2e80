"""A Kubernetes API server for tests: a second implementation that refuses what the real one refuses. See README.md beside it."""

from tests.cluster.server import Cluster, Fault

__all__ = ["Cluster", "Fault"]
