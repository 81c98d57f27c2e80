"""Which seats a run needs, and who may sit on them. Pure: severity, loss and the roles that a person holds now go in, a verdict comes out.

Deny by default: whoever holds nothing may do nothing, and a rule without seats approves nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from bot.errors import Denied, Refusal
from bot.evidence import LossClass, Noun
from bot.model import Need, Seat, Severity


class Rule(Noun):
    """What one severity asks for: seats by role, in order; how long an open seat waits; whether the requester may sit."""

    approve: dict[str, int]
    within: dt.timedelta
    self_approval: bool = False
    advice: str | None = None


def need(
    severity: Severity,
    loss_class: LossClass,
    rules: Mapping[Severity, Rule],
    loss: Mapping[LossClass, Mapping[str, int]],
    besides: Mapping[str, int] | None = None,
) -> Need:
    """The seat-wise maximum of what the severity, the loss class and `besides` ask for, in that order.

    Raises Refusal(no_policy_for_severity) when the severity has no rule or its rule has no seats.
    """
    rule = rules.get(severity)
    if rule is None or not any(count > 0 for count in rule.approve.values()):
        raise Refusal(
            "no_policy_for_severity",
            f"Nobody is named to approve a rollback of severity {severity}, so nobody can.",
            f"Add policy.{severity} to backout.yml, or ask again with another severity.",
        )
    for_loss = loss.get(loss_class, {})
    asked = (rule.approve, for_loss, besides or {})
    order = dict.fromkeys(role for each in asked for role in each)
    counts = {role: max(each.get(role, 0) for each in asked) for role in order}
    roles = tuple(role for role, count in counts.items() for _ in range(count))
    return Need(roles=roles, within=rule.within, self_approval=rule.self_approval, advice=rule.advice)


def open_seat(
    seats: Sequence[Seat],
    person: str,
    held: AbstractSet[str],
    *,
    requester: str,
    self_approval: bool,
    escalated: AbstractSet[str] = frozenset(),
    titles: Mapping[str, str] | None = None,
) -> str:
    """The role of the seat that this person's press fills.

    That is the first open seat whose role they hold; when there is none and they hold a rung of the ladder that was asked too,
    the first open seat. `held` are all roles that the person holds now, `escalated` the rungs that were asked, `titles` how people call them.
    Raises Denied with the sentence for that person.
    """
    if person == requester and not self_approval:
        raise Denied("You asked for this rollback, so somebody else has to approve it.")
    if any(seat.by == person for seat in seats):
        raise Denied("You have approved this rollback already. One person fills one seat.")
    waiting = [seat.role for seat in seats if seat.by is None]
    if not waiting:
        raise Denied("Nothing is left to approve: every seat of this rollback is filled.")
    own = [role for role in waiting if role in held]
    if own:
        return own[0]
    if held & escalated:
        return waiting[0]
    named = [(titles or {}).get(role, role) for role in waiting]
    raise Denied(f"This approval is for {_listed(named)}. You don't hold that role now.")


def may_decide(held: AbstractSet[str], roles: AbstractSet[str]) -> bool:
    """Retry, leave, escalate, and reject: whoever holds one of the run's roles, the requester included."""
    return bool(held & roles)


def _listed(roles: Sequence[str]) -> str:
    names = list(dict.fromkeys(roles))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
