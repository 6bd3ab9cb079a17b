"""A policy that cannot work is refused before a box is made, with what to write instead."""

from __future__ import annotations

import builtins
import importlib.util
from typing import Any

import pytest

from boxflow.errors import ConfigurationError
from boxflow.ports import Egress
from boxflow_backends.egress_gate import check_policy
from boxflow_backends.egress_gate.addresses import is_public
from boxflow_backends.egress_gate.names import Destination, normalise_name
from boxflow_backends.egress_gate.policy import read_policy
from boxflow_backends.egress_gate.problems import Problem
from boxflow_backends.egress_gate.routing import route_absolute, route_inner

API = ["api.test"]

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"allow": []}, "allow is empty; name a host, or use network='none'"),
    ({"allow": "api.test"}, r"\['api.test'\]"),
    ({"allow": ["*"]}, "every host; use network='open'"),
    ({"allow": ["https://api.test"]}, "is a URL; write only the host name"),
    ({"allow": ["api.test/path"]}, "is a URL"),
    ({"allow": ["user@api.test"]}, "is a URL"),
    ({"allow": ["10.0.0.1"]}, "is an address"),
    ({"allow": ["10.0.0.1:80"]}, "is an address"),
    ({"allow": ["10.1"]}, "is an address"),
    ({"allow": ["0xa.0.0.1"]}, "is an address"),
    ({"allow": ["::1"]}, "is an address"),
    ({"allow": ["[::1]:443"]}, "is an address"),
    ({"allow": ["api.test:0"]}, "port is no number"),
    ({"allow": ["api.test:65536"]}, "port is no number"),
    ({"allow": ["api.test:https"]}, "port is no number"),
    ({"allow": [""]}, "no host name"),
    ({"allow": ["a..test"]}, "no host name"),
    ({"allow": ["a.*.test"]}, "no host name"),
    ({"allow": ["*api.test"]}, "no host name"),
    ({"allow": ["api test"]}, "no host name"),
    ({"allow": ["x" * 64 + ".test"]}, "no host name"),
    ({"allow": API, "headers": {"other.test": {"A": "b"}}}, "'other.test', which Egress.allow does not have"),
    ({"allow": API, "headers": {"*.api.test": {"A": "b"}}}, "does not have"),
    ({"allow": ["*.api.test"], "headers": {"api.test": {"A": "b"}}}, "does not have"),
    ({"allow": API, "headers": {"api.test:8443": {"A": "b"}}}, "does not have"),
    ({"allow": API, "headers": {"api.test": {"A b": "c"}}}, "no header name"),
    ({"allow": API, "headers": {"api.test": {"": "c"}}}, "no header name"),
    ({"allow": API, "headers": {"api.test": {"Host": "c"}}}, "which the gate sets itself; leave it out"),
    ({"allow": API, "headers": {"api.test": {"Content-Length": "1"}}}, "which the gate sets itself"),
    ({"allow": API, "headers": {"api.test": {"A": "b", "a": "c"}}}, "twice"),
    ({"allow": API, "headers": {"api.test": {"A": "b\r\nC: d"}}}, "header 'A' has a value that no header can carry"),
    ({"allow": API, "headers": {"api.test": {"A": ""}}}, "no header can carry"),
    ({"allow": API, "headers": {"api.test": {"A": "costs $ 5"}}}, "begins no variable"),
    ({"allow": API, "resolve": {"other.test": "10.0.0.1"}}, "does not have"),
    ({"allow": API, "resolve": {"api.test": "db.internal"}}, "write an address"),
    ({"allow": API, "resolve": {"api.test": "10.0.0.1:99999"}}, "write an address"),
    ({"allow": ["*.test"], "resolve": {"*.test": "10.0.0.1"}}, "no patterns"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_policy(Egress(**fields))


def test_a_refused_value_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_policy(Egress(allow=API, headers={"api.test": {"A": "sk-secret\n"}}))
    assert "sk-secret" not in str(caught.value)


def test_headers_without_the_package_for_certificates_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "boxflow_backends.egress_gate.policy.find_spec", lambda name: None if name == "cryptography" else real(name)
    )
    check_policy(Egress(allow=API))
    with pytest.raises(ConfigurationError, match=r"pip install 'boxflow\[egress\]'"):
        check_policy(Egress(allow=API, headers={"api.test": {"A": "b"}}))


def test_a_gate_without_headers_never_imports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_cryptography(name: str, *rest: Any) -> Any:
        assert not name.startswith("cryptography")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_cryptography)
    assert read_policy(Egress(allow=API)).variables() == []


