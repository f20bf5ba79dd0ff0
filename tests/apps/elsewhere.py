"""An application that runs elsewhere: it tells what it received. Prints its port, serves until it is killed."""

import http.server
import itertools
import json

NUMBERS = itertools.count(1)


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        received = 0
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                received += len(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        else:
            received = len(self.rfile.read(length))
        # The request line itself: `self.path` has been tidied up.
        method, target, _ = self.raw_requestline.decode("latin-1").rstrip("\r\n").split(" ", 2)
        headers = [[name, value] for name, value in self.headers.items()]
        said = {"number": next(NUMBERS), "method": method, "target": target, "headers": headers, "body": received}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(body)

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
print(server.server_address[1], flush=True)
server.serve_forever()
