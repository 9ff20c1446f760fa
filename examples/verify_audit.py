#!/usr/bin/env python3
"""verify_audit.py FILE VKEY...: verifies an export of FetchML's audit log (docs/audit.md) by public keys alone.
Independent of FetchML's own code. Needs Python 3.9 and the package `cryptography`."""
import base64, hashlib, json, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

def sha(*parts): return hashlib.sha256(b"".join(parts)).digest()
def dump(value): return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
def need(holds, why):
    if not holds: raise ValueError(why)
def b64(text):
    raw = base64.b64decode(text, validate=True)
    need(base64.b64encode(raw).decode() == text, "base64 of another spelling")
    return raw
def vkey(text):
    name, number, key = text.split("+", 2)
    need(sha(name.encode(), b"\n", b64(key))[:4].hex() == number and b64(key)[0] == 1, "not a key")
    return name, b64(key)[1:], bytes.fromhex(number)

class Log:
    """What is known of the log: its size, the head of its chain, the full subtrees of its tree, keys, what is proven."""
    def __init__(self, header, trusted):
        need(header["format"] == "fetchml/audit-export/v1", "not an export")
        self.name, self.size, self.trusted = header["log_id"], header["after"], trusted
        self.head, self.tree = bytes.fromhex(header["prev_hash"]), [bytes.fromhex(node) for node in header["tree"]]
        self.keys, self.proven, self.closed = [vkey(key) for key in header["keys"]], 0, False
        need(len(self.tree) == bin(self.size).count("1"), "the tree does not fit the size")
        need([node.hex() for node in (self.head, *self.tree)] == [header["prev_hash"], *header["tree"]], "not lower case")
        if self.size: self.checkpoint(header["checkpoint"]); need(self.closed, "nobody vouches for the start")
        else: need(self.head == sha(b"fetchml/audit/genesis/v1\n", self.name.encode()), "not the start of the log")
    def event(self, sequence_num, prev_hash, event_hash, body):
        leaf = sha(b"\0", body.encode())
        own = sha(b"fetchml/audit/v1\n", sequence_num.to_bytes(8, "big"), self.head, leaf)
        need(sequence_num == self.size + 1 == json.loads(body)["sequence_num"], "an event is missing")
        need((prev_hash, event_hash) == (self.head.hex(), own.hex()), "the event was changed")
        node, rest = leaf, self.size
        while rest & 1: node, rest = sha(b"\1", self.tree.pop(), node), rest >> 1
        self.tree.append(node)
        self.size, self.head, self.closed = sequence_num, own, False
    def checkpoint(self, note):
        text, signatures = note.rsplit("\n\n", 1)
        origin, size, root, head, _time, *more = text.split("\n")
        need(signatures.endswith("\n"), "not a note")
        for line in signatures[:-1].split("\n"):
            dash, name, signature = line.split(" ")
            key = next((k for k in self.keys if (k[0], k[2]) == (name, b64(signature)[:4])), None)
            need(dash == "\u2014" and key, "not a signature by a listed key")
            Ed25519PublicKey.from_public_bytes(key[1]).verify(b64(signature)[4:], (text + "\n").encode())
            self.closed |= key in self.trusted
        top = self.tree[-1] if self.tree else sha()
        for node in self.tree[-2::-1]: top = sha(b"\1", node, top)
        need((origin, size) == ("fetchml-audit/" + self.name, str(self.size)), "a checkpoint of something else")
        need((b64(root), head) == (top, "head " + self.head.hex()), "the events are not those of the checkpoint")
        if self.closed: self.proven, new = self.size, [m[9:] for m in more if m.startswith("next-key ")]
        if self.closed: self.trusted = self.trusted + [vkey(key) for key in new]

def verify(file, keys):
    """The log, the first number that is not proven unchanged (none: all are), and why."""
    log, blame = None, 1
    try:
        for raw in file:
            line = raw[:-1].decode("utf-8", "replace")
            if log:
                is_note = line.startswith('{"checkpoint":') or line[:16] != '{"sequence_num":' and line.endswith('\\n"}')
                blame = (log.proven if is_note else log.size) + 1
            value = json.loads(line)
            need((dump(value) + "\n").encode() == raw, "a line of another spelling")
            if not log: log = Log(value, [vkey(key) for key in keys])
            elif "checkpoint" in value: log.checkpoint(**{"note": value.pop("checkpoint"), **value})
            else: log.event(**value)
        blame = (log.proven if log else 0) + 1
        need(log and log.closed, "no trusted checkpoint covers the last events")
        return log, None, "whole"
    except Exception as why:
        return log, blame, str(why) or type(why).__name__

if __name__ == "__main__":
    with open(sys.argv[1], "rb") as export: log, first_tampered, why = verify(export, sys.argv[2:])
    if first_tampered: sys.exit(f"event {first_tampered} is not proven unchanged: {why}")
    print(f"log {log.name} is proven up to event {log.size}")
