"""What a connection for each request costs, beside connections that are kept: milliseconds a request, side by side.

python -m tests.benchmarks.bench_connections [requests]; needs the program openssl for the rows with TLS. On this
machine there is no distance: over a network each new connection adds one round trip, and with TLS 1.3 a second one.
"""

import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import perf_counter

import httpx
import numpy as np

from workbench.inference.hosted_connections import one_connection_per_request

ANSWER = b'{"choices": [{"message": {"role": "assistant", "content": "merge_asof"}}]}'
ASKED = {"messages": [{"role": "user", "content": "How do I join two frames by their nearest key?" * 20}]}
LINE = "{:<8}{:>8}  {:<22}{:>8}{:>8}{:>12}\n"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_: object) -> None:
        """Keep the terminal for the table."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def serving(certificate: Path | None) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), _Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://localhost:{server.server_address[1]}/v1/chat/completions"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def measure(client: httpx.Client, url: str, requests: int, threads: int) -> tuple[float, float]:
    """p50 and p95 in milliseconds a request."""

    def ask(_: int) -> float:
        started = perf_counter()
        client.post(url, json=ASKED).raise_for_status()
        return 1000 * (perf_counter() - started)

    with client, ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, range(2 * threads)))
        took = list(pool.map(ask, range(requests)))
    return float(np.median(took)), float(np.quantile(took, 0.95))


def compare(name: str, url: str, verify: ssl.SSLContext | bool, requests: int) -> None:
    for threads in (1, 8):
        kept = measure(httpx.Client(verify=verify), url, requests, threads)
        each = measure(one_connection_per_request(httpx.Client(verify=verify)), url, requests, threads)
        sys.stdout.write(LINE.format(name, threads, "kept", f"{kept[0]:.2f}", f"{kept[1]:.2f}", ""))
        added = f"+{each[0] - kept[0]:.2f}"
        sys.stdout.write(LINE.format(name, threads, "one for each request", f"{each[0]:.2f}", f"{each[1]:.2f}", added))
        sys.stdout.flush()


def main(requests: int) -> None:
    sys.stdout.write(LINE.format("protocol", "threads", "connections", "p50 ms", "p95 ms", "p50 added"))
    with serving(None) as url:
        compare("http", url, True, requests)
    with tempfile.TemporaryDirectory() as folder:
        certificate = Path(folder) / "localhost.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
        command += ["-addext", "subjectAltName=DNS:localhost", "-out", str(certificate)]
        subprocess.run([*command, "-keyout", str(certificate.with_suffix(".key"))], check=True, capture_output=True)
        with serving(certificate) as url:
            compare("https", url, ssl.create_default_context(cafile=str(certificate)), requests)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
