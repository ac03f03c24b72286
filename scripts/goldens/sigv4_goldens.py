"""Requests signed by botocore, for src/storage/sigv4_test.cc: testdata/sigv4/botocore.json."""

import argparse
import datetime
import json
import pathlib
import urllib.parse
from unittest import mock

import botocore
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

NOW = datetime.datetime(2024, 2, 29, 23, 59, 58)
# The example keys of AWS's documentation: no secrets.
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

KEYS = ["model.safetensors", "a b/c=d+e.bin", "ünïcode/模型-00001.bin", "a/../b", "a//b", "~tilde_-.x", "100%/&?#[]@!$'()*,;:", "trailing/"]
QUERIES = [
    [],
    [["list-type", "2"], ["prefix", "opt/"], ["delimiter", "/"], ["continuation-token", "a+b/c=="]],
    [["uploads", ""]],
    [["partNumber", "12"], ["uploadId", "a b.c~d"]],
    [["b", "2"], ["a", "1"], ["B", "3"], ["a", ""], ["prefix", "ü &="]],
]


def case(service, host, path, query, method, headers, body, token, unsigned):
    """One request as botocore sends it: its canonical request and its Authorization header."""
    encoded = urllib.parse.quote(path, safe="/-._~")
    pairs = "&".join(f"{urllib.parse.quote(k, safe='-._~')}={urllib.parse.quote(v, safe='-._~')}" for k, v in query)
    request = AWSRequest(method, f"https://{host}{encoded}" + (f"?{pairs}" if pairs else ""), dict(headers), body)
    if service == "s3":
        request.context["payload_signing_enabled"] = not unsigned
        auth = S3SigV4Auth(Credentials(KEY, SECRET, token), "s3", "eu-west-1")
    else:
        auth = SigV4Auth(Credentials(KEY, SECRET, token), service, "eu-west-1")
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW):
        auth.add_auth(request)
    signed = {name.lower(): value for name, value in request.headers.items() if name != "Authorization"}
    names = request.headers["Authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    signed["host"] = host
    return {
        "service": service, "method": method, "path": path, "query": query, "body": body,
        "headers": {name: signed[name] for name in names}, "payload_hash": auth.payload(request) if service != "s3" else signed["x-amz-content-sha256"],
        "authorization": request.headers["Authorization"],
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=".", help="the repository's root")
    out = parser.parse_args().output / "testdata/sigv4/botocore.json"
    cases = [case("s3", "bucket.s3.eu-west-1.amazonaws.com", "/" + key, [], "GET", {"Range": "bytes=0-16777215"}, "", None, False) for key in KEYS]
    cases += [case("s3", "localhost:9000", "/bucket", query, "GET", {}, "", "session/token==", False) for query in QUERIES]
    cases += [case("s3", "localhost:9000", "/bucket/key", QUERIES[3], "PUT", {"Content-Type": "  text/a   b "}, "the body", None, unsigned) for unsigned in (False, True)]
    cases.append(case("sts", "sts.eu-west-1.amazonaws.com", "/", [], "POST", {"Content-Type": "application/x-www-form-urlencoded"}, "Action=GetCallerIdentity&Version=2011-06-15", None, False))
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"botocore": botocore.__version__, "secret_access_key": SECRET, "access_key_id": KEY, "region": "eu-west-1", "cases": cases}, indent=1, ensure_ascii=False) + "\n")
    print(f"{out.name}: {len(cases)} requests signed by botocore {botocore.__version__}")


main()
