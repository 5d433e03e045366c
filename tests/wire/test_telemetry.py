"""Every line of a log says who speaks and where the run is, as text or as an object."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from wire.config import load
from wire.telemetry import Logs, log_to_stderr

log = logging.getLogger("some.module")


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    """The root logger is as it was, for the tests behind this one."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_text_names_role_id_and_clock(capsys: pytest.CaptureFixture[str]) -> None:
    logs = log_to_stderr("worker", "node1.gpu0")
    log.info("before %s", "there is a clock")
    logs.clock = lambda: 12
    log.warning("then")
    before, then = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\S+ \S+ INFO worker node1\.gpu0 some\.module: before there is a clock", before)
    assert then.endswith("WARNING worker node1.gpu0@12 some.module: then")


def test_told_words_forge_no_line_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("coordinator", "coordinator")
    log.warning("a worker left: %s", "so\n2026-01-01 ERROR coordinator:\t\x1b[2Jall is lost")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("WARNING coordinator some.module: a worker left: so")
    assert second == "    2026-01-01 ERROR coordinator:\t?[2Jall is lost"


def test_a_role_that_has_no_other_name_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("coordinator", "coordinator")
    log.info("here")
    assert "INFO coordinator some.module: here" in capsys.readouterr().err


def test_json_is_one_object_a_line_whatever_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    logs = log_to_stderr("ps", "ps-1", form="json")
    logs.clock = lambda: 7
    log.info('two\nlines, x̂ and "quotes"')
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it failed")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("t"))
    assert first == {
        "level": "info",
        "role": "ps",
        "id": "ps-1",
        "clock": 7,
        "logger": "some.module",
        "message": 'two\nlines, x̂ and "quotes"',
    }
    assert second["message"] == "it failed" and second["error"].endswith("ValueError: broken")


@pytest.mark.parametrize(("asked", "expected"), [(None, True), ("json", True), ("text", False)])
def test_what_the_process_was_asked_for_goes_before_the_run(
    asked: str | None, expected: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = Logs("ps", "ps-0", asked)  # type: ignore[arg-type]
    config = load(None, ["telemetry.log_format=json", "telemetry.log_level=warning"], {}).config
    logs.follow(config.telemetry)
    log.info("not loud enough")
    log.warning("here")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("{") is expected
