"""kill -9 of one service after the other, under load, in `spread`."""

import json
import random
import threading
import time
import urllib.error
import urllib.request

from load import SINK, Bench, deliver, through, wait_for_progress
from stack import Broken, ensure, until

SERVICES = ["ingress", "queue", "egress", "tsa", "throttle", "proxy", "gateway"]
ROUNDS, ROUNDS_SHORT = 10, 1
UP_SECONDS_MAX = 3.0
# `egress.unsettled_per_connection_max`: with the connections open at a kill, it bounds what may come twice.
BATCH = 64
RATE = 50
# A lease ends after 60 s, and only then is a dead egress's mail free; the queue waits for word from it, too.
DRAIN_SECONDS_MAX = 300


def kill(stack, options):
    told = [one(stack, options, service) for service in options.services]
    return "\n      ".join(told)


def one(stack, options, service):
    """Rounds of kills of one service under load. What was promised comes; then a fresh message passes."""
    rounds = ROUNDS_SHORT if options.short else ROUNDS
    instants = random.Random(f"{options.seed} {service}")
    load = Injections(stack) if service == "gateway" else Mail(stack, options.seed)
    bound, downs = 0, []
    try:
        load.start()
        for _ in range(rounds):
            time.sleep(instants.uniform(0, UP_SECONDS_MAX))
            load.check()
            before = load.connections()
            stack.kill(service)
            ensure(stack.inspect(service)["State"]["ExitCode"] == 137, f"{service} was not killed")
            stack.start(service)
            downs.append(stack.wait_ready(service))
            bound += max(before, load.connections()) * BATCH
        figures = load.finish()
    finally:
        load.drop()
    ensure(figures["accepted"] > rounds, f"{service}: almost nothing was taken: no load, no proof")
    ensure(figures["duplicates"] <= bound, f"{service}: {figures['duplicates']} duplicates, more than {bound}")
    until("all containers healthy", 120, lambda: not stack.unhealthy())
    deliver(stack, ["ingress"], 20)
    return (
        f"{service}: {rounds} kills, up again in {max(downs):.1f} s at most; 250 for {figures['accepted']}, "
        f"{figures['lost']} lost, {figures['duplicates']} twice (bound {bound}), {figures['unknown']} without an answer; mail flows"
    )


class Mail:
    """SMTP at the ingress."""

    def __init__(self, stack, seed):
        self._stack, self._seed, self._run = stack, seed, None

    def start(self):
        more = ("--faults", "--until-eof", "--messages", 10_000_000, "--rate", RATE, "--connections", 20, "--size", 4000)
        self._run = through(self._stack, ["ingress"], *more, "--seed", self._seed, "--stall", DRAIN_SECONDS_MAX)
        wait_for_progress(self._run, "came", RATE)

    def check(self):
        self._run.check()

    def connections(self):
        return self._run.progress().get("connections_max", 0)

    def finish(self):
        self._run.end()
        figures = self._run.finish(2 * DRAIN_SECONDS_MAX)
        return {**figures, "accepted": figures["promised"]}

    def drop(self):
        if self._run:
            self._run.drop()


class Injections:
    """The HTTP API of the gateway, which takes no part in SMTP."""

    THREADS = 4

    def __init__(self, stack):
        self._stack = stack
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._accepted, self._unknown, self._number = set(), set(), 0
        self._threads, self._sink, self._base = [], None, None

    def start(self):
        self._sink = Bench(self._stack, "sink", "--listen", SINK, "--keep", "sums", "--list", "--until-eof")
        self._threads = [threading.Thread(target=self._inject, daemon=True) for _ in range(self.THREADS)]
        for thread in self._threads:
            thread.start()
        until("the first injections", 60, lambda: len(self._accepted) > self.THREADS)

    def _inject(self):
        while not self._stop.is_set():
            with self._lock:
                self._number += 1
                name = f"http-{self._number}"
            try:
                if self._post(name):
                    with self._lock:
                        self._accepted.add(name)
            except (OSError, ValueError, Broken):
                # Nobody there, or the connection broke: it may have been taken. Started again, its port is another one.
                with self._lock:
                    self._unknown.add(name)
                    self._base = None
                time.sleep(0.05)

    def _post(self, name):
        base = self._base = self._base or f"http://{self._stack.address('gateway', 8000)}"
        content = f"X-Bench-Id: {name}\r\nSubject: {name}\r\n\r\nbody\r\n"
        body = {"envelope_sender": "a@b.example", "recipients": [{"email": "r@d0.example"}], "content": content}
        request = urllib.request.Request(
            f"{base}/api/inject/v1",
            data=json.dumps(body).encode(),
            headers={"authorization": "Bearer lab", "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)["success_count"] == 1
        except urllib.error.HTTPError as error:
            ensure(error.code == 503, f"injection: {error.code} {error.read()}")
            return False

    def check(self):
        self._sink.check()

    def connections(self):
        # What egress has open is not what the gateway's death touches: nothing may come twice.
        return 0

    def finish(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        lost = lambda: self._accepted - self._came()  # noqa: E731
        try:
            until("all injections", DRAIN_SECONDS_MAX, lambda: not lost())
        except Broken:
            raise Broken(f"lost: {sorted(lost())[:5]} and {len(lost())} in all") from None
        self._sink.end()
        # Fails where anything came twice.
        self._sink.finish(60)
        foreign = self._came() - self._accepted - self._unknown
        ensure(not foreign, f"came and was refused: {foreign}")
        return {"accepted": len(self._accepted), "lost": 0, "duplicates": 0, "unknown": len(self._unknown)}

    def _came(self):
        return {line for line in self._sink.lines() if line.startswith("http-")}

    def drop(self):
        self._stop.set()
        if self._sink:
            self._sink.drop()
