"""A question to a service that is asked again when no answer comes."""

from __future__ import annotations

import time
from typing import Any

from rclpy.node import Node
from rclpy.task import Future

ANSWER_SECONDS = 3.0  # an answer is lost when its sender ends, or does not know yet whom to send it to


class Question:
    """One request to one service, asked as often as somebody wants to know."""

    def __init__(self, node: Node, kind: type, service: str, request: Any) -> None:
        self._client = node.create_client(kind, service)
        self._request = request
        self._call: Future | None = None
        self._asked_at = 0.0
        self.answer: Any = None  # the newest response

    def ask(self) -> None:
        """Take in the answer that has come, and ask (again) unless one is awaited. Returns at once."""
        if self._call is not None:
            if self._call.done():
                self.answer, self._call = self._call.result(), None
            elif time.monotonic() - self._asked_at > ANSWER_SECONDS:
                self._client.remove_pending_request(self._call)
                self._call = None
        if self._call is None and self._client.service_is_ready():
            self._call, self._asked_at = self._client.call_async(self._request), time.monotonic()
