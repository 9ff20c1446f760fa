"""Shows each variable named in the arguments in every way that tests/e2e/canaries.rs looks for."""

import base64
import json
import os
import sys
import time
import urllib.parse

how, *names = sys.argv[1:]
values = [os.environ[name] for name in names]


def show(value):
    print(value)
    print("in a line: <%s>" % value, repr(value), json.dumps({"k": value}), json.dumps(value, ensure_ascii=False))
    print(urllib.parse.quote(value), urllib.parse.quote_plus(value), urllib.parse.quote(value, safe=""))
    for text in (value, "user:" + value, "ab" + value, value + "\n"):
        print(base64.b64encode(text.encode()).decode(), base64.urlsafe_b64encode(text.encode()).decode())
    print(base64.encodebytes(value.encode()).decode())
    for line in value.splitlines():
        print("  |", line)
    sys.stdout.flush()
    for part in (value[: len(value) // 2], value[len(value) // 2 :], "\n"):
        os.write(2, part.encode())
        time.sleep(0.02)


if how == "slowly":
    for number in range(100):
        for value in values:
            os.write(1, b"%d %s\n" % (number, value.encode()))
        time.sleep(0.05)
    sys.exit(0)
for value in values:
    show(value)
if how == "fail":
    raise ValueError("the password " + " ".join(values) + " is not accepted")
if how == "hang":
    while True:
        os.write(1, values[0].encode())
        time.sleep(0.05)
