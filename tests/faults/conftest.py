"""A process to start commands from, and an S3-compatible server on loopback."""

from collections.abc import Iterator

import pytest

from tests.buckets import s3_bucket
from tests.faults.zygote import Zygote


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Starts `gradmap` commands in processes of their own."""
    made = Zygote(tmp_path_factory.mktemp("children"))
    yield made
    made.close()


#: Credentials of the server below; they must turn up nowhere.
KEY, SECRET = "AKIDOFTHEFAULTS", "secret-of-the-faults"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3-compatible server on loopback with one bucket, found through the environment alone."""
    with s3_bucket("faults", KEY, SECRET) as url:
        yield url
