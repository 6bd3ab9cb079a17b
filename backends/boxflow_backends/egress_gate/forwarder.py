"""How does a program in the box reach the gate's socket, when all it knows is an HTTP proxy on 127.0.0.1?

A forwarder listens there and joins each connection with one to the socket. It decides nothing, so it may run in the box
as the box's own user. It is a script for whatever the image has: each of these does the same in its language.
"""

from __future__ import annotations

from boxflow_backends.egress_gate.environment import FORWARDER_PORT


def forwarder_argv(socket_path: str, port: int = FORWARDER_PORT) -> list[str]:
    """The program to run in the box for as long as the box lives.

    It writes `ready` and a line end to stdout once it listens. It exits with 1 when it cannot listen (the port is
    taken), and with 69 when the image has none of python3, perl, node and socat; a message on stderr says which.

    Netcats are left out: most know no unix sockets, and busybox's refuses connections that come twenty at a time.

    :param socket_path: the gate's socket as the box sees it
    """
    return ["sh", "-c", _CHOOSE, "boxflow-forwarder", socket_path, str(port), _PYTHON, _PERL, _NODE]


# Each language is tried with what its script needs: Debian's minimal packages lack half of a standard library.
# `-I`: nothing that lies in the working directory is imported.
_CHOOSE = r"""
python_script=$3 perl_script=$4 node_script=$5
have() { command -v "$1" >/dev/null 2>&1; }
if have python3 && python3 -I -c 'import selectors, socket' 2>/dev/null; then
    exec python3 -I -u -c "$python_script" "$1" "$2"
elif have perl && perl -MIO::Socket::INET -MIO::Socket::UNIX -MIO::Select -e 1 2>/dev/null; then
    exec perl -e "$perl_script" "$1" "$2"
elif have node; then
    exec node -e "$node_script" "$1" "$2"
fi
if ! have socat; then
    echo "boxflow: the way out of this box needs one of python3, perl, node or socat, and the image has none of them" \
        "(or not whole); add one to the image" >&2
    exit 69
fi
# It does not say when it listens, so look; and look before, lest the listener that is found is another's.
address=$(printf '0100007F:%04X' "$2")
listening() {
    while read -r _ local _ state _; do
        if [ "$local $state" = "$address 0A" ]; then return 0; fi
    done </proc/net/tcp
    return 1
}
if listening; then
    echo "boxflow: the forwarder cannot listen on port $2: another program does" >&2
    exit 1
fi
# Once one direction has ended the other has 600 s, as long as the gate bears silence.
set -- socat -t 600 "TCP-LISTEN:$2,bind=127.0.0.1,reuseaddr,fork,max-children=256,backlog=256" "UNIX-CONNECT:$1"
"$@" &
child=$!
trap 'kill $child 2>/dev/null' EXIT
trap 'exit 143' TERM INT HUP
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    if listening; then
        echo ready
        wait $child
        exit 1
    fi
    kill -0 $child 2>/dev/null || break
    sleep 0.1 2>/dev/null || sleep 1
done
echo "boxflow: the forwarder did not start: $*" >&2
exit 1
"""

# Both scripts below: one process, no threads (they would count against the box's limit of processes), and per direction
# at most LIMIT bytes; the end of one direction is passed on while the other goes on. When nobody serves the socket (the
# engine is down), the answer is 503, which clients know how to retry.
_PYTHON = r"""
import selectors, socket, sys

LIMIT = 262144
DOWN = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
selector = selectors.DefaultSelector()


class End:
    def __init__(self, sock):
        self.sock, self.out, self.events = sock, bytearray(), 0
        self.reads, self.writes, self.ending, self.closed = True, True, False, False
        sock.setblocking(False)

    def watch(self):
        if self.closed:
            return
        events = (READ if self.reads and len(self.peer.out) < LIMIT else 0) | (WRITE if self.out else 0)
        if events != self.events:
            if not self.events:
                selector.register(self.sock, events, self)
            elif not events:
                selector.unregister(self.sock)
            else:
                selector.modify(self.sock, events, self)
            self.events = events

    def close(self):
        if not self.closed:
            self.closed = True
            if self.events:
                selector.unregister(self.sock)
            self.sock.close()

    def receive(self):
        data = self.sock.recv(65536)
        self.peer.out += data
        if not data:
            self.reads, self.peer.ending = False, True
        self.peer.send()

    def send(self):
        if self.out:
            try:
                del self.out[: self.sock.send(self.out)]
            except BlockingIOError:
                return
        if self.ending and self.writes and not self.out:
            self.writes = False
            self.sock.shutdown(socket.SHUT_WR)


def accept():
    try:
        client, _ = listener.accept()
    except OSError:
        return
    upstream = socket.socket(socket.AF_UNIX)
    try:
        upstream.settimeout(10)
        upstream.connect(sys.argv[1])
    except OSError:
        upstream.close()
        try:
            client.send(DOWN)
        except OSError:
            pass
        client.close()
        return
    a, b = End(client), End(upstream)
    a.peer, b.peer = b, a
    a.watch()
    b.watch()


def serve(end, events):
    try:
        if events & WRITE and not end.closed:
            end.send()
        if events & READ and not end.closed and end.reads:
            end.receive()
        over = not (end.reads or end.writes or end.peer.reads or end.peer.writes)
    except BlockingIOError:
        over = False
    except OSError:
        over = True
    for one in (end, end.peer):
        one.close() if over else one.watch()


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    listener.bind(("127.0.0.1", int(sys.argv[2])))
except OSError as error:
    sys.exit("boxflow: the forwarder cannot listen on port %s: %s" % (sys.argv[2], error))
listener.listen(256)
listener.setblocking(False)
selector.register(listener, READ)
print("ready", flush=True)
while True:
    for key, events in selector.select():
        serve(key.data, events) if key.data else accept()
"""

