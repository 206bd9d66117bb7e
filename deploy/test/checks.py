"""The checks that every stack, or a single one, has to pass. Each gives a line of figures, or raises `Broken`."""

import urllib.error
import urllib.request
from pathlib import Path

import traces
from load import deliver
from stack import Stack, ensure, until

USER = "2000"
DELIVERED = 10_000
DELIVERED_SHORT = 1_000
# What is sent to.
INGRESSES = {"single-node": ["mta"], "spread": ["ingress"], "multi-node": ["mta-1", "mta-2"]}
# Who needs whom, as docs/operations.md has it, and who tells of it at HTTP, by what name. In `spread` the gateway needs the ingress,
# which is not ready either once any of these is gone.
NEEDED_BY = {
    "spread": {
        "redis": ["throttle", "queue", "egress"],
        "throttle": ["queue", "egress"],
        "tsa": ["queue", "egress"],
        "queue": ["ingress", "egress"],
        "ingress": ["gateway"],
    },
    "multi-node": {"redis": ["mta-1", "mta-2"]},
}
TOLD_BY = {"spread": ("gateway", "ingress"), "multi-node": ("mta-1", "throttle")}


def godwits(stack):
    """The services that run Godwit, and the command of each."""
    commands = {service: stack.inspect(service)["Config"]["Cmd"] for service in stack.services()}
    return {
        service: list(command)
        for service, command in commands.items()
        if command and (command[0].startswith("svc-") or command[:2] == ["godwit", "serve"])
    }


def config(stack, options):
    """Every key of every configuration is known and valid, with what the containers' environments add; and that is noticed."""
    checked = 0
    for service, command in godwits(stack).items():
        if command[0] == "godwit":
            command[1] = "check"
        else:
            command.append("--check")
        stack.exec(service, *command)
        status, said = stack.exec(service, *command, "--set", "telemetry.nonsense=1", check=False)
        ensure(status != 0 and "telemetry.nonsense" in said, f"{service}: an unknown key is not noticed: {said}")
        checked += 1
    return f"{checked} configurations valid"


def contained(stack, options):
    """Numeric user, no capability, no new privileges, a root that cannot be written; all healthy."""
    bad = stack.unhealthy()
    ensure(not bad, f"not healthy: {bad}")
    services = godwits(stack)
    for service in services:
        status = Path(f"/proc/{stack.inspect(service)['State']['Pid']}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in status if ":" in line)
        ensure(set(fields["Uid"].split()) == {USER} == set(fields["Gid"].split()), f"{service}: user {fields['Uid']}")
        ensure(int(fields["CapPrm"], 16) == 0 == int(fields["CapBnd"], 16), f"{service}: has capabilities")
        ensure(fields["NoNewPrivs"].strip() == "1", f"{service}: may get new privileges")
        # As root, so that it is not the user who keeps it from being written.
        code, said = stack.exec(service, "touch", "/opt/godwit/x", user="0", check=False)
        ensure(code != 0 and "Read-only file system" in said, f"{service}: its root can be written: {said}")
    return f"{len(services)} processes as {USER}:{USER}, without capabilities, roots read-only, all healthy"


def messages(stack, options):
    """All arrive, unchanged, none twice."""
    count = DELIVERED_SHORT if options.short else DELIVERED
    more = ("--seed", options.seed, "--domains", 6 if stack.name == "multi-node" else 1)
    figures = deliver(stack, INGRESSES[stack.name], count, *more)
    return "{promised} promised, {came} came, {lost} lost, {changed} changed, {duplicates} twice; {per_second:.0f}/s".format(**figures)


def http_ready(stack, service):
    """What /healthz/ready says: true, or the reason why not."""
    try:
        with urllib.request.urlopen(f"http://{stack.address(service, 8000)}/healthz/ready", timeout=10) as answer:
            return answer.status == 200 or answer.read().decode()
    except urllib.error.HTTPError as error:
        ensure(error.code == 503, f"/healthz/ready: {error.code}")
        return error.read().decode()


def ready(stack, options):
    """A dependency that stops turns its dependents' readiness, at gRPC and at HTTP; started, it turns it back."""
    teller, word = TOLD_BY[stack.name]
    told = []
    for dependency, dependents in NEEDED_BY[stack.name].items():
        stack.stop(dependency)
        took = [until(f"{each} not ready", 60, lambda e=each: not stack.is_ready(e))[1] for each in dependents]
        reason, _ = until(f"503 of {teller}", 60, lambda: (said := http_ready(stack, teller)) is not True and said)
        ensure(word in reason, f"without {dependency} {teller} says {reason}")
        stack.start(dependency)
        back = until("all containers healthy again", 90, lambda: not stack.unhealthy())[1]
        for each in dependents:
            stack.wait_ready(each)
        until(f"200 of {teller}", 60, lambda: http_ready(stack, teller) is True)
        told.append(f"{dependency} ({max(took):.1f} s, back {back:.1f} s)")
    return "turned by " + ", ".join(told)


def stops(stack, options):
    """SIGTERM ends every process with status 0 within its grace, and what was in the spool is there afterwards."""
    services = godwits(stack)
    for service in services:
        stack.stop(service)
        code = stack.inspect(service)["State"]["ExitCode"]
        ensure(code == 0, f"{service}: ended with status {code} after SIGTERM")
    for service in services:
        stack.start(service)
    until("all containers healthy again", 120, lambda: not stack.unhealthy())
    return f"{len(services)} processes ended with 0 and are healthy again"


def trace(stack, options):
    """A message's trace through three containers, and its shape beside that of one process."""
    spread = traces.send_one(stack, "ingress")
    spans = traces.check(spread)
    near = Stack("single-node")
    try:
        near.up()
        one = traces.send_one(near, "mta")
        traces.check(one)
    finally:
        near.down()
    here, there = spread.shape(), one.shape()
    ensure(here == there, f"only in spread: {sorted(here - there)}\nonly near: {sorted(there - here)}")
    return f"{spans} spans, one trace id, linked both ways; {len(here)} shapes as in one process"
