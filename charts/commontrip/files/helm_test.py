# ruff: noqa: INP001 - templates/tests/pods.yaml hands this to a Python that has only the standard library
"""What `helm test` runs in a pod: `request` or `breaker`."""

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

GATEWAY, AUTH, PODS = (os.environ[name] for name in ("GATEWAY", "AUTH", "PROFILE_PODS"))
TOKEN, KNOWN = os.environ.get("AUTH_TOKEN", ""), os.environ["KNOWN_USER"]
DEADLINE = time.monotonic() + float(os.environ["SECONDS"])


def say(*words: object) -> None:
    """Write a line to the pod's log."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def ask(url: str, method: str = "GET", body: object = None) -> tuple[int, Any]:
    """Return status and JSON, whatever the status is."""
    headers = {"content-type": "application/json"}
    if TOKEN and url.startswith(AUTH):
        headers["authorization"] = f"Bearer {TOKEN}"
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - an address of the chart's own
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def user() -> tuple[int, Any]:
    """Ask for the known user's profile as any client does."""
    return ask(f"{GATEWAY}/profile/{KNOWN}")


def fleet() -> dict[str, Any]:
    """Return what each profile pod says of the breaker, by address."""
    name, port = PODS.rsplit(":", 1)
    found = {entry[4][0] for entry in socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)}
    hosts = sorted(f"[{pod}]" if ":" in str(pod) else str(pod) for pod in found)
    return {host: ask(f"http://{host}:{port}/breakers/auth")[1] for host in hosts}


def agreed(state: str = "") -> tuple[int, str, str] | None:
    """Return how many pods there are, and the state and epoch that all are in; None if they differ, or in another."""
    pods = fleet()
    [(now, epoch), *others] = {(known["state"], known["epoch"]) for known in pods.values()}
    return None if others or state not in ("", now) else (len(pods), now, epoch)


def until(what: str, condition: Callable[[], Any]) -> None:
    """Ask again until it is so; who does not answer is asked again too."""
    began, found, trouble = time.monotonic(), None, ""
    while not found:
        if time.monotonic() > DEADLINE:
            sys.exit(f"not within the time: {what}; {trouble or fleet()}")
        try:
            found, trouble = condition(), ""
        except (OSError, ValueError, KeyError) as error:  # nobody there, no JSON, or a problem instead of an answer
            trouble = repr(error)
        time.sleep(0.02)
    say(f"{time.monotonic() - began:6.2f} s until {what}:", *found)


def under_requests(state: str) -> Callable[[], Any]:
    """Send a request each time, and look whether all pods are in the state."""

    def condition() -> Any:
        user()
        return agreed(state)

    return condition


def request() -> None:
    """A request goes through the gateway, and all profile pods agree."""
    status, answer = user()
    say(status, answer)
    if status != 200 or answer["user_id"] != KNOWN:  # noqa: PLR2004
        sys.exit("the gateway did not give the profile")
    until("all agree", agreed)


def breaker() -> None:
    """Auth is made to fail: all open as one, answer without it, and close as one when it is well."""
    until("all are closed", under_requests("CLOSED"))
    try:
        say(
            "fault:",
            *ask(f"{AUTH}/faults", "PUT", {"kind": "error", "expires_seconds": float(os.environ["FAULT_SECONDS"])}),
        )
        until("all have opened", under_requests("OPEN"))
        say("meanwhile:", *user())
    finally:
        say("fault:", *ask(f"{AUTH}/faults", "DELETE"))
    until("all have closed", under_requests("CLOSED"))


{"request": request, "breaker": breaker}[sys.argv[1]]()