_PERL = r"""
use strict;
use IO::Socket::INET;
use IO::Socket::UNIX;
use IO::Select;
use Errno qw(EAGAIN EINTR);

my ($path, $port) = @ARGV;
my $limit = 262144;
$SIG{PIPE} = "IGNORE";
my $listener = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $port, Listen => 256, ReuseAddr => 1)
    or do { print STDERR "boxflow: the forwarder cannot listen on port $port: $!\n"; exit 1 };
$listener->blocking(0);
my ($readable, $writable) = (IO::Select->new($listener), IO::Select->new);
my %ends;
$| = 1;
print "ready\n";

sub watch {
    my $end = shift;
    my $reads = $end->{reads} && length($end->{peer}{out}) < $limit;
    $reads ? $readable->add($end->{sock}) : $readable->remove($end->{sock});
    length($end->{out}) ? $writable->add($end->{sock}) : $writable->remove($end->{sock});
}

sub finish {
    my $end = shift;
    for my $one ($end, $end->{peer}) {
        $readable->remove($one->{sock});
        $writable->remove($one->{sock});
        delete $ends{fileno $one->{sock}};
        close $one->{sock};
    }
    delete $end->{peer}{peer};
    delete $end->{peer};
}

sub transmit {
    my $end = shift;
    if (length $end->{out}) {
        my $count = syswrite $end->{sock}, $end->{out}, 65536;
        if (!defined $count) { return $! == EAGAIN || $! == EINTR; }
        substr($end->{out}, 0, $count) = "";
    }
    if ($end->{ending} && $end->{writes} && !length $end->{out}) {
        $end->{writes} = 0;
        shutdown($end->{sock}, 1) or return 0;
    }
    return 1;
}

sub receive {
    my $end = shift;
    my $count = sysread $end->{sock}, my $data, 65536;
    if (!defined $count) { return $! == EAGAIN || $! == EINTR; }
    $end->{peer}{out} .= $data;
    if (!$count) { $end->{reads} = 0; $end->{peer}{ending} = 1; }
    return transmit($end->{peer});
}

sub connected {
    my $client = $listener->accept or return;
    my $upstream = IO::Socket::UNIX->new(Peer => $path);
    if (!$upstream) {
        syswrite $client, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        close $client;
        return;
    }
    $_->blocking(0) for $client, $upstream;
    my ($one, $other) = map { { sock => $_, out => "", reads => 1, writes => 1, ending => 0 } } $client, $upstream;
    ($one->{peer}, $other->{peer}) = ($other, $one);
    $ends{fileno $client} = $one;
    $ends{fileno $upstream} = $other;
    watch($_) for $one, $other;
}

sub settle {
    my ($end, $ok) = @_;
    my $peer = $end->{peer};
    if ($ok && ($end->{reads} || $end->{writes} || $peer->{reads} || $peer->{writes})) { watch($_) for $end, $peer; }
    else { finish($end); }
}

while (1) {
    my ($in, $out) = IO::Select->select($readable, $writable, undef) or next;
    for my $sock (@$out) {
        my $end = defined fileno $sock ? $ends{fileno $sock} : undef;
        settle($end, transmit($end)) if $end;
    }
    for my $sock (@$in) {
        if ($sock == $listener) { connected(); next; }
        my $end = defined fileno $sock ? $ends{fileno $sock} : undef;
        settle($end, receive($end)) if $end && $end->{reads};
    }
}
"""

_NODE = r"""
const net = require("net");
const [path, port] = process.argv.slice(-2);
const down = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => {
    const upstream = net.connect({ path, allowHalfOpen: true });
    let joined = false;
    client.on("error", () => upstream.destroy());
    client.on("close", () => { if (!client.readableEnded) upstream.destroy(); });
    upstream.on("error", () => (joined ? client.destroy() : client.end(down, () => client.destroy())));
    upstream.on("connect", () => {
        joined = true;
        client.pipe(upstream);
        upstream.pipe(client);
    });
});
server.on("error", (error) => {
    console.error("boxflow: the forwarder cannot listen on port " + port + ": " + error.message);
    process.exit(1);
});
server.listen({ host: "127.0.0.1", port: Number(port), backlog: 256 }, () => console.log("ready"));
"""
