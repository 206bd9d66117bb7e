"""A stack of containers: brought up under a name of its own, looked into, hurt, and always taken down."""

import json
import os
import secrets
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPOSE = HERE.parent / "compose"
NAMES = ("single-node", "spread", "multi-node")
UP_SECONDS_MAX = 300
# Empty: Docker chooses a free one.
PORTS = {
    name: ""
    for name in (
        "GODWIT_SMTP_PORT GODWIT_HTTP_PORT GODWIT_GRPC_PORT GODWIT_SMTP_PORT_2 GODWIT_HTTP_PORT_2 GODWIT_GRPC_PORT_2 JAEGER_PORT"
    ).split()
}


class Broken(Exception):
    """A law does not hold, or something does not run."""


def ensure(holds, what):
    if not holds:
        raise Broken(what)


def command(*arguments, timeout=120, check=True, **more):
    """Runs a program; its output, both streams together."""
    ran = subprocess.run(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False, **more
    )
    if check and ran.returncode != 0:
        raise Broken(f"{' '.join(map(str, arguments))}: status {ran.returncode}\n{ran.stdout[-4000:]}")
    return ran.stdout if check else (ran.returncode, ran.stdout)


def until(what, seconds, done, every=0.2):
    """Waits until `done` gives something; a `Broken` from it only counts as "not yet". What it gave, and how long it took."""
    start, last = time.monotonic(), None
    while True:
        try:
            given = done()
            if given:
                return given, time.monotonic() - start
            last = given
        except Broken as broken:
            last = broken
        if time.monotonic() - start > seconds:
            raise Broken(f"{what}: not within {seconds} s; {last}")
        time.sleep(every)


def compose_program():
    """Compose v2 where Docker has it, else the older program."""
    status, _ = command("docker", "compose", "version", check=False)
    return ["docker", "compose"] if status == 0 else ["docker-compose"]


class Stack:
    def __init__(self, name):
        self.name = name
        self.project = f"godwit-{name}-{secrets.token_hex(3)}"
        files = [COMPOSE / name / "docker-compose.yml", HERE / f"{name}.yml"]
        self._compose = compose_program() + ["-p", self.project] + [f"-f{file}" for file in files]
        self._environment = {**os.environ, **PORTS}
        # Runs of godwit-bench, for their output.
        self.loads = []

    def compose(self, *arguments, timeout=UP_SECONDS_MAX):
        return command(*self._compose, *arguments, timeout=timeout, env=self._environment)

    def up(self):
        self.compose("up", "-d")
        until("all containers healthy", UP_SECONDS_MAX, lambda: not self.unhealthy())

    def down(self):
        self.compose("down", "-v", "--remove-orphans", "-t", "5")

    def services(self):
        return sorted(self.compose("config", "--services").split())

    def id(self, service):
        """The container of a service, running or not."""
        found = command(
            *("docker", "ps", "-aq", "--no-trunc", "--filter", f"label=com.docker.compose.project={self.project}"),
            *("--filter", f"label=com.docker.compose.service={service}"),
        ).split()
        ensure(len(found) == 1, f"{service}: {len(found)} containers")
        return found[0]

    def inspect(self, service):
        return json.loads(command("docker", "inspect", self.id(service)))[0]

    def unhealthy(self):
        """Which containers are not as they should be, and how they are. One that ends by itself must have ended well."""
        bad = {}
        for service in self.services():
            state = self.inspect(service)["State"]
            if service == "certs":
                fine = state["Status"] == "exited" and state["ExitCode"] == 0
            else:
                fine = state["Running"] and state.get("Health", {}).get("Status", "healthy") == "healthy"
            if not fine:
                bad[service] = state["Status"], state.get("Health", {}).get("Status")
        return bad

    def exec(self, service, *arguments, user=None, check=True, timeout=60):
        as_user = ("-u", user) if user else ()
        return command("docker", "exec", *as_user, self.id(service), *arguments, check=check, timeout=timeout)

    def address(self, service, port):
        """Where a port is published, as host:port."""
        return command("docker", "port", self.id(service), str(port)).split()[0]

    def stop(self, service, seconds=40):
        command("docker", "stop", "-t", str(seconds), self.id(service))

    def start(self, service):
        command("docker", "start", self.id(service))

    def kill(self, service):
        command("docker", "kill", "-s", "KILL", self.id(service))

    def is_ready(self, service, of=None):
        """What `godwit health` in a service's container says, of the whole process or one service of it."""
        status, said = self.exec(service, "godwit", "health", *(("--service", of) if of else ()), check=False)
        ensure(status in (0, 1), f"{service}: godwit health: status {status}, {said}")
        return status == 0

    def wait_ready(self, service, seconds=90):
        return until(f"{service} ready", seconds, lambda: self.is_ready(service))[1]

    def network(self, name):
        return f"{self.project}_{name}"

    def save_logs(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for service in self.services():
            try:
                container = self.id(service)
            except Broken:
                continue
            (folder / f"{service}.log").write_text(command("docker", "logs", "-t", container, check=False)[1])
            (folder / f"{service}.json").write_text(json.dumps(self.inspect(service)["State"], indent=1))
        for number, load in enumerate(self.loads):
            (folder / f"load-{number}.log").write_text("\n".join(load.lines()))
        print(f"  logs are in {folder}", flush=True)
