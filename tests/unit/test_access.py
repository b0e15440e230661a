"""The key's file: who finds it, who may read it, and when it counts."""

import stat
import subprocess
import sys

import pytest

from dualpath.errors import UserError
from dualpath.serving import access

KEY = "a-key-of-sixteen-letters"


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv(access.KEY_FILE_VARIABLE, raising=False)
    return tmp_path


def test_the_key_is_found_by_the_port_of_this_machine_while_its_server_is_there():
    file = access.OwnFile(access.default_file(8001), KEY)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert access.key_for("localhost:8001") == access.key_for("127.0.0.1:8001") == access.key_for("0.0.0.0:8001") == KEY
    assert access.key_for("localhost:8002") is None
    assert access.key_for("192.0.2.1:8001") is None  # another machine's
    assert access.key_for("localhost") is None
    file.close()
    assert not file.path.exists()
    assert access.key_for("localhost:8001") is None


def test_a_file_whose_server_was_killed_does_not_count():
    code = f"from dualpath.serving import access; access.OwnFile(access.default_file(8001), {KEY!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert access.default_file(8001).read_text() == f"{KEY}\n"
    assert access.key_for("localhost:8001") is None


def test_the_next_server_on_a_port_replaces_the_file_and_the_one_before_leaves_it():
    before = access.OwnFile(access.default_file(8001), KEY)
    after = access.OwnFile(access.default_file(8001), KEY * 2)
    before.close()
    assert access.key_for("localhost:8001") == KEY * 2
    after.close()


def test_a_named_file_serves_any_address(tmp_path, monkeypatch):
    named = tmp_path / "key"
    named.write_text(KEY)
    named.chmod(0o600)
    monkeypatch.setenv(access.KEY_FILE_VARIABLE, str(named))
    assert access.key_for("scores.example.org:8001") == KEY


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        (KEY, 0o644, r"expected a file that other users cannot read, got mode 644"),
        ("short", 0o600, r"expected a key of at least 16"),
        ("sixteen letters,and=more", 0o600, r"expected a key of at least 16"),
    ],
)
def test_a_key_that_cannot_be_kept_is_refused(tmp_path, text, mode, reason):
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(mode)
    with pytest.raises(UserError, match=reason):
        access.read_key(tmp_path / "key")


def test_a_missing_key_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: expected a file with the server's key, got: .*No such file"):
        access.read_key(tmp_path / "nowhere")


def test_without_a_runtime_folder_the_key_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = access.OwnFile(access.default_file(8001), KEY)
    assert file.path == tmp_path / "cache" / "dualpath" / "8001.key"
    assert access.key_for("127.0.0.1:8001") == KEY
    file.close()


def test_keys_differ_and_fit_the_arguments():
    one, other = access.new_key(), access.new_key()
    assert one != other
    assert access._KEY.fullmatch(one)
    assert access.arguments("K") == [
        "--http-restricted-api=shared-memory,model-repository,trace,logging:dualpath-key=K",
        "--grpc-restricted-protocol=shared-memory,model-repository,trace,logging:dualpath-key=K",
    ]
