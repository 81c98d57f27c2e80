"""What Backout may do in a namespace: the server is asked for each verb, and what is missing is told as the rule to add."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from bot.cluster.api import Api, Resource
from bot.errors import Refusal

_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Right(NamedTuple):
    """`resource` may have a subresource: deployments/scale. `name` where one object is enough."""

    verb: str
    group: str
    resource: str
    name: str = ""


def rights(resource: Resource, *verbs: str, sub: str = "", name: str = "") -> list[Right]:
    return [Right(verb, resource.group, f"{resource.plural}/{sub}" if sub else resource.plural, name) for verb in verbs]


async def missing(api: Api, wanted: Iterable[Right]) -> tuple[Right, ...]:
    """Harmless: nothing is done, the server only says whether it would be allowed."""
    asked = list(dict.fromkeys(wanted))
    given = await asyncio.gather(*(_given(api, right) for right in asked))
    return tuple(right for right, may in zip(asked, given, strict=True) if not may)


async def _given(api: Api, right: Right) -> bool:
    resource, _, sub = right.resource.partition("/")
    attributes = {"namespace": api.namespace, "verb": right.verb, "group": right.group, "resource": resource, "subresource": sub, "name": right.name}
    body = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value or key == "group"}},
    }  # fmt: skip
    answer = await api.ask("POST", _REVIEW, body=body)
    return bool((answer.get("status") or {}).get("allowed"))


def refusal(lacking: Iterable[Right], namespace: str, *, warning: bool = False) -> Refusal:
    """Every missing verb on every resource, and the rule that gives it."""
    by_resource: dict[tuple[str, str], list[str]] = {}
    for right in lacking:
        verbs = by_resource.setdefault((right.group, right.resource), [])
        if right.verb not in verbs:
            verbs.append(right.verb)
    told = "; ".join(f"{' and '.join(verbs)} {resource}" for (_, resource), verbs in by_resource.items())
    return Refusal(
        "cluster_forbidden",
        f"Backout's account may not do all that it needs in the namespace {namespace}: {told}.",
        f"Add to its Role: {rules(by_resource)}",
        warning=warning,
    )


def rules(by_resource: dict[tuple[str, str], list[str]]) -> str:
    """YAML on one line, as it can be pasted into a Role."""
    each = [f'{{apiGroups: ["{group}"], resources: ["{resource}"], verbs: [{", ".join(verbs)}]}}' for (group, resource), verbs in by_resource.items()]
    return f"rules: [{', '.join(each)}]"
