"""What --learner_host may be, and which channel it means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlma.transport.addresses import Address, check_private_folder, is_on_this_machine, parse_address
from mlma.transport.certificates import key_and_certificate

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lab7:8001", Address("tls", "lab7", 8001)),
        ("localhost:8001", Address("tls", "localhost", 8001)),
        ("[::]:1", Address("tls", "::", 1)),
        ("unix:/run/x", Address("socket", "/run/x")),
    ],
)
def test_with_a_token_the_network_is_encrypted(text: str, expected: Address) -> None:
    assert parse_address(text, TOKEN, plaintext=False) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["localhost:8001", "127.0.0.1:8001", "127.9.9.9:8001", "[::1]:8001"])
def test_loopback_without_a_token_is_a_socket_of_this_user(text: str) -> None:
    address = parse_address(text, "", plaintext=False)
    assert address == Address("socket", f"/tmp/mlma-{os.geteuid()}/learner-8001")
    assert os.stat(Path(address.host).parent).st_mode & 0o777 == 0o700


@pytest.mark.parametrize("host", ["lab7", "0.0.0.0", "127.evil.example", "127.1", "localhost.evil.example", "[::]"])
def test_other_hosts_need_a_token(host: str) -> None:
    with pytest.raises(ValueError, match="needs a shared token: set MLMA_TOKEN"):
        parse_address(f"{host}:8001", "", plaintext=False)
    with pytest.raises(ValueError, match="could be guessed"):
        parse_address(f"{host}:8001", "a short one", plaintext=False)
    assert parse_address(f"{host}:8001", "", plaintext=True).channel == "plaintext"


@pytest.mark.parametrize(
    "text",
    ["localhost", "localhost:99999", "localhost:²", "localhost:٣", ":8001", "a b:1", "x/y:1", "a\nb:1", "lab7:-1"]
    + ["unix:", "unix:/" + 200 * "x", "unix:/a\0b", "localhost:" + 5000 * "1", "\udc80:1", ""],
)  # fmt: skip
def test_a_malformed_address_is_one_printable_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--learner_host=") as error:
        parse_address(text, TOKEN, plaintext=False)
    assert "allowed: " in str(error.value)
    assert str(error.value).isprintable() and len(str(error.value)) < 250


def test_addresses_of_this_machine_are_recognised() -> None:
    local = ["unix:/tmp/socket", "127.0.0.1:8001", "[::1]:8001"]
    remote = ["192.0.2.1:8001", "gpu-box:8001", "127.evil.example:8001"]
    found = [is_on_this_machine(parse_address(text, TOKEN, False)) for text in [*local, *remote]]
    assert found == [True] * 3 + [False] * 3


def test_a_folder_that_others_can_open_is_refused(tmp_path: Path) -> None:
    check_private_folder(tmp_path, "--learner_host=x")
    (tmp_path / "link").symlink_to(tmp_path)
    tmp_path.chmod(0o755)
    with pytest.raises(ValueError, match=r"mode 0755 .* allowed: a folder of yours with mode 0700"):
        check_private_folder(tmp_path, "--learner_host=x")
    with pytest.raises(ValueError, match="is not a folder"):
        check_private_folder(tmp_path / "link", "--learner_host=x")


def test_the_certificate_follows_from_the_token_alone() -> None:
    assert key_and_certificate(TOKEN) == key_and_certificate(TOKEN)
    assert key_and_certificate(TOKEN)[1] != key_and_certificate(TOKEN + "0")[1]
