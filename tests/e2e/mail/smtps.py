"""An SMTP server behind TLS for one user: prints its port, then each mail that it takes as a line of JSON."""

import asyncio
import base64
import json
import ssl
import sys

LOGIN = "AUTH PLAIN " + base64.b64encode(b"\0lab user\0" + sys.argv[2].encode()).decode()


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    known, to = False, []
    writer.write(b"220 test ESMTP\r\n")
    while line := (await reader.readline()).decode().rstrip("\r\n"):
        answer = "250 ok"
        if line.startswith("EHLO"):
            answer = "250-test\r\n250 AUTH PLAIN"
        elif line == LOGIN:
            known, answer = True, "235 welcome"
        elif line == "QUIT":
            answer = "221 bye"
        elif not known:
            answer = "530 who are you?"
        elif line.startswith("RCPT TO:"):
            to.append(line.removeprefix("RCPT TO:"))
        elif line == "DATA":
            writer.write(b"354 go on\r\n")
            text = (await reader.readuntil(b"\r\n.\r\n")).decode()
            print(json.dumps({"to": to, "text": text}), flush=True)
        writer.write(answer.encode() + b"\r\n")
        await writer.drain()
    writer.close()


async def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
