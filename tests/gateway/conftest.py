"""What the tests of the model gateway share."""

from __future__ import annotations

from pathlib import Path

import pytest
from egress.harness import Certificates, make_certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory: Path = tmp_path_factory.mktemp("certificates")
    return make_certificates(directory, ["localhost"])
