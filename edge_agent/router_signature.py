"""Who made a bundle: Ed25519 over the bytes of router.json, which holds the SHA-256 of all files. Opens no model."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import ConfigError, RouterError
from edge_agent.files import write_file
from edge_agent.router_card import CARD, RETAKE, read_card

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = f"{CARD}.sig"
KEY_BYTES = 32
INSTALL = "install it with `pip install 'edge-agent[signing]'`"


def is_public_key(text: str) -> bool:
    """Whether the text can be a public key: 32 bytes in base64."""
    try:
        return len(base64.b64decode(text, validate=True)) == KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def verify_signature(bundle: Path, public_key: str) -> None:
    """Checks that the card of a bundle is signed with the private half of `public_key`.

    :raises RouterError: when it is not, or the package `cryptography` is missing.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        needs = "router.public_key is set, and checking signatures needs the package cryptography"
        raise RouterError(f"{needs}; {INSTALL}") from error
    path = bundle / SIGNATURE
    try:
        signature = base64.b64decode(path.read_bytes().strip(), validate=True)
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key)).verify(signature, (bundle / CARD).read_bytes())
    except OSError as error:
        found = f"expected a signature, since router.public_key is set, found none ({error.strerror})"
        raise RouterError(f"{path}: {found}; sign the bundle, or take a signed one") from error
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise RouterError(f"{path}: expected a signature of {CARD} by router.public_key; {RETAKE}") from error


def sign(bundle: Path, private_key: Path) -> Path:
    """Writes the signature beside the card of a bundle; returns its path.

    :raises ConfigError: for a key that is none. :raises RouterError: when there is no card, or no room.
    """
    key = _private_key(private_key)
    read_card(bundle)
    try:
        write_file(bundle / SIGNATURE, base64.b64encode(key.sign((bundle / CARD).read_bytes())) + b"\n")
    except OSError as error:
        message = f"{bundle / SIGNATURE}: cannot be written: {error.strerror}"
        raise RouterError(f"{message}; sign a copy in a directory you may write") from error
    return bundle / SIGNATURE


def new_private_key(path: Path) -> None:
    """Writes a new private key, PEM, for its owner's eyes only. :raises ConfigError: when the file is there already."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise ConfigError(f"keys need the package cryptography; {INSTALL}") from error
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        message = f"{path}: expected to make a new file for the key: {error.strerror}; name another one"
        raise ConfigError(message) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)


def public_key_of(private_key: Path) -> str:
    """What goes into router.public_key on the devices. :raises ConfigError: for a key that is none."""
    from cryptography.hazmat.primitives import serialization

    raw = (
        _private_key(private_key).public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    )
    return base64.b64encode(raw).decode()


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise ConfigError(f"keys need the package cryptography; {INSTALL}") from error
    expected = f"{path}: expected an Ed25519 private key in PEM without a password"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(f"{expected}: {error}; make one with `edge-agent router keygen`") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{expected}, found another kind; make one with `edge-agent router keygen`")
    return key
