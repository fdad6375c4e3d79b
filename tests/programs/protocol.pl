# As protocol.c, in another language that knows nothing of TLS.
use strict;
use warnings;
use IO::Handle;
use IO::Poll qw(POLLIN POLLOUT);
use Socket qw(:DEFAULT SO_PROTOCOL SO_ERROR SOCK_NONBLOCK SOCK_CLOEXEC);
use Errno qw(EINPROGRESS);

use constant { IPPROTO_TLS => 205, HOSTNAME => 85, TRUSTED => 87, CHAIN => 88, KEY => 89 };

my ($side, $nonblock, $port, $first, $second) = @ARGV;
STDOUT->autoflush(1);

sub ready {
    my ($socket, $events) = @_;
    my $poll = IO::Poll->new;
    $poll->mask($socket => $events);
    $poll->poll(20) == 1 or die "poll: $!";
}

sub receive {
    my $socket = shift;
    ready($socket, POLLIN);
    defined(recv($socket, my $buffer, 16, 0)) or die "recv: $!";
    return $buffer;
}

socket(my $fd, AF_INET, SOCK_STREAM | ($nonblock ? SOCK_NONBLOCK | SOCK_CLOEXEC : 0), IPPROTO_TLS) or die "socket: $!";
unpack("i", getsockopt($fd, SOL_SOCKET, SO_PROTOCOL)) == IPPROTO_TLS or die "SO_PROTOCOL";
my ($one, $two) = $side eq "client" ? (HOSTNAME, TRUSTED) : (CHAIN, KEY);
setsockopt($fd, IPPROTO_TLS, $one, "$first\0") or die "setsockopt: $!";
setsockopt($fd, IPPROTO_TLS, $two, "$second\0") or die "setsockopt: $!";
my $addr = sockaddr_in($port, INADDR_LOOPBACK);
if ($side eq "client") {
    if (!connect($fd, $addr)) {
        $! == EINPROGRESS or die "connect: $!";
        ready($fd, POLLOUT);
        $! = unpack("i", getsockopt($fd, SOL_SOCKET, SO_ERROR));
        $! == 0 or die "connect: $!";
    }
    send($fd, "hello", 0) == 5 or die "send: $!";
    print receive($fd), "\n";
} else {
    bind($fd, $addr) or die "bind: $!";
    listen($fd, 16) or die "listen: $!";
    print((sockaddr_in(getsockname($fd)))[0], "\n");
    ready($fd, POLLIN);
    accept(my $conn, $fd) or die "accept: $!";
    while (length(my $part = receive($conn))) {
        send($conn, $part, 0) or die "send: $!";
    }
}
