"""`python -m apps.laptop up` and `python -m apps.laptop demo`: what make runs."""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from apps.laptop import demo, environment, up
from apps.laptop.children import Children, TroubleError
from apps.laptop.places import TOKEN, find_places
from apps.laptop.screen import Log, Screen, complain
from apps.shared.settings import SettingsError

_UP = f"""\
Redis, auth, three replicas of profile and the gateway, until Ctrl-C. Settings come from the environment, else from
.env, else they are the defaults of .env.template. The replicas take PROFILE_PORT, PROFILE_METRICS_PORT and the next
ones; GATEWAY_ROUTES and PROFILE_AUTH_URL follow the ports unless set to something else than their defaults. A Redis is
started where REDIS_URL says if that is this machine; one that is elsewhere is used. Always so: AUTH_FAULTS=true,
ACCESS_LOG=false without --logs. DRAIN_SECONDS is 0 unless set. If PROFILE_OVERRIDE_TOKEN is not set and the services
listen on loopback, the operators' token is "{TOKEN}".
"""
_DEMO = """\
The story of a breaker on processes and ports of its own, checked at auth's own counter; exit status 1 if a claim does
not hold. Of the settings only PROFILE_BREAKER_ENABLED is looked at: with false the story must fail.
"""
_INTERRUPTED = 130
_LOOK = 0.25  # seconds between two looks at whether make is still there


def main() -> int:
    """Return the exit status: 0 if all went well, 1 if not, 2 if the settings do not do, 130 for a demo cut short."""
    options = _options()
    try:
        asyncio.run(_run(options.command, verbose=options.command == "up" and options.logs))
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return 2
    except TroubleError as error:
        complain(f"{error}; everything is stopped")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 0 if options.command == "up" else _INTERRUPTED
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m apps.laptop", description=sys.modules["apps.laptop"].__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("up", description=_UP, formatter_class=argparse.RawDescriptionHelpFormatter)
    one.add_argument("--logs", action="store_true", help="show all that the services log, as it comes")
    commands.add_parser("demo", description=_DEMO, formatter_class=argparse.RawDescriptionHelpFormatter)
    return parser.parse_args()


async def _run(command: str, *, verbose: bool) -> None:
    screen = Screen()
    log = Log(screen, verbose=verbose)
    if command == "up":
        environment.take(Path(".env"))
    else:
        environment.replace(demo.settings())
    places = find_places(access_log=verbose)
    async with Children(log.tell, places.patience) as children:
        leaving = _end_with_make(screen, children)
        try:
            await (up if command == "up" else demo).run(children, places, screen)
        except TroubleError as error:
            log.close(error.child)
            raise
        finally:
            leaving.cancel()
    log.close()


def _end_with_make(screen: Screen, children: Children) -> "asyncio.Task[None]":
    """End in order at a signal, at a second one at once; and when make, who started this, is gone without one."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    signals = 0

    def leave() -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            children.kill()
        elif task:
            screen.show("\nstopping everything; once more kills it")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            loop.add_signal_handler(number, leave)

    async def watch() -> None:
        make = os.getppid()
        while os.getppid() == make or "MAKELEVEL" not in os.environ:  # noqa: ASYNC110 - nobody would set an event
            await asyncio.sleep(_LOOK)
        leave()

    return asyncio.create_task(watch())


if __name__ == "__main__":
    sys.exit(main())
