"""The proxy's rule `error` answered at once, before the replies to what the client had sent ahead: no broker does that, and clients take
the answer for that of another request."""

import struct

from chaos.bench import raw
from chaos.network.layer import ProxyThread
from chaos.network.rules import Rule
from refbroker import testing


def test_an_error_waits_for_the_replies_before_it():
    with testing.broker(topics={"t": 1}) as broker:
        proxy = ProxyThread(broker.bootstrap, [Rule("error", api="Produce", error="NOT_LEADER_OR_FOLLOWER")])
        connection = raw.Connection(proxy.bootstrap)
        waits, refused = bytearray(raw.fetch_frame("t", 0, 1 << 20, wait_ms=500)), bytearray(raw.produce_frame("t", raw.batch(1, 10)))
        waits[8:12], refused[8:12] = struct.pack(">i", 101), struct.pack(">i", 102)
        connection.socket.sendall(waits + refused + waits)
        numbers = []
        for _ in range(3):
            with connection.socket.makefile("rb", buffering=0) as replies:
                (size,) = struct.unpack(">i", replies.read(4))
                reply = b""
                while len(reply) < size:
                    reply += replies.read(size - len(reply))
            numbers.append(struct.unpack(">i", reply[:4])[0])
        connection.close()
        proxy.close()
    assert numbers == [101, 102, 101]
