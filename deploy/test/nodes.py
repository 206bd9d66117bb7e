"""What two nodes owe each other: the same actions at both TSAs, and limits that hold over both."""

import json
import tempfile
import time
from pathlib import Path

from load import deliver, through, wait_for_progress
from stack import Broken, command, ensure, until

NODES = ["mta-1", "mta-2"]
TSA = "godwit.tsa.v1.TsaService"
DOWN_SECONDS, DOWN_SECONDS_SHORT = 20, 5
# As shaping.toml has them, of one site over all nodes.
CONNECTIONS_MAX, MESSAGES_PER_SECOND_MAX = 20, 100
CUT_SECONDS, CUT_SECONDS_SHORT = 30, 10


class Api:
    """gRPC calls to a node from outside, with its authority's certificate and the token."""

    def __init__(self, stack, node):
        self._stack, self._node = stack, node
        self._folder = tempfile.TemporaryDirectory()
        self._ca = Path(self._folder.name) / "ca.pem"
        command("docker", "cp", f"{stack.id(node)}:/certs/ca.pem", str(self._ca))

    def call(self, method, **request):
        port = self._stack.address(self._node, 50051).rsplit(":", 1)[1]
        more = ("--cacert", str(self._ca), "-H", "authorization: Bearer lab", "--protocol", "grpc", "--emit-defaults")
        url = f"https://localhost:{port}/{TSA}/{method}"
        status, said = command("buf", "curl", *more, "-d", json.dumps(request), url, check=False, timeout=30)
        ensure(status == 0, f"{method} of {self._node}: {said}")
        return json.loads(said)

    def actions(self):
        """All in force, by id: what has to be equal."""
        actions, token = {}, ""
        while True:
            answer = self.call("List", page={"token": token})
            for action in answer["actions"]:
                fields = ("rule", "scope", "kind", "name", "value", "starts", "expires")
                actions[action["id"]] = {field: action[field] for field in fields}
            token = answer.get("nextToken", "")
            if not token:
                return actions

    def heard(self):
        """Up to where it holds each queue node's events."""
        nodes = self.call("Status")["nodes"]
        return sorted((each["node"]["value"], each["logId"], each["nextSeq"]) for each in nodes)


def actions(stack, options):
    """A TSA that was down under load holds the same actions as the other: ids, scopes, starts and expiries."""
    down = DOWN_SECONDS_SHORT if options.short else DOWN_SECONDS
    refuse = ("--refuse-every", 15, "--refuse-with", "451 4.7.28 Too much from you")
    more = ("--faults", "--until-eof", "--messages", 10_000_000, "--rate", 50, "--domains", 6, "--connections", 20)
    load = through(stack, NODES, *more, *refuse, "--seed", options.seed, "--stall", 240)
    try:
        wait_for_progress(load, "came", 150)
        stack.kill("mta-2")
        time.sleep(down)
        load.check()
        stack.start("mta-2")
        back = stack.wait_ready("mta-2")
        came = load.progress()["came"]
        wait_for_progress(load, "came", came + 150)
        load.end()
        figures = load.finish(600)
    finally:
        load.drop()
    first, second = (Api(stack, node) for node in NODES)
    # Both have heard everything from both, and nothing more comes.
    def heard():
        one, other = first.heard(), second.heard()
        return one if one == other and len(one) == 2 else None
    until("both TSAs have heard the same", 120, heard, every=1)
    one, other = first.actions(), second.actions()
    ensure(len(one) >= 6, f"only {len(one)} actions: no proof")
    differ = sorted(id for id in one.keys() | other.keys() if one.get(id) != other.get(id))
    ensure(not differ, "\n".join(f"{id}: {one.get(id)} and {other.get(id)}" for id in differ[:5]))
    sites = {action["scope"]["site"] for action in one.values()}
    return (
        f"{len(one)} actions over {len(sites)} sites, equal though mta-2 was killed and down for {down} s (back in {back:.1f} s); "
        f"{figures['promised']} promised, {figures['lost']} lost, {figures['duplicates']} twice"
    )


