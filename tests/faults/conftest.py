"""A process to start commands from, and an S3-compatible server on loopback."""

import logging
from collections.abc import Iterator

import pytest

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
    boto3 = pytest.importorskip("boto3")
    s3fs = pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    from zarr.core.sync import sync

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket="faults")
        yield "s3://faults"
        for filesystem in s3fs.S3FileSystem._cache.values():
            if filesystem.asynchronous and filesystem._s3 is not None:
                sync(filesystem._s3creator.__aexit__(None, None, None))
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
