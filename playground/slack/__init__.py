"""A local Slack: strict, in one process, for tests, for the demo and for the local web page."""

from playground.slack.model import Ack, Call, NotPossible
from playground.slack.render import render, render_thread
from playground.slack.server import SlackStandIn

__all__ = ["Ack", "Call", "NotPossible", "SlackStandIn", "render", "render_thread"]