SAME = [
    ("API.Test", "api.test"),
    ("api.test.", "api.test"),
    ("bücher.test", "xn--bcher-kva.test"),
    ("BÜCHER.test", "xn--bcher-kva.test"),
    ("xn--bcher-kva.test", "xn--bcher-kva.test"),
    ("faß.test", "xn--fa-hia.test"),
    ("api。test", "api.test"),
    ("ａｐｉ.test", "api.test"),
    ("a_b.test", "a_b.test"),
    ("１２７.0.0.1", None),
    ("1.2.3.4", None),
    ("1.2.3.0x4", None),
    ("api..test", None),
    ("-api.test", None),
    ("api.test..", None),
    ("api.test\0", None),
    ("api.test\n", None),
    ("a/b", None),
    ("", None),
    (".", None),
    (".".join(["a" * 60] * 5), None),
]


@pytest.mark.parametrize(("text", "name"), SAME)
def test_a_name_has_one_spelling_and_an_address_is_no_name(text: str, name: str | None) -> None:
    assert normalise_name(text) == name


ALLOWED = [
    (["api.test"], "api.test:443", True),
    (["api.test"], "api.test:80", True),
    (["api.test"], "api.test:8080", False),
    (["api.test"], "a.api.test:443", False),
    (["*.api.test"], "a.b.api.test:443", True),
    (["*.api.test"], "api.test:443", False),
    (["*.api.test"], "xapi.test:443", False),
    (["api.test:8443"], "api.test:8443", True),
    (["api.test:8443"], "api.test:443", False),
    (["api.test", "api.test:8443"], "api.test:443", True),
    (["BÜCHER.test."], "xn--bcher-kva.test:443", True),
]


@pytest.mark.parametrize(("allow", "destination", "allowed"), ALLOWED)
def test_a_policy_allows_names_and_ports(allow: list[str], destination: str, allowed: bool) -> None:
    host, _, port = destination.partition(":")
    assert read_policy(Egress(allow=allow)).allows(Destination(host=host, port=int(port))) is allowed


ADDRESSES = [
    ("8.8.8.8", True),
    ("2606:4700::1111", True),
    ("::ffff:8.8.8.8", True),
    ("64:ff9b::808:808", True),
    ("127.0.0.1", False),
    ("10.1.2.3", False),
    ("172.16.0.1", False),
    ("192.168.0.1", False),
    ("169.254.169.254", False),
    ("100.100.100.200", False),
    ("192.0.0.192", False),
    ("198.18.0.1", False),
    ("203.0.113.1", False),
    ("239.1.1.1", False),
    ("255.255.255.255", False),
    ("240.0.0.1", False),
    ("192.88.99.1", False),
    ("168.63.129.16", False),
    ("::", False),
    ("::1", False),
    ("::127.0.0.1", False),
    ("::ffff:127.0.0.1", False),
    ("::ffff:0:127.0.0.1", False),
    ("64:ff9b::7f00:1", False),
    ("64:ff9b:1::808:808", False),
    ("2002:7f00:1::", False),
    ("2001::1", False),
    ("2001:db8::1", False),
    ("3fff::1", False),
    ("fc00::1", False),
    ("fec0::1", False),
    ("fe80::1", False),
    ("2606:4700::1111%eth0", False),
    ("ff02::1", False),
    ("8.8.8", False),
]


@pytest.mark.parametrize(("address", "public"), ADDRESSES)
def test_only_addresses_of_the_public_internet_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_secret_goes_over_tls_to_a_port_that_is_allowed() -> None:
    policy = read_policy(
        Egress(allow=["api.test", "own.test:8080"], headers={"api.test": {"A": "$B"}, "own.test": {"A": "$B"}})
    )
    assert str(route_absolute(policy, "GET", "http://api.test/").destination) == "api.test:443"
    own = route_absolute(policy, "GET", "http://own.test:8080/")
    assert (own.scheme, own.host_header()) == ("https", "own.test:8080")
    with pytest.raises(Problem, match="would show this box the headers"):
        route_inner(policy, Destination(host="api.test", port=443), "TRACE", "/", "api.test")


def test_a_header_of_one_port_is_not_set_on_another() -> None:
    policy = read_policy(Egress(allow=["api.test", "api.test:8443"], headers={"api.test:8443": {"A": "$B"}}))
    assert route_absolute(policy, "GET", "https://api.test:8443/").headers
    assert not route_absolute(policy, "GET", "https://api.test/").headers
