"""What the children log, made readable."""

import json

import pytest

from apps.laptop.screen import Log, Screen

Captured = pytest.CaptureFixture[str]


def _line(level: str, message: str, **more: str) -> str:
    return json.dumps({"level": level, "message": message, **more})


async def test_the_same_of_several_is_shown_once(capsys: Captured) -> None:
    """What three replicas say together is one line with their names; one replica's own stays its own."""
    log = Log(Screen())
    for name in ("profile-1", "profile-2", "profile-3"):
        log.tell(name, _line("warning", "auth answered 503"))
    log.tell("profile-2", _line("error", "lost"))
    log.close()
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["profile-1, profile-2, profile-3  warning  auth answered 503", "profile-2  error  lost"]


async def test_the_usual_is_not_shown(capsys: Captured) -> None:
    """Informations are not shown, nor are transitions, which have lines of their own; what is no JSON is."""
    log = Log(Screen())
    log.tell("auth", _line("info", "GET /stats 200"))
    log.tell("profile-1", _line("warning", "circuit auth: CLOSED -> OPEN", epoch="1"))
    log.tell("auth", "Segmentation fault [core dumped]")
    log.close()
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("auth  Segmentation fault [core dumped]")


async def test_after_an_end_only_its_own_words_count(capsys: Captured) -> None:
    """When a child has ended, what it said itself is shown, and not what comes of its end elsewhere."""
    log = Log(Screen())
    log.tell("redis", "out of memory")
    log.tell("profile-1", _line("warning", "the store is away"))
    log.close("redis")
    log.tell("profile-2", _line("warning", "the store is away"))
    log.close("redis")
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("redis  out of memory")


async def test_verbose_is_everything(capsys: Captured) -> None:
    """With --logs every line is shown as it came, with who wrote it."""
    log = Log(Screen(), verbose=True)
    log.tell("auth", _line("info", "GET /stats 200"))
    assert capsys.readouterr().out == 'auth  {"level": "info", "message": "GET /stats 200"}\n'
