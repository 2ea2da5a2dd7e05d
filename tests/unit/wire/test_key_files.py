"""Keys on a real disk: private, whole, never written over by chance, and refused when others could have read them."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from keepwarm_wire.credentials import CredentialError, KeyPair, to_base64url
from keepwarm_wire.key_files import (
    ADMIN_KEY_FILE,
    SERVER_KEY_FILE,
    KeyFileError,
    StoredKey,
    has_key_store,
    make_admin_key,
    make_key_store,
    read_key,
    read_key_store,
    replace_server_key,
    write_key,
)


def new_pair() -> KeyPair:
    return KeyPair.from_z85(*zmq.curve_keypair())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


KEY = StoredKey("client", "alice", KeyPair(b"p" * 32, b"q" * 32), b"s" * 32)
SECRET = to_base64url(KEY.pair.secret)


@pytest.fixture
def key_file(tmp_path: Path) -> Iterator[Path]:
    """A key file in a directory of its own, written under the worst umask."""
    path = tmp_path / "keys" / "client.key"
    previous = os.umask(0)
    try:
        write_key(path, KEY)
        yield path
    finally:
        os.umask(previous)


def test_a_key_is_read_back_and_was_private_from_the_start(key_file: Path) -> None:
    assert read_key(key_file) == KEY
    assert mode_of(key_file) == 0o600
    assert mode_of(key_file.parent) == 0o700
    assert [path.name for path in key_file.parent.iterdir()] == ["client.key"]


def test_a_key_that_is_there_is_not_written_over(key_file: Path) -> None:
    other = KEY._replace(name="bob")
    with pytest.raises(KeyFileError, match=r"client\.key exists already"):
        write_key(key_file, other)
    assert read_key(key_file) == KEY
    write_key(key_file, other, replace=True)
    assert read_key(key_file) == other
    assert mode_of(key_file) == 0o600
    assert [path.name for path in key_file.parent.iterdir()] == ["client.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666, 0o777])
def test_a_key_that_others_can_read_or_change_is_refused(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode 0{mode:o}.*chmod 600") as caught:
        read_key(key_file)
    assert str(key_file) in str(caught.value)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_key_where_others_can_put_files_is_refused(key_file: Path, mode: int) -> None:
    key_file.parent.chmod(mode)
    with pytest.raises(KeyFileError, match="Others can put files into"):
        read_key(key_file)
    with pytest.raises(KeyFileError, match="Others can put files into"):
        write_key(key_file.with_name("other.key"), KEY)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(key_file: Path) -> None:
    os.chown(key_file, 12345, -1)
    with pytest.raises(KeyFileError, match="belongs to user 12345, not to you"):
        read_key(key_file)
    os.chown(key_file, 0, -1)
    os.chown(key_file.parent, 12345, -1)
    with pytest.raises(KeyFileError, match="Others can put files into"):
        read_key(key_file)


def test_a_missing_key_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="There is no key at"):
        read_key(tmp_path / "nowhere" / "client.key")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_without_waiting(key_file: Path, make: object) -> None:
    assert callable(make)
    path = key_file.with_name("odd")
    make(path)
    with pytest.raises(KeyFileError, match=r"is no file|cannot be read"):
        read_key(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("secret: ", "secret ", "no 'field: value'"),
        (f"secret: {SECRET}\n", "", "lacks secret"),
        (f"secret: {SECRET}", f"secret: {SECRET[:-2]}", "is damaged"),
        (f"secret: {SECRET}", f"secret: {SECRET}\nsecret: {SECRET}", "twice"),
        ("role: client", "role: king", "its role"),
        ("name: alice", "name: a b", "is no name"),
        ("# A key", "ä", "no key file"),
        ("# A key", "#" * 5000, "too long"),
    ],
)
def test_a_damaged_key_is_refused_without_showing_it(key_file: Path, old: str, new: str, words: str) -> None:
    text = key_file.read_text(encoding="ascii")
    assert old in text
    key_file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(KeyFileError, match=words) as caught:
        read_key(key_file)
    assert SECRET[:20] not in str(caught.value)
    assert caught.value.__suppress_context__  # the parser's own error could quote the file


def test_fields_of_later_releases_are_ignored(key_file: Path) -> None:
    key_file.write_text(key_file.read_text(encoding="ascii") + "\nanimal: owl\n", encoding="ascii")
    assert read_key(key_file) == KEY


def test_a_name_cannot_add_a_field(tmp_path: Path) -> None:
    with pytest.raises(CredentialError):
        write_key(tmp_path / "keys" / "a.key", KEY._replace(name="alice\nserver: AAAA"))
    assert not (tmp_path / "keys").exists()


# ---------------------------------------------------------------- a scheduler's keys


def test_a_key_store_is_made_once_and_found_again(tmp_path: Path) -> None:
    directory, server, admin = tmp_path / "cluster" / "keys", new_pair(), new_pair()
    assert not has_key_store(directory)
    store = make_key_store(directory, server, admin)
    assert (store.server, store.admin) == (server, admin.public)
    assert make_key_store(directory, new_pair(), new_pair()) == store == read_key_store(directory)
    assert mode_of(directory) == 0o700
    assert {path.name: mode_of(path) for path in directory.iterdir()} == {SERVER_KEY_FILE: 0o600, ADMIN_KEY_FILE: 0o600}
    assert read_key(directory / ADMIN_KEY_FILE) == StoredKey("admin", "admin", admin, server.public)


def test_the_admin_key_may_be_carried_elsewhere(tmp_path: Path) -> None:
    directory, server = tmp_path / "keys", new_pair()
    make_key_store(directory, server, new_pair())
    (directory / ADMIN_KEY_FILE).unlink()
    store = read_key_store(directory)
    assert (store.server, store.admin) == (server, b"")
    assert make_key_store(directory, new_pair(), new_pair()) == store


def test_another_admin_key_is_made_only_where_there_is_none(tmp_path: Path) -> None:
    admin, server = new_pair(), new_pair()
    make_key_store(tmp_path, server, new_pair())
    with pytest.raises(KeyFileError, match=r"admin\.key exists already"):
        make_admin_key(tmp_path, admin)
    (tmp_path / ADMIN_KEY_FILE).unlink()
    store = make_admin_key(tmp_path, admin)
    assert (store.server, store.admin) == (server, admin.public)
    assert read_key(tmp_path / ADMIN_KEY_FILE).server == server.public


def test_an_admin_key_without_a_server_key_is_not_written_over(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    make_key_store(directory, new_pair(), new_pair())
    (directory / SERVER_KEY_FILE).unlink()
    with pytest.raises(KeyFileError, match=r"admin\.key exists already"):
        make_key_store(directory, new_pair(), new_pair())
    assert not has_key_store(directory)


def test_a_scheduler_without_keys_is_told_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="keepwarm init"):
        read_key_store(tmp_path)


@pytest.mark.parametrize("name", [SERVER_KEY_FILE, ADMIN_KEY_FILE])
def test_a_key_store_whose_key_others_can_read_is_refused(tmp_path: Path, name: str) -> None:
    make_key_store(tmp_path / "keys", new_pair(), new_pair())
    (tmp_path / "keys" / name).chmod(0o644)
    with pytest.raises(KeyFileError, match=f"{name} can be read"):
        read_key_store(tmp_path / "keys")


def test_a_key_store_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    make_key_store(tmp_path / "keys", new_pair(), new_pair())
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(KeyFileError, match="Other users can enter"):
        read_key_store(tmp_path / "keys")


@pytest.mark.parametrize(("name", "other"), [(SERVER_KEY_FILE, ADMIN_KEY_FILE), (ADMIN_KEY_FILE, SERVER_KEY_FILE)])
def test_keys_in_each_others_place_are_noticed(tmp_path: Path, name: str, other: str) -> None:
    make_key_store(tmp_path, new_pair(), new_pair())
    (tmp_path / name).write_bytes((tmp_path / other).read_bytes())
    with pytest.raises(KeyFileError, match="is the key of a"):
        read_key_store(tmp_path)


def test_a_new_server_key_is_known_to_the_admin_key(tmp_path: Path) -> None:
    admin, server = new_pair(), new_pair()
    make_key_store(tmp_path, new_pair(), admin)
    store = replace_server_key(tmp_path, server)
    assert store == read_key_store(tmp_path)
    assert (store.server, store.admin) == (server, admin.public)
    assert read_key(tmp_path / ADMIN_KEY_FILE).server == server.public