def roll(stack, options):
    """A rolling restart under load: SIGTERM, start, wait for ready, then the next. Nothing is lost, nothing comes twice."""
    more = ("--faults", "--until-eof", "--messages", 10_000_000, "--rate", 50, "--domains", 6, "--connections", 20)
    load = through(stack, NODES, *more, "--seed", options.seed, "--stall", 240)
    took = []
    try:
        wait_for_progress(load, "came", 100)
        for node in NODES:
            began = time.monotonic()
            stack.stop(node)
            code = stack.inspect(node)["State"]["ExitCode"]
            ensure(code == 0, f"{node}: ended with status {code} after SIGTERM")
            stack.start(node)
            stack.wait_ready(node)
            took.append(time.monotonic() - began)
            came = load.progress()["came"]
            wait_for_progress(load, "came", came + 50)
        load.end()
        figures = load.finish(600)
    finally:
        load.drop()
    ensure(figures["duplicates"] == 0, f"{figures['duplicates']} came twice in a rolling restart")
    return (
        f"each node stopped and ready again in {max(took):.1f} s at most; {figures['promised']} promised, "
        f"{figures['lost']} lost, {figures['duplicates']} twice"
    )


def limits(stack, options):
    """The limits of one site hold over both nodes, whatever becomes of Redis. A table of the highest counts."""
    cut = CUT_SECONDS_SHORT if options.short else CUT_SECONDS
    redis, node = stack.id("redis"), stack.id("mta-2")
    network = stack.network("limits")

    def cut_off():
        command("docker", "network", "disconnect", network, node)
        time.sleep(cut)
        command("docker", "network", "connect", network, node)

    def killed():
        stack.kill("redis")
        time.sleep(cut / 3)
        stack.start("redis")

    def flushed():
        for _ in range(3):
            command("docker", "exec", redis, "redis-cli", "FLUSHALL")
            time.sleep(cut / 6)

    phases = [
        ("Redis up", lambda: time.sleep(cut / 3)),
        (f"one node cut from Redis for {cut} s", cut_off),
        ("Redis killed and restarted", killed),
        ("FLUSHALL, three times", flushed),
    ]
    rows, broken = [f"{'to one site, over both nodes':38} {'connections':>12} {'messages/s':>11}"], []
    rows.append(f"{'limit':38} {CONNECTIONS_MAX:>12} {MESSAGES_PER_SECOND_MAX:>11}")
    for name, hurt in phases:
        figures = pressed(stack, options, hurt, cut)
        connections, rate = figures["connections_max"], figures["messages_per_second_max"]
        rows.append(f"{name:38} {connections:>12} {rate:>11}   (at {figures['messages_per_second_max_at']:.1f} s; {figures['hurt_at']})")
        if connections > CONNECTIONS_MAX or rate > MESSAGES_PER_SECOND_MAX:
            broken.append(name)
        stack.wait_ready("mta-2")
    table = "\n      ".join(rows)
    ensure(not broken, f"more than the limit with {', '.join(broken)}\n      {table}")
    return "held\n      " + table


def pressed(stack, options, hurt, seconds):
    """A backlog at both nodes for one site, whose sink takes its time; `hurt` happens while it is worked off."""
    messages = 75 * (2 * seconds + 10)
    # Each message takes the sink long enough that the connections are wanted, too.
    more = ("--messages", messages, "--size", 1000, "--connections", 40, "--message-ms", 100, "--seed", options.seed)
    load = through(stack, NODES, *more, "--stall", 120)
    try:
        wait_for_progress(load, "came", 3 * MESSAGES_PER_SECOND_MAX)
        began = load.progress()["seconds"]
        hurt()
        ended = load.progress()["seconds"]
        ensure(load.progress()["came"] < messages, "the backlog was gone before the end: no proof")
        figures = load.finish(600)
        return {**figures, "hurt_at": f"hurt from {began:.0f} to {ended:.0f} s"}
    finally:
        load.drop()
