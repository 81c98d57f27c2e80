"""What a step hands to services, without a journal behind it."""

from __future__ import annotations


class Job:
    """keeping.Work, as far as services use it."""

    def __init__(self, *, leaving: bool = False) -> None:
        self.leaving = leaving
        self.told: list[str] = []

    async def progress(self, text: str) -> None:
        self.told.append(text)
