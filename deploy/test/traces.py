"""What became of one message's spans, asked of Jaeger's query API."""

import json
import time
import urllib.parse
import urllib.request

from load import through
from stack import Broken, ensure, until

# Longer than the exporter's interval, so that what belongs together has come.
QUIET_SECONDS = 7


class Span:
    def __init__(self, trace, span):
        self.trace_id, self.span_id, self.name = span["traceID"], span["spanID"], span["operationName"]
        self.service = trace["processes"][span["processID"]]["serviceName"]
        self.tags = {tag["key"]: tag["value"] for tag in span["tags"]}
        self.kind = self.tags.get("span.kind")
        self.failed = self.tags.get("error") is True and self.tags.get("otel.status_code") == "ERROR"
        self.warnings = span.get("warnings") or []
        self.parent, self.links = None, []
        for reference in span["references"]:
            # A parent of another trace would be a link as well.
            if reference["refType"] == "CHILD_OF" and reference["traceID"] == self.trace_id and self.parent is None:
                self.parent = reference["spanID"]
            else:
                self.links.append((reference["traceID"], reference["spanID"]))

    def links_to(self, other):
        return (other.trace_id, other.span_id) in self.links

    def __repr__(self):
        return f"{self.service}/{self.name}"


class Message:
    """One message's spans and those of all traces that they are linked with."""

    def __init__(self, spans):
        self.spans = spans
        self._by_id = {(span.trace_id, span.span_id): span for span in spans}

    def of(self, service, name, attempt=None):
        """The one span of that service and name; a name that ends with * begins so."""
        def fits(span):
            named = span.name.startswith(name[:-1]) if name.endswith("*") else span.name == name
            return span.service == service and named and attempt in (None, str(span.tags.get("godwit.attempt")))
        found = [span for span in self.spans if fits(span)]
        ensure(len(found) == 1, f"{service} {name} {attempt or ''}: {len(found)} spans among {self.spans}")
        return found[0]

    def linked(self, span):
        """The spans that it links to; each must be there."""
        missing = [link for link in span.links if link not in self._by_id]
        ensure(not missing, f"{span} links to spans that are not there: {missing}")
        return [self._by_id[link] for link in span.links]

    def parent(self, span):
        if span.parent is None:
            return None
        parent = self._by_id.get((span.trace_id, span.parent))
        ensure(parent, f"the parent of {span} is not there")
        return parent

    def shape(self):
        """(service, name, kind, parent, links) of each, without ids, numbers and times."""
        def name(span):
            return f"{span.service}/{span.name}" if span else "-"
        rows = set()
        for span in self.spans:
            links = ", ".join(sorted({name(linked) for linked in self.linked(span)}))
            rows.add(f"{name(span)} {span.kind} < {name(self.parent(span))} ~ {links or '-'}")
        return rows


class Jaeger:
    def __init__(self, stack):
        self._base = f"http://{stack.address('jaeger', 16686)}/api/traces"

    def _get(self, suffix):
        try:
            with urllib.request.urlopen(self._base + suffix, timeout=20) as answer:
                return [Span(trace, span) for trace in json.load(answer)["data"] for span in trace["spans"]]
        except OSError as error:
            raise Broken(f"{self._base}{suffix}: {error}") from error

    def search(self, service, tags, since):
        asked = {"service": service, "tags": json.dumps(tags), "start": int(since * 1e6), "limit": 200}
        asked["end"] = int((time.time() + 60) * 1e6)
        return self._get("?" + urllib.parse.urlencode(asked))

    def message(self, since):
        """The one message that was received since then, once it was tried twice."""
        received = [
            span for span in self.search("godwit-ingress", {"span.kind": "server"}, since) if span.name == "receive message"
        ]
        ensure(len(received) == 1, f"{len(received)} messages were received")
        tags = {"godwit.message.id": received[0].tags["godwit.message.id"]}
        own = {}
        for service in ("godwit-ingress", "godwit-queue", "godwit-egress"):
            own.update({(span.trace_id, span.span_id): span for span in self.search(service, tags, since)})
        attempts = [span for span in own.values() if span.name.startswith("process ")]
        ensure(len(attempts) == 2, f"{len(attempts)} attempts among {list(own.values())}")
        traces = {span.trace_id for span in own.values()} | {link[0] for span in own.values() for link in span.links}
        return Message([span for trace_id in sorted(traces) for span in self._get(f"/{trace_id}")])


def send_one(stack, to):
    """Sends a message whose first attempt is refused, and gives what Jaeger has of it."""
    since = time.time()
    through(stack, [to], "--messages", 1, "--connections", 1, "--refuse-every", 2).finish(60)
    jaeger, seen = Jaeger(stack), {}

    def settled():
        message = jaeger.message(since)
        shape = message.shape()
        if shape != seen.get("shape"):
            seen.update(shape=shape, at=time.monotonic())
        return message if time.monotonic() - seen["at"] > QUIET_SECONDS else None

    return until("the message's spans", 60, settled, every=1)[0]


def check(message):
    """What DESIGN says of a message's trace, and what Jaeger needs. The number of spans that were looked at."""
    warnings = {str(span): span.warnings for span in message.spans if span.warnings}
    ensure(not warnings, f"spans with faults: {warnings}")
    received, enqueue = message.of("godwit-ingress", "receive message"), message.of("godwit-ingress", "enqueue")
    store = message.of("godwit-queue", "store")
    first, second = (message.of("godwit-egress", "process *", attempt) for attempt in ("1", "2"))

    ids = {span.trace_id for span in (received, enqueue, store, first)}
    ensure(len(ids) == 1, f"ingress, queue and egress have {len(ids)} trace ids")
    kinds = [(received, "server"), (enqueue, "producer"), (first, "consumer"), (second, "consumer"), (store, "internal")]
    kinds += [(message.of("godwit-ingress", "enqueue batch"), "client"), (message.of("godwit-egress", "connect"), "client")]
    ensure(all(span.kind == kind for span, kind in kinds), f"kinds: {[(span, span.kind) for span, _ in kinds]}")
    for child, parent in ((enqueue, received), (store, enqueue), (first, enqueue)):
        ensure(message.parent(child) is parent, f"the parent of {child} is {message.parent(child)}, not {parent}")

    ensure(second.parent is None and second.trace_id not in ids, "a retry is no trace of its own")
    ensure(second.links_to(enqueue) and second.links_to(first), f"the retry links to {message.linked(second)}")
    ensure(first.failed and not second.failed, f"failed: first {first.failed}, second {second.failed}")

    for attempt in (first, second):
        linked = message.linked(attempt)
        for name, answer in (("lease", "godwit-queue/queue.lease"), ("acquire", "godwit-throttle/throttle.acquire")):
            batches = [span for span in linked if span.service == "godwit-egress" and span.name == name]
            ensure(batches and batches[0].links_to(attempt), f"{attempt} and its {name} are not linked both ways")
            children = [str(span) for span in message.spans if message.parent(span) is batches[0]]
            ensure(answer in children, f"{name} has no child {answer}: {children}")
    commit = next((span for span in message.linked(store) if span.name == "queue.commit"), None)
    ensure(commit and commit.links_to(enqueue), "store and commit are not linked both ways")
    return len(message.spans)
