"""flip_bits.py VERIFIER EXPORT KEY STEP NAMED...: flips each STEP-th bit of an export, and fails unless VERIFIER, a file,
names the number that the caller expects for the line (NAMED: one for each line)."""
import importlib.util, io, sys

path, export, key, step, *named = sys.argv[1:]
spec = importlib.util.spec_from_file_location("verify_audit", path)
verifier = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verifier)
with open(export, "rb") as file:
    whole = file.read()
lines = [line + b"\n" for line in whole.split(b"\n")[:-1]]
assert len(lines) == len(named), "one number for each line"
log, first_tampered, why = verifier.verify(io.BytesIO(whole), [key])
assert first_tampered is None, why
flips = start = 0
for line, number in zip(lines, map(int, named)):
    for bit in range(0, len(line) * 8, int(step)):
        flipped = bytearray(whole)
        flipped[start + bit // 8] ^= 1 << bit % 8
        _, found, why = verifier.verify(io.BytesIO(flipped), [key])
        assert found == number, f"bit {bit} of line {line!r}: {found} instead of {number} ({why})"
        flips += 1
    start += len(line)
print(f"{log.size} events, {flips} flips")
