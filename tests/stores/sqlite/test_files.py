"""The files of a database: a link is not followed, and files that are deleted or replaced are noticed."""

import os
import shutil
import stat

import pytest
from contract import DONE, beginning, ending, everything, tokens

from server.config.check import parse
from server.core.errors import StoreError
from server.stores.sqlite.store import SqliteStore


@pytest.fixture
def path(tmp_path):
    """The path of the database, in a folder of its own."""
    (tmp_path / "own").mkdir()
    return tmp_path / "own" / "streams.db"


@pytest.fixture
def new(path):
    """Make stores on one file, not open yet."""
    tree = {
        "upstreams": [{"name": "local", "base_url": "http://127.0.0.1:1/v1"}],
        "models": [{"name": "*", "targets": ["local/*"]}],
        "store": {"kind": "sqlite", "path": str(path)},
    }
    return lambda: SqliteStore(parse(tree, {}))


def link(path, target):
    path.symlink_to(target)


def dangling(path, target):
    path.symlink_to(target.with_name("nothing"))


def wal(path, target):
    path.with_name("streams.db-wal").symlink_to(target)


def index(path, target):
    path.with_name("streams.db-shm").symlink_to(target)


def second_name(path, target):
    path.hardlink_to(target)


def folder(path, target):
    path.mkdir()


def pipe(path, target):
    os.mkfifo(path)


@pytest.mark.parametrize("kind", [link, dangling, wal, index, second_name, folder, pipe])
async def test_what_is_no_database(tmp_path, path, new, kind):
    """It is refused in one sentence, and nothing that it leads to is touched or made."""
    target = tmp_path / "somebody's"
    target.write_bytes(b"data")
    target.chmod(0o644)
    kind(path, target)
    with pytest.raises(StoreError, match=r"^The database \S+streams\.db cannot be opened: .*\.$"):
        await new().open()
    assert target.read_bytes() == b"data"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert not (tmp_path / "nothing").exists()


async def test_a_folder_may_be_a_link(tmp_path, path, new):
    """Only the files themselves may not be links: systemd makes the folder of a state so."""
    (tmp_path / "real").mkdir()
    path.parent.rmdir()
    path.parent.symlink_to(tmp_path / "real")
    store = new()
    await store.open()
    await store.create(beginning())
    assert await store.problem() is None
    await store.close()


def delete(path):
    path.unlink()


def delete_wal(path):
    path.with_name("streams.db-wal").unlink()


def delete_index(path):
    path.with_name("streams.db-shm").unlink()


def replace(path):
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


def replace_with_a_link(path):
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def delete_folder(path):
    shutil.rmtree(path.parent)


def replace_folder(path):
    shutil.copytree(path.parent, path.parent.with_name("copy"))
    shutil.rmtree(path.parent)
    path.parent.with_name("copy").rename(path.parent)


@pytest.mark.parametrize(
    "kind", [delete, delete_wal, delete_index, replace, replace_with_a_link, delete_folder, replace_folder]
)
async def test_gone(path, new, kind):
    """It is said, nothing new is begun, and nothing more is logged: no stream ends as if it were safe."""
    store = new()
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(2))
    assert await store.problem() is None
    kind(path)
    assert "was deleted or replaced" in (await store.problem() or "")
    with pytest.raises(StoreError, match="was deleted or replaced"):
        await store.create(beginning())
    with pytest.raises(StoreError, match="was deleted or replaced"):
        await log.append(tokens(1, first=3))
    assert await everything(log) == tokens(2)
    await store.close()


@pytest.mark.parametrize("kind", [delete, replace])
async def test_an_ending_looks_again(path, new, kind):
    """An ending is not logged even if nobody has noticed yet that the file is gone."""
    store = new()
    await store.open()
    log = await store.create(beginning())
    kind(path)
    with pytest.raises(StoreError, match="was deleted or replaced"):
        await log.append(DONE, ending())
    assert log.ending is None
    await store.close()


async def test_back_again(path, new):
    """Files that were moved away and back are the same ones."""
    store = new()
    await store.open()
    path.parent.rename(path.parent.with_name("away"))
    assert await store.problem() is not None
    path.parent.with_name("away").rename(path.parent)
    assert await store.problem() is None
    await store.create(beginning())
    await store.close()


async def test_noticed_without_being_asked(path, new):
    """The renewal of the lease looks, so that streams are refused even if nobody asks `/readyz`."""
    store = new()
    await store.open()
    path.unlink()
    await store.renew()
    with pytest.raises(StoreError, match="was deleted or replaced"):
        await store.create(beginning())
    await store.close()
