"""Signatures of webhooks, with the published vector of the standard."""

from __future__ import annotations

import base64

import pytest

from serving import verify_webhook
from serving.errors import InvalidArgument, Unauthenticated
from serving.webhooks import read_secret, signature, signed_headers

# Of the reference implementations, https://github.com/standard-webhooks/standard-webhooks
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIME = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
HEADERS = {"Webhook-Id": ID, "Webhook-Timestamp": str(TIME), "Webhook-Signature": SIGNATURE}
OTHER = "whsec_" + base64.b64encode(b"x" * 24).decode()


def test_it_is_the_standards_signature() -> None:
    assert signature(read_secret(SECRET), ID, TIME, BODY) == SIGNATURE
    assert verify_webhook(HEADERS, BODY, SECRET, now=TIME) == {"test": 2432232314}
    assert verify_webhook(HEADERS, BODY.decode(), SECRET, now=TIME + 300) == {"test": 2432232314}


def test_any_of_several_secrets_and_signatures_is_enough() -> None:
    keys = [read_secret(OTHER), read_secret(SECRET)]
    headers = signed_headers(keys, ID, TIME, BODY)
    assert headers["webhook-signature"].split(" ")[1] == SIGNATURE
    for secret in (SECRET, OTHER, [OTHER, SECRET]):
        assert verify_webhook(headers, BODY, secret, now=TIME)
    asymmetric = {**HEADERS, "Webhook-Signature": f"v1a,bm9wZQ== v2,x {SIGNATURE}"}
    assert verify_webhook(asymmetric, BODY, [OTHER, SECRET], now=TIME)


def test_without_a_secret_it_is_not_signed() -> None:
    assert set(signed_headers((), ID, TIME, BODY)) == {"webhook-id", "webhook-timestamp"}


@pytest.mark.parametrize(
    ("headers", "body", "secret", "now"),
    [
        (HEADERS, BODY + b" ", SECRET, TIME),
        (HEADERS, BODY, OTHER, TIME),
        (HEADERS, BODY, SECRET, TIME + 301),
        (HEADERS, BODY, SECRET, TIME - 301),
        ({**HEADERS, "Webhook-Id": "msg_other"}, BODY, SECRET, TIME),
        ({**HEADERS, "Webhook-Timestamp": str(TIME + 1)}, BODY, SECRET, TIME),
        ({**HEADERS, "Webhook-Timestamp": "soon"}, BODY, SECRET, TIME),
        ({**HEADERS, "Webhook-Timestamp": "-1"}, BODY, SECRET, TIME),
        ({**HEADERS, "Webhook-Timestamp": "9" * 400}, BODY, SECRET, TIME),
        ({**HEADERS, "Webhook-Signature": ""}, BODY, SECRET, TIME),
        ({**HEADERS, "Webhook-Signature": SIGNATURE.removeprefix("v1,")}, BODY, SECRET, TIME),
        ({**HEADERS, "Webhook-Signature": "v1,ü"}, BODY, SECRET, TIME),
        ({**HEADERS, "Webhook-Signature": "v2" + SIGNATURE[2:]}, BODY, SECRET, TIME),
        ({"Webhook-Timestamp": str(TIME), "Webhook-Signature": SIGNATURE}, BODY, SECRET, TIME),
        ({}, BODY, SECRET, TIME),
    ],
)
def test_what_is_not_signed_so_is_refused(headers: dict[str, str], body: bytes, secret: str, now: int) -> None:
    with pytest.raises(Unauthenticated):
        verify_webhook(headers, body, secret, now=now)


def test_a_full_stop_cannot_move_from_the_id_to_what_follows() -> None:
    key = read_secret(SECRET)
    signed = signed_headers([key], f"{ID}.{TIME}", TIME, BODY)
    with pytest.raises(Unauthenticated, match="full stop"):
        verify_webhook(signed, BODY, SECRET, now=TIME)


@pytest.mark.parametrize(
    "text", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_MfKQ", "whsec_?" + "A" * 31, "whsec_" + "A" * 88]
)
def test_what_is_no_secret_is_named_without_saying_it(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        verify_webhook(HEADERS, BODY, text, now=TIME)
    assert len(text) < 10 or text.removeprefix("whsec_") not in str(refused.value)


def test_a_signed_body_that_is_no_json_is_named() -> None:
    headers = signed_headers([read_secret(SECRET)], ID, TIME, b"plain")
    with pytest.raises(InvalidArgument, match="no JSON"):
        verify_webhook(headers, b"plain", SECRET, now=TIME)
    with pytest.raises(InvalidArgument, match="no secret"):
        verify_webhook(headers, b"plain", [], now=TIME)
