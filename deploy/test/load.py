"""Loads on a stack: `godwit-bench`, run in the stack's container `bench`, and its figures."""

import json
import subprocess
import threading
import time

from stack import Broken, ensure

SINK = "0.0.0.0:2525"


class Bench:
    """A run of godwit-bench under way. Ends with its standard input where it was told so."""

    def __init__(self, stack, *arguments):
        self._lines, self._progress = [], {}
        self._process = subprocess.Popen(
            ["docker", "exec", "-i", stack.id("bench"), "godwit-bench", *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        stack.loads.append(self)

    def _read(self):
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
            if line.startswith("{"):
                self._progress = json.loads(line)

    def progress(self):
        """The last figures that it gave."""
        return self._progress

    def lines(self):
        return list(self._lines)

    def check(self):
        ensure(self._process.poll() is None, "the load has ended early:\n" + self.tail())

    def tail(self):
        return "\n".join(self._lines[-6:])

    def end(self):
        """No more is sent; what was promised is waited for."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()

    def finish(self, seconds):
        """Waits for the end. The figures of the last line; `Broken` where the run says that its law is."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Broken(f"the load has not ended within {seconds} s:\n{self.tail()}") from None
        self._reader.join(10)
        ensure(status == 0, f"godwit-bench: status {status}\n{self.tail()}")
        return self._progress

    def drop(self):
        """Breaks off."""
        self._process.kill()
        self._process.wait()


def through(stack, to, *more):
    """A load to the listeners `to`, and the sink that the routes of the test lead to."""
    listeners = [argument for service in to for argument in ("--to", f"{service}:2525")]
    return Bench(stack, "through", *listeners, "--sink", SINK, "--progress", *more)


def deliver(stack, to, messages, *more, seconds=900):
    """So many messages; all come, unchanged, once."""
    return through(stack, to, "--messages", messages, "--stall", 120, *more).finish(seconds)


def wait_for_progress(load, name, least, seconds=60):
    """Until a figure is that large."""
    start = time.monotonic()
    while load.progress().get(name, 0) < least:
        load.check()
        ensure(time.monotonic() - start < seconds, f"load: {name} is not {least} within {seconds} s\n{load.tail()}")
        time.sleep(0.1)
