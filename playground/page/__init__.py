"""The local workspace's page: channel, threads, forms and files of the stand-in, in a browser on this machine."""

from playground.page.scene import Scene
from playground.page.server import Page

__all__ = ["Page", "Scene"]
