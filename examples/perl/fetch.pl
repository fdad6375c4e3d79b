#!/usr/bin/env perl
# Fetch a page over TLS through a plain socket: fetch.pl HOST [PORT] [CA-FILE] [ADDRESS]
#
# Two socket options before connect are all the TLS there is in this application. When connect returns, the server has
# proved to be HOST, and from then on the socket is read and written like any other.
use strict;
use warnings;
use Errno qw(ENOPROTOOPT);
use IO::Handle;
use Socket qw(getaddrinfo MSG_NOSIGNAL SOCK_STREAM);

use constant {
    IPPROTO_TLS                   => 205,
    TLS_HOSTNAME                  => 85,
    TLS_TRUSTED_PEER_CERTIFICATES => 87,
    TLS_ERROR                     => 100,
};

if (@ARGV < 1 || @ARGV > 4) {
    print STDERR "usage: $0 HOST [PORT] [CA-FILE] [ADDRESS]\n";
    exit 2;
}
my ($host, $port, $ca_file, $address) = @ARGV;
my ($failure, @places) = getaddrinfo($address // $host, $port // 443, { socktype => SOCK_STREAM });
print STDERR $address // $host, ": $failure\n" if $failure;

# Try every address of the server, each with a socket of its own.
for my $place (@places) {
    socket(my $sock, $place->{family}, $place->{socktype}, $place->{protocol}) or next;
    if (setsockopt($sock, IPPROTO_TLS, TLS_HOSTNAME, "$host\0")
        && (!$ca_file || setsockopt($sock, IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, "$ca_file\0"))
        && connect($sock, $place->{addr})
        && send($sock, "GET / HTTP/1.1\r\nHost: $host\r\nConnection: close\r\n\r\n", MSG_NOSIGNAL)) {
        my $answer = do { local $/; <$sock> };
        if (!$sock->error) {
            my ($head, $body) = split /\r\n\r\n/, $answer, 2;
            print $head =~ s/\r\n.*//sr, "\n", $body;
            exit;
        }
    }
    my $error = $!;
    my $reason = $error == ENOPROTOOPT
        ? "run this application in a cgroup that ssa-agent serves"
        : getsockopt($sock, IPPROTO_TLS, TLS_ERROR) =~ s/\0//r;
    print STDERR "[Errno ", $error + 0, "] $error", $reason && ": $reason", "\n";
}
exit 1;
