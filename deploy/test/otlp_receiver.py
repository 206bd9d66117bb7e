#!/usr/bin/env python3
"""Receives OTLP traces over gRPC, decoded with OpenTelemetry's own definitions, and answers the part of Jaeger's HTTP
query API that the tests use. Everything stays in memory.

    otlp_receiver.py [--host 127.0.0.1] [--port 4317] [--query-port 16686]

Port 0 takes a free one; the ports taken are the first line of output, as JSON. Needs grpcio and opentelemetry-proto.

    /api/services                           names, sorted
    /api/traces?service=&operation=&tags={"k":"v"}&start=&limit=
    /api/traces/ID                          one trace
    /spans                                  every span as it came, with its faults; DELETE forgets them all
"""

import argparse
import json
import signal
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

# As the protocol numbers them (opentelemetry/proto/trace/v1/trace.proto).
KINDS = {0: "unspecified", 1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
STATUSES = {0: "UNSET", 1: "OK", 2: "ERROR"}
MESSAGE_BYTES_MAX = 16 << 20
TRACES_MAX_DEFAULT = 20
SPANS_MAX = 1_000_000


def value_of(value):
    """An AnyValue as plain data."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return getattr(value, kind)


def attributes_of(pairs):
    return {pair.key: value_of(pair.value) for pair in pairs}


def span_of(resource, scope, span):
    """A span as plain data, ids in hexadecimal."""
    return {
        "service": resource.get("service.name"),
        "resource": resource,
        "scope": scope.name,
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_span_id": span.parent_span_id.hex(),
        "trace_state": span.trace_state,
        "name": span.name,
        "kind": KINDS.get(span.kind, str(span.kind)),
        "start_ns": span.start_time_unix_nano,
        "end_ns": span.end_time_unix_nano,
        "attributes": attributes_of(span.attributes),
        "events": [
            {"name": event.name, "time_ns": event.time_unix_nano, "attributes": attributes_of(event.attributes)}
            for event in span.events
        ],
        "links": [{"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()} for link in span.links],
        "status": {"code": STATUSES.get(span.status.code, "?"), "message": span.status.message},
    }


def faults_of(span):
    """What keeps Jaeger, or whoever reads it, from showing the span as it should be."""
    faults = []
    if not span["service"]:
        faults.append("no service.name")
    for name, size in (("trace_id", 16), ("span_id", 8)):
        if not is_id(span[name], size):
            faults.append(f"{name} is not {size} bytes other than zero")
    if span["parent_span_id"] and not is_id(span["parent_span_id"], 8):
        faults.append("parent_span_id is not 8 bytes other than zero")
    if any(not is_id(link["trace_id"], 16) or not is_id(link["span_id"], 8) for link in span["links"]):
        faults.append("a link to no span")
    if not span["name"]:
        faults.append("no name")
    if span["kind"] not in KINDS.values() or span["kind"] == "unspecified":
        faults.append("no kind")
    return faults + ([] if 0 < span["start_ns"] <= span["end_ns"] else ["ends before it starts"])


def is_id(text, size):
    return len(text) == 2 * size and text.strip("0") != ""


class Store:
    """The spans, in the order in which they came."""

    def __init__(self):
        self._lock = threading.Lock()
        self._spans = []

    def add(self, spans):
        with self._lock:
            self._spans.extend(spans[: SPANS_MAX - len(self._spans)])

    def clear(self):
        with self._lock:
            self._spans.clear()

    def spans(self):
        with self._lock:
            return list(self._spans)

    def traces(self):
        traces = {}
        for span in self.spans():
            traces.setdefault(span["trace_id"], []).append(span)
        return traces


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, store):
        self._store = store

    def Export(self, request, context):  # noqa: N802, the contract's name
        spans = []
        for part in request.resource_spans:
            resource = attributes_of(part.resource.attributes)
            for scoped in part.scope_spans:
                spans.extend(span_of(resource, scoped.scope, span) for span in scoped.spans)
        for span in spans:
            span["faults"] = faults_of(span)
        self._store.add(spans)
        return trace_service_pb2.ExportTraceServiceResponse()


def tag(key, value):
    """A tag as Jaeger gives it."""
    for kind, name in ((bool, "bool"), (int, "int64"), (float, "float64")):
        if isinstance(value, kind):
            return {"key": key, "type": name, "value": value}
    return {"key": key, "type": "string", "value": value if isinstance(value, str) else json.dumps(value)}


def tags_of(span):
    tags = [tag(key, value) for key, value in span["attributes"].items()]
    if span["scope"]:
        tags.append(tag("otel.scope.name", span["scope"]))
    if span["kind"] != "unspecified":
        tags.append(tag("span.kind", span["kind"]))
    if span["status"]["code"] != "UNSET":
        tags.append(tag("otel.status_code", span["status"]["code"]))
        tags += [tag("error", True)] if span["status"]["code"] == "ERROR" else []
    if span["status"]["message"]:
        tags.append(tag("otel.status_description", span["status"]["message"]))
    return tags


def reference(kind, trace_id, span_id):
    return {"refType": kind, "traceID": trace_id, "spanID": span_id}


def references_of(span):
    parent = [reference("CHILD_OF", span["trace_id"], span["parent_span_id"])] if span["parent_span_id"] else []
    return parent + [reference("FOLLOWS_FROM", link["trace_id"], link["span_id"]) for link in span["links"]]


def log_of(event):
    fields = [tag("event", event["name"])] + [tag(key, value) for key, value in event["attributes"].items()]
    return {"timestamp": event["time_ns"] // 1000, "fields": fields}


def trace_of(trace_id, spans):
    """A trace as Jaeger gives it: times in microseconds, resources as processes."""
    processes, names, given = {}, {}, []
    for span in spans:
        key = json.dumps(span["resource"], sort_keys=True)
        if key not in names:
            names[key] = f"p{len(names) + 1}"
            tags = [tag(name, value) for name, value in span["resource"].items() if name != "service.name"]
            processes[names[key]] = {"serviceName": span["service"] or "", "tags": tags}
        given.append(
            {
                "traceID": trace_id,
                "spanID": span["span_id"],
                "operationName": span["name"],
                "references": references_of(span),
                "startTime": span["start_ns"] // 1000,
                "duration": (span["end_ns"] - span["start_ns"]) // 1000,
                "tags": tags_of(span),
                "logs": [log_of(event) for event in span["events"]],
                "processID": names[key],
                "warnings": span["faults"] or None,
            }
        )
    return {"traceID": trace_id, "spans": given, "processes": processes, "warnings": None}


def matches(span, service, operation, tags, start_us):
    known = {each["key"]: each["value"] for each in tags_of(span)}
    text = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in known.items()}
    return (
        span["service"] == service
        and span["start_ns"] >= start_us * 1000
        and (not operation or span["name"] == operation)
        and all(text.get(key) == str(value) for key, value in tags.items())
    )


class Query(BaseHTTPRequestHandler):
    store = None

    def do_GET(self):  # noqa: N802
        try:
            self.route(urlparse(self.path))
        except (ValueError, TypeError, AttributeError) as error:
            self.fail(400, str(error))

    def do_DELETE(self):  # noqa: N802
        if urlparse(self.path).path == "/spans":
            self.store.clear()
            return self.answer([])
        return self.fail(404, "no such page")

    def route(self, url):
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        asked = {key: values[-1] for key, values in parse_qs(url.query).items()}
        spans = self.store.spans()
        match parts:
            case [""]:
                self.answer([])
            case ["spans"]:
                self.send(200, spans)
            case ["api", "services"]:
                self.answer(sorted({span["service"] for span in spans if span["service"]}))
            case ["api", "traces"]:
                self.answer(self.search(asked))
            case ["api", "traces", trace_id]:
                found = self.store.traces().get(trace_id.lower().zfill(32))
                self.answer([trace_of(trace_id, found)]) if found else self.fail(404, "trace not found")
            case _:
                self.fail(404, "no such page")

    def search(self, asked):
        if not asked.get("service"):
            raise ValueError("parameter 'service' is required")
        wanted = (asked["service"], asked.get("operation"), json.loads(asked.get("tags", "{}")), int(asked.get("start", 0)))
        found = [item for item in self.store.traces().items() if any(matches(span, *wanted) for span in item[1])]
        return [trace_of(*item) for item in found[-int(asked.get("limit", TRACES_MAX_DEFAULT)) :]]

    def answer(self, data):
        self.send(200, {"data": data, "total": len(data), "limit": 0, "offset": 0, "errors": None})

    def fail(self, code, message):
        self.send(code, {"data": None, "total": 0, "limit": 0, "offset": 0, "errors": [{"code": code, "msg": message}]})

    def send(self, code, body):
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4317, help="OTLP over gRPC")
    parser.add_argument("--query-port", type=int, help="HTTP; default 16686, or a free one where --port is 0")
    asked = parser.parse_args()
    query_port = asked.query_port if asked.query_port is not None else (16686 if asked.port else 0)

    store = Store()
    limit = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    receiver = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=limit)
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Receiver(store), receiver)
    port = receiver.add_insecure_port(f"{asked.host}:{asked.port}")
    query = ThreadingHTTPServer((asked.host, query_port), type("BoundQuery", (Query,), {"store": store}))
    receiver.start()
    print(json.dumps({"otlp_port": port, "query_port": query.server_port}), flush=True)
    threading.Thread(target=query.serve_forever, daemon=True).start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    receiver.stop(grace=0)
    query.shutdown()


if __name__ == "__main__":
    # Blocked in every thread, so that they are waited for.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main())
