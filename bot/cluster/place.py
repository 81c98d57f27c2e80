"""Which cluster and which namespace, as backout.yml says it. Names go into paths and selectors, so only names that Kubernetes knows are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

IN_CLUSTER = "in-cluster"
#: a name that the API server takes for what we name: RFC 1123
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]


def _kubeconfig(value: str) -> str:
    if value != IN_CLUSTER and not Path(value).is_absolute():
        raise ValueError(f"must be {IN_CLUSTER}, or the absolute path of a kubeconfig")
    return value


class Place(BaseModel):
    """A namespace of a cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)
    namespace: Namespace = Field(description="the namespace; Backout asks for nothing outside it")
    kubeconfig: Annotated[str, AfterValidator(_kubeconfig)] = Field(IN_CLUSTER, description="in-cluster, or the absolute path of a kubeconfig")
    context: str | None = Field(None, description="a context of that kubeconfig; its current one where nothing is said")
