"""Credentials in a store's URL are refused at every door, before anything, and printed nowhere."""

import pytest

from pipeline import load_config, open_cube
from pipeline.plan.config import ConfigError
from pipeline.store.lease import hold_lease
from pipeline.store.status import store_status
from pipeline.store.verify import verify_store
from tasks.cli import main
from tests.run.lab import write_checkpoint, write_config

SECRET = "SuperSecretKey123456789"

URLS = [
    f"s3://KEY:{SECRET}@bucket/cube.zarr",
    f"s3://{SECRET}@bucket/cube.zarr",
    f"s3://bucket/cube.zarr?X-Amz-Signature={SECRET}",
    f"https://host/cube.zarr?{SECRET}",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("door", [open_cube, store_status, verify_store, lambda url: hold_lease(url).__enter__()])
def test_a_url_with_credentials_is_refused(url, door):
    with pytest.raises(ConfigError, match="cube") as caught:
        door(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", URLS)
def test_commands_refuse_it_before_anything(tmp_path, capsys, url):
    write_checkpoint(tmp_path / "checkpoints/a", 1)
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("cube.zarr", url))
    with pytest.raises(ConfigError, match="store") as caught:
        load_config(config)
    assert SECRET not in str(caught.value)
    for words in (["run", str(config), "--local"], ["status", url], ["verify", url], ["status", str(config)]):
        assert main(words) == 2
        told = capsys.readouterr()
        assert SECRET not in told.out + told.err
