"""The certificate of a run, with which learners and actors identify themselves to each other.

It follows from the token alone: whoever has the token can make the key and the certificate, and nobody else can. So a
run has one secret to distribute, and every launcher distributes it already. Both ends present the same certificate and
accept no other. Imports nothing heavy.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

SALT = b"mlma certificate of a run, version 1"
SCRYPT = {"n": 2**14, "r": 8, "p": 1}  # 50 ms: makes guessing a token expensive
FIRST_DAY, LAST_DAY = datetime.datetime(2000, 1, 1), datetime.datetime(9999, 12, 31)  # the token's life is the run's


def key_and_certificate(token: str) -> tuple[bytes, bytes]:
    """Private key and certificate in PEM; equal on every host, byte by byte."""
    seed = hashlib.scrypt(token.encode(), salt=SALT, dklen=32, n=SCRYPT["n"], r=SCRYPT["r"], p=SCRYPT["p"])
    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mlma run")])
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, FIRST_DAY, LAST_DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True).add_extension(key_id, critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)
    certificate = builder.add_extension(authority, critical=False).sign(key, None)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


@functools.cache
def tls_context(token: str, server: bool) -> ssl.SSLContext:
    """TLS 1.3 with the run's certificate on both sides."""
    key, certificate = key_and_certificate(token)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate is the run's, not a host's
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=certificate.decode())
    if server:
        context.num_tickets = 0  # no session is resumed
    pem = os.memfd_create("certificate")  # Python loads keys from files only; this one is never on a disk
    try:
        os.write(pem, key + certificate)
        context.load_cert_chain(f"/proc/self/fd/{pem}")
    finally:
        os.close(pem)
    return context
