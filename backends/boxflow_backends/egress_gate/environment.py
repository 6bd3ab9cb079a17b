"""What does a program in the box find in its environment, so that it takes the way through the gate?"""

from __future__ import annotations

CA_BUNDLE = "ca-bundle.pem"
SOCKET = "gate.sock"
FORWARDER_PORT = 3128


def box_environment(directory_in_box: str, port: int = FORWARDER_PORT) -> dict[str, str]:
    """The variables to set for every command of the box.

    :param directory_in_box: where the gate's directory is in the box
    :param port: on which the forwarder listens
    """
    proxy = f"http://127.0.0.1:{port}"
    here = "localhost,127.0.0.1,::1"
    bundle = f"{directory_in_box.rstrip('/')}/{CA_BUNDLE}"
    return {
        # Both spellings: curl reads `http_proxy` in lower case only, some programs only the upper case.
        "HTTP_PROXY": proxy,
        "http_proxy": proxy,
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "ALL_PROXY": proxy,
        "all_proxy": proxy,
        "NO_PROXY": here,
        "no_proxy": here,
        # Node takes none of the above by itself: since 22.21 and 24 this makes it do so.
        "NODE_USE_ENV_PROXY": "1",
        # The gate's own authority beside the usual ones, by the names under which programs look for it.
        "SSL_CERT_FILE": bundle,  # OpenSSL and so Python, Ruby, Perl; Go; rustls-native-certs
        "REQUESTS_CA_BUNDLE": bundle,
        "CURL_CA_BUNDLE": bundle,
        "GIT_SSL_CAINFO": bundle,
        "PIP_CERT": bundle,
        "NODE_EXTRA_CA_CERTS": bundle,
        "DENO_CERT": bundle,
        "CARGO_HTTP_CAINFO": bundle,
        "AWS_CA_BUNDLE": bundle,
    }
