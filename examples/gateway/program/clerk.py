"""An ordinary program: it asks for statements over HTTP, and imports nothing of Holdfast."""

import json
import os
import urllib.error
import urllib.request


def query(statement, *parameters):
    asked = {"tool": "books.query", "args": {"statement": statement, "parameters": list(parameters)}}
    request = urllib.request.Request(os.environ["HOLDFAST_DOOR"] + "/v1/call", json.dumps(asked).encode())
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["answer"]
    except urllib.error.HTTPError as refusal:
        return json.load(refusal)["error"]["what"]


print(query("select id, cents from invoices where paid = 0")["rows"])
print(query("update invoices set paid = 1 where id = ?1", 77)["changed"])
print(query("update invoices set paid = 1"))
print(query("drop table invoices"))
