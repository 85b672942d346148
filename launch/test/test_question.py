"""A question to a service is asked again when its answer is lost."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: source scripts/env.sh")

from rclpy.task import Future

from dual_nav_bringup.question import ANSWER_SECONDS, Question


class Service:
    """A client, and the node that makes it, of a service that the test answers."""

    def __init__(self) -> None:
        self.there, self.calls = False, []

    def create_client(self, kind: type, name: str) -> "Service":
        return self

    def service_is_ready(self) -> bool:
        return self.there

    def call_async(self, request: str) -> Future:
        self.calls.append(Future())
        return self.calls[-1]

    def remove_pending_request(self, call: Future) -> None:
        self.calls.remove(call)


def test_a_question_waits_for_the_service_then_for_its_answer_and_is_asked_anew():
    service = Service()
    question = Question(service, object, "get", "?")
    question.ask()
    assert not service.calls
    service.there = True
    question.ask()
    question.ask()
    assert len(service.calls) == 1
    assert question.answer is None
    service.calls[0].set_result("yes")
    question.ask()
    assert question.answer == "yes"
    assert len(service.calls) == 2


def test_a_lost_answer_is_asked_for_again(monkeypatch):
    now = 100.0
    monkeypatch.setattr("dual_nav_bringup.question.time.monotonic", lambda: now)
    service = Service()
    service.there = True
    question = Question(service, object, "get", "?")
    question.ask()
    lost = service.calls[0]
    now += ANSWER_SECONDS + 0.1
    question.ask()
    assert len(service.calls) == 1
    assert lost not in service.calls
    service.calls[0].set_result("yes")
    question.ask()
    assert question.answer == "yes"
