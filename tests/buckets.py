"""An S3-compatible server on loopback, for tests of stores and checkpoints in buckets."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_bucket(name: str, key: str, secret: str) -> Iterator[str]:
    """The URL of a new bucket, found through the environment alone; skips where S3 packages are absent."""
    boto3 = pytest.importorskip("boto3")
    s3fs = pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    from zarr.core.sync import sync

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket=name)
        yield f"s3://{name}"
        for filesystem in s3fs.S3FileSystem._cache.values():
            if filesystem.asynchronous and filesystem._s3 is not None:
                sync(filesystem._s3creator.__aexit__(None, None, None))
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
